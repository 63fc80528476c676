# SPDX-License-Identifier: GPL-2.0-only
"""``git bisect run pytest-iommu bisect-step -- <pytest arguments>``: build, boot and test the tree one stands in.

A commit is good or bad only when its kernel built and booted and a test judged it; in any other
case the commit is skipped. This module is also the pytest plugin that such a step runs with.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_iommu.core.outcomes import EXIT_SETUP, IommuError
from pytest_iommu.report.rows import PAGE_TABLES
from pytest_iommu.session.run import RUN

if TYPE_CHECKING:
    from argparse import _SubParsersAction

GOOD, BAD, SKIP = "good", "bad", "skip"
STATUS = {GOOD: 0, BAD: 1, SKIP: 125}
"""What git-bisect(1) understands; 128 and more would end the bisection."""

JUDGES = ("fail", "kernel-crash", "kernel-hang", "unexpected-pass")
"""Kinds of failures that are a verdict on the kernel; a lost guest or a collection error is not."""

SUITE = "pytest_iommu.conformance"
_PLUGIN = "pytest_iommu.commands.cmd_bisect_step"
_WORDS = {
    int(pytest.ExitCode.INTERRUPTED): "the run was interrupted, or a test file cannot be collected",
    int(pytest.ExitCode.INTERNAL_ERROR): "a mistake in pytest or a plugin",
    int(pytest.ExitCode.USAGE_ERROR): "pytest does not take these arguments",
    int(pytest.ExitCode.NO_TESTS_COLLECTED): "no test checked anything",
    EXIT_SETUP: "only the set-up failed",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a commit: ``good``, ``bad`` or ``skip``, and why in words."""

    word: str
    why: str

    @property
    def status(self) -> int:
        """The exit status that tells git."""
        return STATUS[self.word]


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bisect-step", help="For git bisect run: build, boot and test the tree in the current directory."
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENT", help="Arguments for pytest (default: the whole suite)."
    )
    parser.set_defaults(run=lambda arguments: run(arguments.arguments, arguments.cache))


def run(given: Sequence[str], cache: Path) -> int:
    """Test the tree of the current directory with pytest's arguments ``given``, and print one line.

    What it returns tells ``git bisect run`` how to go on.
    """
    tree = Path.cwd()
    # Everything that pytest, plugins and tests leave behind goes here: the tree is git's.
    with tempfile.TemporaryDirectory(prefix="pytest-iommu-bisect-") as folder:
        results = Path(folder, "results.json")
        status = _call(command(given, tree, cache, results), Path(folder))
        verdict = judge(status, _read(results))
    if status < 0:
        print()  # pytest died in the middle of a line
    print(" ".join(filter(None, ["pytest-iommu:", verdict.word, _commit(tree)])) + f": {verdict.why}", flush=True)
    return verdict.status


def command(given: Sequence[str], tree: Path, cache: Path, results: Path) -> list[str]:
    """pytest's command line. The user's words overrule what stands before them, and not what stands behind."""
    return [
        *(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-p", _PLUGIN),
        *("--iommu-target=qemu", f"--iommu-cache={cache}"),
        *given,
        *(f"--rootdir={results.parent}", f"--iommu-kernel={tree}", f"--iommu-json={results}"),
        *("--iommu-strict", "--iommu-keep=none"),
    ]


def judge(status: int, found: Mapping[str, Any] | None) -> Verdict:
    """The verdict, of pytest's exit status and its --iommu-json; ``found`` is None where it wrote none."""
    if status == pytest.ExitCode.OK and found is not None:
        no_dump = ", no dump" if found["run"].get("judged") == [PAGE_TABLES] else ""
        return Verdict(GOOD, f"{found['counts']['passed']} passed{no_dump}")
    failed = [test for test in found["tests"] if test["outcome"] == "failed"] if found is not None else []
    telling = [test for test in failed if test["kind"] in JUDGES]
    if status == pytest.ExitCode.TESTS_FAILED and telling:
        one = telling[0]
        what = " ".join(one.get("broke", ())) or one["kind"]
        return Verdict(BAD, f"{len(telling)} failed, first {one['id'].rpartition('/')[2]}: {what}")
    if status < 0:
        return Verdict(SKIP, f"pytest was killed by signal {-status}")
    told = [str(found["run"]["ended"] or "")] if found is not None else []
    told += [str(test.get("text") or test["kind"]) for test in failed]
    first_line = next((text.partition("\n")[0].rstrip(": ") for text in told if text), "")
    return Verdict(
        SKIP, first_line.removeprefix("setup-error: ") or _WORDS.get(status, f"pytest ended with status {status}")
    )


def _call(argv: Sequence[str], folder: Path) -> int:
    """Run pytest where the user stands, what it says going to the user; its exit status, negative for a signal."""
    # git may point to its own repository in these, and what kernel builds ask git is meant for the tree.
    env = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    # A killed step must not leave a build or guests behind.
    guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    with subprocess.Popen([*guard, *argv], env=env, stdin=subprocess.DEVNULL) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            child.wait()  # the terminal told it, too
            raise


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _commit(tree: Path) -> str:
    """Hash and subject of the commit that is checked out; empty where git does not tell."""
    try:
        argv = ["git", "-C", str(tree), "log", "-1", "--format=%h %s"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Without tests on the command line pytest would look for some in the kernel tree."""
    known = early_config.known_args_namespace
    if not known.file_or_dir:
        # Both: the one is parsed again, the other says which conftest.py are loaded before that.
        args += ["--pyargs", SUITE]
        known.pyargs, known.file_or_dir = True, [SUITE]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Boot every kernel once before the tests: one that does not boot is for git to skip, not the tests' failure."""
    # -p plugins are registered before entry points, so this is called after plugin.py's hook, which builds.
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly or RUN not in config.stash:
        return
    run = config.stash[RUN]
    for key in run.kernels:
        try:
            run.pool.take(key)
        except IommuError as error:
            first = error.message.partition("\n")[0]
            pytest.exit(f"setup-error: the kernel does not boot ({key}): {first}", returncode=EXIT_SETUP)
    if config.pluginmanager.hasplugin("dsession"):
        run.pool.close()  # the workers have guests of their own
    else:
        run.pool.pause()
