# SPDX-License-Identifier: GPL-2.0-only
"""Observes a run in the reporting process, the controller or the only process: its tests, and why it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from pytest_iommu.core.outcomes import EXIT_SETUP, SetupError
from pytest_iommu.core.signals import Terminated
from pytest_iommu.report.no_guests import NoGuests
from pytest_iommu.report.rows import RUN_ROW, Collected, Finished, Row
from pytest_iommu.report.summary import GUEST, RULES, split

HANDED_BACK = "iommu"
"""Key under which a worker that ends early stores its data of tests: node id -> rules, guest."""

SETUP = f"{SetupError.kind}: "
"""First words of the reason when the set-up ended a run."""

MAXFAIL = "stopping after "
"""First words of pytest's and xdist's reason when --maxfail ended a run."""

WORKER_INTERRUPTED = "received keyboard-interrupt"
"""Last words of xdist's reason when a worker was interrupted."""


class Watch:
    """Plugin that collects a run's ``finished``; ``nodes`` maps the ids of tests that began to their workers.

    ``exit_status`` is that of an aborted run, ``by_signal`` says whether Ctrl-C or another signal aborted it.
    """

    def __init__(self) -> None:
        self.finished = Finished()
        self.nodes: dict[str, object] = {}
        self.exit_status = int(pytest.ExitCode.INTERRUPTED)
        self.by_signal = False
        self.no_guests = NoGuests()
        self._kind = ""
        self._broke_off = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the collected tests, without workers."""
        self.finished.collected = {nodeid: _known(*words) for nodeid, words in known_of(session.items).items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Record the collected tests, with workers: all of them report the same."""
        for nodeid in ids:
            self.finished.collected.setdefault(nodeid, Collected())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Record a worker's data of tests that did not run."""
        for nodeid, words in getattr(node, "workeroutput", {}).get(HANDED_BACK, {}).items():
            self.finished.collected[nodeid] = _known(*words)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that cannot be collected; a skipped file counts only if it has no tests."""
        if report.failed or (report.skipped and report.nodeid):
            self.finished.collectors.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one of a test's three reports."""
        self.finished.reports.append(report)
        self.no_guests.add(report)
        self.nodes[report.nodeid] = getattr(report, "node", None)

    def signalled(self, error: KeyboardInterrupt) -> None:
        """Record a signal. It ends the run, even if another one prevents pytest from reporting it."""
        if self.by_signal:
            return
        self.by_signal = self._broke_off = True
        self._kind, self.finished.ended = "interrupted", str(error) or "interrupted"
        # Like a shell's status for a process that a signal ended; for Ctrl-C pytest has its own.
        self.exit_status = 128 + error.number if isinstance(error, Terminated) else int(pytest.ExitCode.INTERRUPTED)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Record Ctrl-C, another signal, pytest.exit(), or a stop by pytest or xdist."""
        error = excinfo.value
        if isinstance(error, Terminated) or type(error) is KeyboardInterrupt:
            self.signalled(error)
            return
        self._kind, self.finished.ended = "interrupted", str(error) or "interrupted"
        self._broke_off = self.finished.ended.endswith(WORKER_INTERRUPTED)
        if isinstance(error, pytest.exit.Exception):
            self._broke_off = True
            self.finished.ended = error.msg
            if error.returncode is not None:
                self.exit_status = error.returncode
            self._kind = "setup-error" if error.returncode == EXIT_SETUP else "interrupted"

    def pytest_internalerror(self, excrepr: object) -> None:
        """Record an error of ours, of pytest or of another plugin."""
        self._kind, self._broke_off = "internal-error", True
        self.finished.ended = str(excrepr).strip().rpartition("\n")[2]

    @property
    def for_setup(self) -> bool:
        """Whether the run ended because no guest could be provided, or something that every test needs was lost."""
        return self.finished.ended.startswith(SETUP)

    @property
    def by_maxfail(self) -> bool:
        """Whether failures ended the run: with workers that looks like an interruption."""
        return self.finished.ended.startswith(MAXFAIL)

    def close(self, session: pytest.Session | None) -> list[Row]:
        """Return all rows at the end of the run. An aborted run is a failure of its own."""
        if session is not None and not self.finished.ended:
            self.finished.ended = str(session.shouldfail or session.shouldstop or "")
        rows = [*self.finished.rows(), *self.no_guests.rows()]
        if self.finished.ended and (self._broke_off or not any(row.outcome == "failed" for row in rows)):
            kind = self._kind or "interrupted"
            told = self.finished.ended.removeprefix(f"{kind}: ")
            # pytest's JUnit XML has an internal error already.
            rows.append(Row(RUN_ROW, "failed", kind=kind, text=f"{kind}: {told}", made=kind != "internal-error"))
        return rows


def known_of(items: Iterable[pytest.Item]) -> dict[str, tuple[str, str]]:
    """Return node id -> rules and guest, as stored by lifecycle.note_rules()."""
    found = {}
    for item in items:
        properties = dict(item.user_properties)
        found[item.nodeid] = (str(properties.get(RULES, "")), str(properties.get(GUEST, "")))
    return found


def _known(rules: str, guest: str) -> Collected:
    return Collected(split(rules), guest)
