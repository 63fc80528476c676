# SPDX-License-Identifier: GPL-2.0-only
"""The controller's output at the end of a run: the table of rules, retries, and an honest exit status."""

from __future__ import annotations

import time
from collections.abc import Generator
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.core import known_issues
from pytest_iommu.core.outcomes import EXIT_SETUP
from pytest_iommu.core.signals import Signals
from pytest_iommu.report import junit
from pytest_iommu.report.results import RunFacts
from pytest_iommu.report.rows import Count, Row, guests_of, judged, judged_text, rows_of
from pytest_iommu.report.summary import GUEST, SPOKEN
from pytest_iommu.report.tally import Tally, reasons, table, tally
from pytest_iommu.report.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_iommu.core.key import Key
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images import Artefacts

PYARGS = "the conformance suite is run by: pytest --pyargs pytest_iommu.conformance"


class Reporter:
    """Plugin of the reporting process: the controller, or the only process."""

    def __init__(self, settings: Settings, kernels: Mapping[Key, Artefacts], watch: Watch, signals: Signals) -> None:
        self._settings = settings
        self._kernels = kernels
        self._watch = watch
        self._signals = signals
        self._session: pytest.Session | None = None
        self._wrote = ""
        self._began = time.time()
        self._empty = False
        self._in_junit: set[str] = set()
        self._junit_is_written = False
        self._told: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remove the files of an earlier run at the start: if this run is killed, they would look like its own."""
        self._session = session
        if self._runs_tests(session.config):
            from pytest_iommu.report import files

            files.remove(self._settings)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        """Write the files before other plugins act: they may take long or be interrupted."""
        with self._signals.held():
            self._finish(session, exitstatus)
        result = yield
        self._junit_is_written = True
        return result

    def _finish(self, session: pytest.Session, exitstatus: int) -> None:
        """If only the set-up failed, the run has its own exit status; with --iommu-strict also a run without checks."""
        self._empty = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if exitstatus == pytest.ExitCode.INTERRUPTED and (self._watch.by_maxfail or self._watch.for_setup):
            # With workers -x ends the run as an interruption, without them as a failure.
            exitstatus = session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif exitstatus == pytest.ExitCode.OK and self._watch.no_guests:
            exitstatus = session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if exitstatus == pytest.ExitCode.TESTS_FAILED and self._only_infrastructure:
            session.exitstatus = EXIT_SETUP
        elif exitstatus == pytest.ExitCode.OK and self._strict_and_empty(session.config):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        if self._watch.by_signal and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED):
            session.exitstatus = self._watch.exit_status
        session.exitstatus = self._close(session.config, session, session.exitstatus)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Finish a run that ended before it began (the kernel does not build, for example) or during its end."""
        ended = self._watch.finished.ended
        if not self._runs_tests(config) or not ended or (self._junit_is_written and self._wrote == ended):
            return
        with self._signals.held():
            if self._wrote != ended:
                status = self._close(config, None, self._watch.exit_status)
                if self._session is not None and self._watch.by_signal:
                    self._session.exitstatus = status
            junit.write(config)

    def _close(self, config: pytest.Config, session: pytest.Session | None, status: int) -> int:
        """Write the files, even if the run failed or was interrupted, and return the exit status."""
        if not self._runs_tests(config):
            return status
        from pytest_iommu.report import files

        settings = self._settings
        rows = self._watch.close(session)
        gone = [] if self._watch.finished.ended or self._tally().nothing_checked else self._unmet()
        rows += gone
        self._told += [row.text for row in gone]
        if gone and status == pytest.ExitCode.OK:
            status = pytest.ExitCode.TESTS_FAILED
        kernels = {
            str(key): ("; ".join((kernel.kernel, *kernel.notes)), str(kernel.qemu))
            for key, kernel in self._kernels.items()
        }
        target = ":".join(filter(None, (settings.target, settings.target_argument)))
        facts = RunFacts(
            version=version("pytest-iommu"),
            target=target,
            seed=settings.seed,
            started=self._began,
            seconds=time.time() - self._began,
            exit_status=int(status),
            ended=self._watch.finished.ended,
        )
        self._wrote = facts.ended
        stated = {"target": target, "seed": str(settings.seed), "ended": facts.ended}
        new = [row for row in rows if row.nodeid not in self._in_junit]
        self._in_junit |= {row.nodeid for row in rows if row.made}
        junit.complete(config, new, junit.properties(guests_of(rows, kernels), stated), self._watch.nodes)
        problems = files.write(settings, rows, facts, kernels)
        self._told += problems
        return EXIT_SETUP if problems and status == pytest.ExitCode.OK else status

    def _unmet(self) -> list[Row]:
        """Return known issues without a test id that no test met: they are failures of their own."""
        names = {row.known for row in self._watch.finished.rows()}
        return [
            Row(f"pytest-iommu::known-issue-{entry.name}", "failed", kind="unexpected-pass", text=entry.gone, made=True)
            for entry in known_issues.unmet(self._settings.known, names)
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of rules and further notices."""
        for text in self._watch.no_guests.texts():
            terminalreporter.section("no guest", red=True)
            terminalreporter.write_line(text)
        for line in self._told:
            terminalreporter.write_line(line, red=True)
        found = self._tally()
        if self._settings.target is not None:
            self._summary(terminalreporter, found)
        if self._strict_and_empty(terminalreporter.config):
            terminalreporter.write_line("iommu: nothing was checked (--iommu-strict)", red=True)
        for line in reasons(found.skips):
            terminalreporter.write_line(f"iommu: {line}")
        if found.hardly_checked:
            _add_to_last_line(terminalreporter, found.hardly_checked)

    def _summary(self, terminalreporter: pytest.TerminalReporter, found: Tally) -> None:
        write = terminalreporter.write_line
        if found.rules:
            terminalreporter.section("IOMMU rules")
            for line in _parts(found.rules):
                write(line)
        if parts := judged(found.rules):
            write(f"iommu: {judged_text(parts)}")
        for line in self._spoken():
            write(f"iommu: {line}")
        for line in found.retried:
            write(f"guest-lost, tried again on a fresh guest: {line}", yellow=True)
        if found.kinds and set(found.kinds) != {"fail"}:
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(found.kinds.items()))
            write(f"failures by kind: {counted}", red=True)
        deselected = terminalreporter.stats.get("deselected")
        if self._empty and not deselected and not self._settings.listing:
            write(f"iommu: no test was collected; {PYARGS} --iommu-target={self._settings.target}")

    def _spoken(self) -> list[str]:
        """Say which dialects the kernels were found to speak, a line each."""
        found: dict[str, str] = {}
        for report in self._watch.finished.reports:
            properties = dict(report.user_properties)
            if SPOKEN in properties:
                found[str(properties.get(GUEST, ""))] = str(properties[SPOKEN])
        return [f"{guest} speaks {names}" for guest, names in sorted(found.items())]

    @property
    def _only_infrastructure(self) -> bool:
        """Whether the run failed, and no failure says anything about the kernel."""
        found = self._tally()
        return found.only_infrastructure or (bool(self._watch.no_guests) and not found.kinds)

    def _tally(self) -> Tally:
        """Return the totals of the tests reported so far."""
        return tally(rows_of(self._watch.finished.reports).values())

    def _runs_tests(self, config: pytest.Config) -> bool:
        """Whether this is a real run, since a listing has no results."""
        return not config.option.collectonly and not self._settings.listing

    def _strict_and_empty(self, config: pytest.Config) -> bool:
        return self._settings.strict and self._runs_tests(config) and self._tally().nothing_checked


def _add_to_last_line(terminalreporter: pytest.TerminalReporter, text: str) -> None:
    """Add a text to pytest's last line, ``1 passed, 20 skipped in 0.10s``."""
    build = terminalreporter.build_summary_stats_line

    def line() -> tuple[list[tuple[str, dict[str, bool]]], str]:
        parts, colour = build()
        return [*parts, (text, {"yellow": True})], "yellow" if colour == "green" else colour

    terminalreporter.build_summary_stats_line = line  # type: ignore[method-assign]


def _parts(rules: Mapping[str, Count]) -> list[str]:
    """The table of rules in two parts: those of the kernel's page tables, and those of the dump and of plugins."""
    from pytest_iommu.core.rules import DUMP, LATER, TABLES, V1

    tables = {rule: count for rule, count in rules.items() if rule in TABLES}
    dump = {rule: count for rule, count in rules.items() if rule not in TABLES}
    lines = ["the kernel's page tables:", *table(tables, TABLES, LATER)] if tables else []
    return lines + (["the dump:", *table(dump, {**DUMP, **V1}, LATER)] if dump else [])
