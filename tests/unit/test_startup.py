# SPDX-License-Identifier: GPL-2.0-only
"""What every start of pytest imports where this package is installed, also in a project that does not use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

OURS = [
    "pytest_iommu",
    "pytest_iommu.core",
    "pytest_iommu.core.boot_modes",
    "pytest_iommu.core.outcomes",
    "pytest_iommu.core.paths",
    "pytest_iommu.core.rules",
    "pytest_iommu.core.settings",
    "pytest_iommu.newhooks",
    "pytest_iommu.plugin",
    "pytest_iommu.session",
    "pytest_iommu.session.activation",
    "pytest_iommu.session.again",
    "pytest_iommu.session.fixtures",
    "pytest_iommu.session.marks",
    "pytest_iommu.session.nodeids",
    "pytest_iommu.session.options",
]
PROGRAM = """
import json, sys
import pytest
pytest.main(sys.argv[1:])
print("\\nMODULES" + json.dumps(sorted(sys.modules)))
"""


def imported(folder: Path, options: list[str]) -> set[str]:
    """The modules of a pytest that runs one test of a project that does not know of us."""
    (folder / "test_mine.py").write_text("def test_mine(): pass\n")
    argv = [sys.executable, "-c", PROGRAM, "-q", "-pno:cacheprovider", *options]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    assert "1 passed" in done.stdout
    return set(json.loads(done.stdout.partition("MODULES")[2]))


def test_a_start_imports_little(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Options, marks and fixtures: no machine files, no YAML, no module of another package. It takes 20 ms."""
    off = [option for option in pytestconfig.getini("addopts") if option.startswith("-pno:")]
    without = imported(tmp_path, [*off, "-pno:iommu"])
    assert not any(name.startswith("pytest_iommu") for name in without)
    assert sorted(imported(tmp_path, off) - without) == OURS
