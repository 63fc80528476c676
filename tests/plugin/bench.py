# SPDX-License-Identifier: GPL-2.0-only
"""A scenario file, a recording of it, and runs of pytest on that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from recording import Alter, as_it_is, record

from pytest_iommu.core.outcomes import IommuError

SCENARIOS = """\
suite: basics
defaults: {machines: [smmuv3], stages: [s1, s2], granule: 4K, timeout: 10s}
cases:
  - name: one-page
    rules: [RNG-1, RNG-4]
    do:
      - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rwc}
  - name: two-pages
    rules: [RNG-3]
    stages: [s1]
    do:
      - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw}
      - map: {iova: 0x1001000, pa: 0x41001000, size: 4K, prot: rw}
      - map: {iova: 0x1001000, pa: 0x41001000, size: 4K, prot: rw, errno: EEXIST}
  - name: needs-debug
    rules: [CON-1]
    stages: [s1]
    kernel: debug
    do:
      - map: {iova: 0x1000000, pa: 0x41000000, size: 4K, prot: rw}
"""


class Bench:
    """A directory with scenarios and their recording."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.scenarios = pytester.path / "basics.iommu.yaml"
        self.scenarios.write_text(SCENARIOS)
        self.recording = pytester.path / "recording"

    def record(self, alter: Alter = as_it_is, endings: Mapping[str, IommuError] | None = None) -> None:
        record(self.recording, self.scenarios, alter, endings)

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(f"--iommu-target=replay:{self.recording}", *arguments)

    def tell_reports(self) -> None:
        """Have the process that reports make a file ``reported-<test>`` when it has the last report of a test."""
        self.pytester.makeconftest(
            """
            import pathlib

            class Reported:
                def pytest_runtest_logreport(self, report):
                    if report.when == "teardown":
                        pathlib.Path("reported-" + report.nodeid.rpartition("::")[2]).touch()

            def pytest_configure(config):
                if not hasattr(config, "workerinput"):
                    config.pluginmanager.register(Reported())
            """
        )

    def artefacts(self) -> Path:
        return self.pytester.path / ".pytest-iommu" / "latest"
