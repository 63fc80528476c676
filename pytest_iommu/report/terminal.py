# SPDX-License-Identifier: GPL-2.0-only
"""What the controller says at the end: the table of rules, retries, and an exit status that does not flatter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.report.summary import Tally, table
from pytest_iommu.settings import EXIT_SETUP

if TYPE_CHECKING:
    from pytest_iommu.run import Run

PYARGS = "the conformance suite is run by: pytest --pyargs pytest_iommu.conformance"


class Reporter:
    """A plugin of the process that reports: the controller, or the only one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tally = Tally()
        self._reports: list[pytest.TestReport] = []
        self._empty = False
        self._unwritten = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        self._tally.add(report)
        if self._run.settings.report is not None:
            self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Failures of the set-up alone have their own exit status; with --iommu-strict, so has a run without checks."""
        self._empty = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if exitstatus == pytest.ExitCode.TESTS_FAILED and self._tally.only_infrastructure:
            session.exitstatus = EXIT_SETUP
        elif exitstatus == pytest.ExitCode.OK and self._strict_and_empty(session.config):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        config = session.config.option
        if self._run.settings.report is not None and not config.collectonly and not config.iommu_list:
            self._write_report(session, self._run.settings.report)

    def _write_report(self, session: pytest.Session, directory: Path) -> None:
        """--iommu-report: also of a run that failed, or was interrupted."""
        from pytest_iommu.report.rules import document, write
        from pytest_iommu.rules import LATER, RULES

        kernels = {
            str(key): ("; ".join((kernel.kernel, *kernel.notes)), str(kernel.qemu))
            for key, kernel in self._run.kernels.items()
        }
        try:
            write(directory, document(self._reports, RULES, LATER, kernels))
        except OSError as error:
            self._unwritten = f"iommu: --iommu-report={directory} cannot be written: {error.strerror}"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = EXIT_SETUP

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of rules and what else the user has to know."""
        if self._unwritten:
            terminalreporter.write_line(self._unwritten, red=True)
        if self._run.settings.target is None:
            return
        from pytest_iommu.rules import LATER, RULES

        write, tally = terminalreporter.write_line, self._tally
        lines = table(tally, RULES, LATER)
        if lines:
            terminalreporter.section("IOMMU rules")
            for line in lines:
                write(line)
        for line in tally.retried:
            write(f"guest-lost, tried again on a fresh guest: {line}", yellow=True)
        if tally.kinds and set(tally.kinds) != {"fail"}:
            counted = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
            write(f"failures by kind: {counted}", red=True)
        config = terminalreporter.config
        deselected = terminalreporter.stats.get("deselected")
        if self._empty and not deselected and not config.getoption("iommu_list"):
            write(f"iommu: no test was collected; {PYARGS} --iommu-target={self._run.settings.target}")
        elif self._strict_and_empty(config):
            write("iommu: every test was skipped, nothing was checked (--iommu-strict)", red=True)
        if tally.tests and tally.nothing_checked:
            for reason, count in tally.skips.most_common(5):
                write(f"iommu: {count} skipped: {reason}")

    def _strict_and_empty(self, config: pytest.Config) -> bool:
        settings = self._run.settings
        asked = settings.strict and settings.target is not None
        return asked and self._tally.nothing_checked and not config.option.collectonly and not config.option.iommu_list
