# SPDX-License-Identifier: GPL-2.0-only
"""Projects that do not use this plugin and have it installed: every run is as without it, beside other plugins, too."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTS = """
import pytest

import mine

def test_passes(): assert mine.one() == 1
def test_fails(): assert mine.one() == 2
@pytest.mark.xfail(reason="mine")
def test_xfails(): assert False
@pytest.mark.skip(reason="mine")
def test_skips(): pass
"""

NOT_COMPARED = re.compile(r"\d+\.\d+ ?s\b|0x[0-9a-f]+|gw\d+|\bpid \d+")
"""Times, addresses and workers."""
TIMES = ("time", "timestamp", "hostname")
"""Attributes of the JUnit file."""


@dataclass(frozen=True)
class Variant:
    """A way to run the project. ``plugins`` are entry points that take part, and stay out of the other runs.

    ``shows`` is in the output when they do; ``status`` is pytest's. With ``ordered`` the output is the same each time.
    """

    options: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    tests: str = ""
    shows: str = "1 failed, 1 passed, 1 skipped, 1 xfailed"
    status: int = 1
    ordered: bool = True
    makes: str = "r.xml"


VARIANTS = {
    "nothing": Variant(makes=""),
    "junitxml": Variant(("--junitxml=r.xml",)),
    "rerunfailures": Variant(("--reruns=1", "--junitxml=r.xml"), ("rerunfailures",), shows="1 xfailed, 1 rerun"),
    "xdist": Variant(("-n2", "-x", "--junitxml=r.xml"), shows="stopping after 1 failures", status=2, ordered=False),
    "xdist to the end": Variant(("-n2", "--junitxml=r.xml"), ordered=False),
    "Ctrl-C": Variant(
        ("--junitxml=r.xml",),
        tests="def test_ends():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)",
        shows="KeyboardInterrupt",
        status=2,
    ),
    "a worker's Ctrl-C": Variant(
        ("-n1", "--junitxml=r.xml"),
        tests="def test_ends(): raise KeyboardInterrupt",
        shows="received keyboard-interrupt",
        status=2,
        ordered=False,
    ),
    "asyncio": Variant(
        ("--junitxml=r.xml",),
        ("asyncio",),
        tests="@pytest.mark.asyncio\nasync def test_awaits(): assert False\n"
        "@pytest.mark.asyncio\nasync def test_async(): pass",
        shows="2 failed, 2 passed",
    ),
    "timeout": Variant(
        ("--junitxml=r.xml",),
        ("timeout",),
        tests="@pytest.mark.timeout(0.5, func_only=True)\n"
        "def test_hangs():\n    import signal\n    while True: signal.pause()",
        shows="Timeout",
    ),
    "randomly": Variant(("--randomly-seed=3", "--junitxml=r.xml"), ("randomly",), shows="randomly-seed=3"),
    "html": Variant(("--html=r.html", "--self-contained-html"), ("html", "html_fixtures", "metadata"), makes="r.html"),
    "cov": Variant(("--cov=mine", "--junitxml=r.xml"), ("pytest_cov",), shows="TOTAL"),
    "a crash of the worker": Variant(
        ("-n1", "--junitxml=r.xml"),
        tests="def test_ends():\n    import os\n    os._exit(1)",
        shows="crashed while running",
        ordered=False,
    ),
    "collection alone": Variant(("--collect-only", "-q"), shows="4 tests collected", status=0, makes=""),
    "a wrong file": Variant(tests="1 / 0", shows="ZeroDivisionError", status=2, makes=""),
}


class Project:
    """The project in a folder of its own, running."""

    def __init__(self, folder: Path, variant: Variant, off: list[str]) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text("def one():\n    return 1\n")
        (folder / "test_mine.py").write_text(f"{TESTS}\n{variant.tests}\n")
        # What a pytest around this one has set must not reach it.
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *variant.options],
            cwd=folder,
            env={**ours, "PYTEST_ADDOPTS": " ".join(off), "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Where this pytest runs in the background of a script, SIGINT is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.status = -1
        self.output = ""

    def finish(self) -> None:
        """Wait for it."""
        self.output, _ = self._process.communicate()
        self.status = self._process.returncode

    @property
    def lines(self) -> list[str]:
        """The output, without what differs from run to run, and without the list of plugins."""
        lines = [self._same(line).strip("=_!- ") for line in self.output.splitlines()]
        return [line for line in lines if not line.startswith(("plugins: ", "metadata: "))]

    def junit(self) -> list[object]:
        """The JUnit file, without times and places."""
        found: list[object] = []
        for node in ElementTree.parse(self._folder / "r.xml").iter():
            kept = [(key, self._same(value)) for key, value in sorted(node.items()) if key not in TIMES]
            found.append((node.tag, kept, self._same(node.text or "").strip()))
        return sorted(found, key=repr)

    def _same(self, text: str) -> str:
        # The virtual environment's place has this project's name where it was cloned as it is called.
        return NOT_COMPARED.sub("", text.replace(str(self._folder), "FOLDER").replace(sys.prefix, "PREFIX"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_as_without_the_plugin(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    variant = VARIANTS[name]
    every = [option for option in pytestconfig.getini("addopts") if option.startswith("-pno:")]
    off = [option for option in every if option.removeprefix("-pno:") not in variant.plugins]
    assert len(off) == len(every) - len(variant.plugins)
    # Paths of one length: pytest fills its lines up to the right.
    with_us = Project(tmp_path / "1" / "project", variant, off)
    without = Project(tmp_path / "2" / "project", variant, [*off, "-pno:iommu"])
    for project in (with_us, without):
        project.finish()
    assert re.search(r"^plugins: .*\biommu-", with_us.output, re.MULTILINE) or "-q" in variant.options
    assert "iommu-" not in without.output
    assert variant.shows in without.output
    assert (with_us.status, without.status) == (variant.status, variant.status)
    if variant.ordered:
        assert with_us.lines == without.lines
    assert not any("iommu" in line for line in with_us.lines)
    if variant.makes == "r.xml":
        assert with_us.junit() == without.junit()
    elif variant.makes:
        assert (tmp_path / "1" / "project" / variant.makes).stat().st_size > 0
