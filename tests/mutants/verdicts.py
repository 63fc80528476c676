# SPDX-License-Identifier: GPL-2.0-only
"""A pytest plugin for the runs of run.py: writes to a file which tests failed how, and by which rules.

The file is JSON: ``passed`` is a count, ``failed`` a list of [node id, kind, [rule, ...]], the primary rule first;
``artefacts`` are the directories of the cache that the guests were started from.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import mutant
import pytest

from pytest_iommu.report.summary import BROKEN, KIND
from pytest_iommu.session.run import RUN

FILE = "IOMMU_MUTANTS_FILE"
"""Environment: where to write."""
RULE = "IOMMU_MUTANTS_RULE"
"""Environment: the rule that is to be named first."""
SECONDS = "IOMMU_MUTANTS_SECONDS"
"""Environment: once that rule was named, a run ends after so many seconds of tests."""
PATIENCE = 10
"""How many times SECONDS a run with failures may take that has not named it. A mutant may make every test time out."""


class Verdicts:
    """Collects on the process that sees all reports: the controller of workers, or the only one."""

    def __init__(self) -> None:
        self._passed = 0
        self._failed: list[tuple[str, str, list[str]]] = []
        self._began = 0.0
        self._named = False
        self._session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remember what to stop."""
        self._session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one report."""
        self._began = self._began or time.monotonic()
        if report.failed:
            properties = {str(name): str(value) for name, value in report.user_properties}
            rules = [rule for rule in properties.get(BROKEN, "").split(",") if rule]
            self._failed.append((report.nodeid, properties.get(KIND, "fail"), rules))
            self._named |= mutant.first_named(self._failed[-1][1], rules) == os.environ.get(RULE)
        elif report.when == "call":
            self._passed += report.passed
        limit = float(os.environ[SECONDS]) * (1 if self._named else PATIENCE)
        if self._failed and self._session and time.monotonic() - self._began > limit:
            self._session.shouldstop = "long enough for a mutant"

    def pytest_sessionfinish(self) -> None:
        """Write the file; one that is not there tells that pytest came to no end."""
        kernels = self._session.config.stash[RUN].kernels.values() if self._session else ()
        files = [file for one in kernels for file in (one.image, one.initrd, *one.modules)]
        found = {"passed": self._passed, "failed": self._failed, "artefacts": sorted({str(f.parent) for f in files})}
        Path(os.environ[FILE]).write_text(json.dumps(found))


def pytest_configure(config: pytest.Config) -> None:
    """Workers report to the controller."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Verdicts(), "iommu-mutants")
