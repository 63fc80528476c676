# SPDX-License-Identifier: GPL-2.0-only
"""Watches a run on the process that reports, the controller of workers or the only one: tests, and why it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from pytest_iommu.core.outcomes import EXIT_SETUP
from pytest_iommu.core.signals import Terminated
from pytest_iommu.report.no_guests import ENDED, NoGuests
from pytest_iommu.report.rows import RUN_ROW, Collected, Finished, Row
from pytest_iommu.report.summary import GUEST, RULES, split

HANDED_BACK = "iommu"
"""Where a worker that ends early puts what it knows of the tests: node id -> rules by comma, guest."""

MAXFAIL = "stopping after "
"""How pytest and xdist begin the reason when --maxfail ended a run."""

WORKER_INTERRUPTED = "received keyboard-interrupt"
"""How xdist ends the reason when a worker was interrupted."""


class Watch:
    """A plugin that makes a run's ``finished``; ``nodes`` are the workers of tests that began, by node id.

    ``exit_status`` is that of a run that was broken off, ``by_signal`` says that Ctrl-C or another signal did that.
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
        """What is to be run, without workers."""
        self.finished.collected = {nodeid: _known(*words) for nodeid, words in known_of(session.items).items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """What is to be run, with workers: all of them say the same."""
        for nodeid in ids:
            self.finished.collected.setdefault(nodeid, Collected())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a worker knows of tests that did not run."""
        for nodeid, words in getattr(node, "workeroutput", {}).get(HANDED_BACK, {}).items():
            self.finished.collected[nodeid] = _known(*words)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected; that it is skipped counts for its tests only if it has none."""
        if report.failed or (report.skipped and report.nodeid):
            self.finished.collectors.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of a test's three reports."""
        self.finished.reports.append(report)
        self.no_guests.add(report)
        self.nodes[report.nodeid] = getattr(report, "node", None)

    def signalled(self, error: KeyboardInterrupt) -> None:
        """A signal came. It ends the run, even if another one hinders pytest from saying so."""
        if self.by_signal:
            return
        self.by_signal = self._broke_off = True
        self._kind, self.finished.ended = "interrupted", str(error) or "interrupted"
        # As a shell tells of a process that a signal has ended; of Ctrl-C pytest has its own.
        self.exit_status = 128 + error.number if isinstance(error, Terminated) else int(pytest.ExitCode.INTERRUPTED)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C, another signal, pytest.exit(), or pytest's and xdist's own ways to stop."""
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
        """A mistake of ours, of pytest or of another plugin."""
        self._kind, self._broke_off = "internal-error", True
        self.finished.ended = str(excrepr).strip().rpartition("\n")[2]

    @property
    def for_no_guest(self) -> bool:
        """Whether the run ended because no guest could be had."""
        return self.finished.ended.startswith(ENDED)

    @property
    def by_maxfail(self) -> bool:
        """Whether failures ended the run: with workers that comes as an interruption."""
        return self.finished.ended.startswith(MAXFAIL)

    def close(self, session: pytest.Session | None) -> list[Row]:
        """All rows at the end of the run. That it was broken off is a failure of its own."""
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
    """Node id -> rules by comma and guest, as lifecycle.note_rules() put them down."""
    found = {}
    for item in items:
        properties = dict(item.user_properties)
        found[item.nodeid] = (str(properties.get(RULES, "")), str(properties.get(GUEST, "")))
    return found


def _known(rules: str, guest: str) -> Collected:
    return Collected(split(rules), guest)
