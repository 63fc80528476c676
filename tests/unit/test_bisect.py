# SPDX-License-Identifier: GPL-2.0-only
"""bisect-step: what git is told of a commit, and that git finds the planted one. No kernel: a tree of one file is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu import cli
from pytest_iommu.commands.cmd_bisect_step import BAD, GOOD, SKIP, STATUS, Verdict, command, judge

# A kernel of one word: it does not build, does not boot, or boots and has a dump that is right or wrong.
CONFTEST = """
from pathlib import Path
from pytest_iommu.images import Artefacts, Qemu
from pytest_iommu.core.outcomes import GuestLost, KernelCrash, SetupError
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.targets.registry import TargetKind

class Fake:
    name, memory = "fake", None
    def __init__(self, kernel): self.kernel = kernel
    def start(self):
        if "panic" in self.kernel: raise KernelCrash("panic while booting: no init found")
        return self
    def pause(self): pass
    def close(self): pass
    def evidence(self): return Evidence()

def pytest_iommu_targets(config):
    return {"fake": TargetKind(lambda settings, machine, key, kernel: Fake(kernel.kernel), live=False)}

def pytest_iommu_kernel(config, machine, flavour, progress):
    from pytest_iommu.session.run import RUN
    said = (config.stash[RUN].settings.kernel / "core.c").read_text()
    if "syntax" in said: raise SetupError("the kernel does not build (here):\\ncore.c:1: error")
    return Artefacts(machine.name, flavour, Path("Image"), Path("initrd"), Qemu(("qemu",), "10.0.0"), said)
"""
TEST = """
import os, signal
import pytest
from pytest_iommu.core.outcomes import CheckFailed, GuestLost

@pytest.mark.iommu_rules("RNG-4")
def test_dump(iommu_guest, iommu_settings):
    said = (iommu_settings.kernel / "core.c").read_text()
    if "wrong" in said: raise CheckFailed("wrong OA", ("RNG-4",))
    if "lost" in said: raise GuestLost("QEMU was killed")
    if "nothing" in said: pytest.skip("has no dump")
    if "killed" in said: os.kill(os.getpid(), signal.SIGKILL)
"""
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]


KERNEL = {"Kconfig": "", "Makefile": "VERSION = 7\nPATCHLEVEL = 3\n"}
"""What makes a directory a kernel tree."""


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in the tree, with the fake kernel's tests beside it."""
    tests, tree = tmp_path / "suite", tmp_path / "linux"
    for folder in (tests, tree):
        folder.mkdir()
    for name, text in KERNEL.items():
        (tree / name).write_text(text)
    (tests / "conftest.py").write_text(CONFTEST)
    (tests / "test_dump.py").write_text(TEST)

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_"))}
        return subprocess.run(argv, cwd=tree, env=env, capture_output=True, text=True, check=False)

    return run


def bisect_step(tmp_path: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "pytest_iommu.cli", f"--cache={tmp_path / 'cache'}", "bisect-step", "--"]
    return [*program, "--iommu-target=fake", str(tmp_path / "suite"), *more]


def commits(tree: Path, contents: Sequence[str]) -> list[str]:
    """A repository with a commit for each content of core.c; their hashes."""
    found = []
    for words in [["init", "-q"], *([content] for content in contents)]:
        if words != ["init", "-q"]:
            (tree / "core.c").write_text(words[0])
            subprocess.run([*GIT, "add", "core.c", *KERNEL], cwd=tree, check=True)
            words = ["commit", "-q", "-m", f"say {words[0]}"]
        subprocess.run([*GIT, *words], cwd=tree, check=True)
        if words[0] == "commit":
            told = subprocess.run([*GIT, "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True)
            found.append(told.stdout.strip())
    return found


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        ("right", 0, "pytest-iommu: good: 1 passed"),
        ("wrong", 1, "pytest-iommu: bad: 1 failed, first test_dump.py::test_dump: RNG-4"),
        ("syntax", 125, "pytest-iommu: skip: the kernel does not build (here)"),
        (
            "panic",
            125,
            "pytest-iommu: skip: the kernel does not boot (smmuv3/plain): panic while *",
        ),
        ("lost", 125, "pytest-iommu: skip: *QEMU was killed*"),
        ("nothing", 125, "pytest-iommu: skip: no test checked anything"),
        ("killed", 125, "pytest-iommu: skip: pytest was killed by signal 9"),
    ],
)
def test_one_step(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, content: str, status: int, line: str
) -> None:
    (tmp_path / "linux/core.c").write_text(content)
    done = step(*bisect_step(tmp_path))
    assert done.returncode == status, done.stdout + done.stderr
    told = [text for text in done.stdout.splitlines() if text.startswith("pytest-iommu:")]
    assert len(told) == 1
    assert done.stdout.endswith(told[0] + "\n")
    assert re.fullmatch(re.escape(line).replace(r"\*", ".*"), told[0]), told[0]
    assert {path.name for path in (tmp_path / "linux").iterdir()} == {"core.c", *KERNEL}


@pytest.mark.parametrize(("content", "status"), [("right", 0), ("wrong", 1), ("panic", 125)])
def test_workers_make_no_difference(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, content: str, status: int
) -> None:
    (tmp_path / "linux/core.c").write_text(content)
    done = step(*bisect_step(tmp_path, "-n1"))
    assert done.returncode == status, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "linux").iterdir()} == {"core.c", *KERNEL}


def test_tests_in_the_tree_leave_nothing_there(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    tree = tmp_path / "linux"
    (tmp_path / "suite").rename(tree / "suite")
    (tree / "core.c").write_text("wrong")
    before = sorted(tree.rglob("*"))
    program = bisect_step(tmp_path)[:-1]
    assert step(*program, "suite/test_dump.py").returncode == 1
    assert sorted(tree.rglob("*")) == before


def test_a_wrong_argument_judges_no_commit(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "linux/core.c").write_text("wrong")
    done = step(*bisect_step(tmp_path, "--iommu-machine=none"))
    assert done.returncode == 125
    assert done.stdout.endswith("pytest-iommu: skip: pytest does not take these arguments\n")


def test_git_finds_the_planted_commit_among_sixteen(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    # The eighth is what git tries first, and does not build; the fourteenth does not boot.
    contents = [f"right {number}" if number < 11 else f"wrong {number}" for number in range(17)]
    contents[8], contents[14] = "syntax 8", "panic 14"
    tree = tmp_path / "linux"
    hashes = commits(tree, contents)
    assert step("git", "bisect", "start", hashes[-1], hashes[0]).returncode == 0
    done = step("git", "bisect", "run", *bisect_step(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{hashes[11]} is the first bad commit" in done.stdout
    verdicts = re.findall(r"(?m)^pytest-iommu: (\w+) \w+ say (\w+ \d+): ", done.stdout)
    assert ("skip", "syntax 8") in verdicts
    assert all((word == "bad") == said.startswith("wrong") for word, said in verdicts), verdicts
    assert len(verdicts) <= 7
    assert step("git", "status", "--porcelain", "--ignored").stdout == ""


def results(*tests: dict[str, Any], ended: str = "", passed: int = 0, judged: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"run": {"ended": ended or None, "judged": list(judged)}, "counts": {"passed": passed}, "tests": list(tests)}


def failed(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": "a/b.yaml::s::c", "outcome": "failed", "kind": kind, **more}


LOST = failed("guest-lost", text="QEMU was killed\nby somebody")


@pytest.mark.parametrize(
    ("status", "found", "verdict"),
    [
        (0, results(passed=7), Verdict(GOOD, "7 passed")),
        (0, results(passed=7, judged=("page-tables", "dump")), Verdict(GOOD, "7 passed")),
        (0, results(passed=7, judged=("page-tables",)), Verdict(GOOD, "7 passed, no dump")),
        (0, None, Verdict(SKIP, "pytest ended with status 0")),
        (
            1,
            results(failed("fail", broke=["RNG-4", "LAY-7"])),
            Verdict(BAD, "1 failed, first b.yaml::s::c: RNG-4 LAY-7"),
        ),
        (1, results(LOST, failed("kernel-hang")), Verdict(BAD, "1 failed, first b.yaml::s::c: kernel-hang")),
        (1, results(failed("unexpected-pass")), Verdict(BAD, "1 failed, first b.yaml::s::c: unexpected-pass")),
        # With workers pytest says 1 of a file that cannot be collected.
        (1, results(failed("setup-error", text="no module x"), passed=3), Verdict(SKIP, "no module x")),
        (1, None, Verdict(SKIP, "pytest ended with status 1")),
        (2, results(failed("fail"), ended="Ctrl-C"), Verdict(SKIP, "Ctrl-C")),
        (3, results(failed("internal-error", text="")), Verdict(SKIP, "internal-error")),
        (4, None, Verdict(SKIP, "pytest does not take these arguments")),
        (5, results(), Verdict(SKIP, "no test checked anything")),
        (6, results(LOST), Verdict(SKIP, "QEMU was killed")),
        (6, results(ended="setup-error: no QEMU"), Verdict(SKIP, "no QEMU")),
        (127, None, Verdict(SKIP, "pytest ended with status 127")),
        (-9, results(failed("fail")), Verdict(SKIP, "pytest was killed by signal 9")),
    ],
)
def test_the_verdict(status: int, found: dict[str, Any] | None, verdict: Verdict) -> None:
    assert judge(status, found) == verdict


def test_no_verdict_ends_a_bisection() -> None:
    assert sorted(STATUS.values()) == [0, 1, 125]


def test_the_tree_is_not_for_the_arguments_to_choose() -> None:
    words = command(["--iommu-kernel=elsewhere", "-x"], Path("/tree"), Path("/cache"), Path("/tmp/x/results.json"))
    assert words.index("--iommu-kernel=/tree") > words.index("--iommu-kernel=elsewhere")
    assert words.index("--iommu-target=qemu") < words.index("-x")


@pytest.mark.parametrize("words", [["-k", "one"], ["-k", "one", "a/test_b.py"]])
def test_without_tests_the_whole_suite_is_run(
    step: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, words: list[str]
) -> None:
    # What pytest would find in the tree is not for us.
    (tmp_path / "linux/a").mkdir()
    (tmp_path / "linux/a/test_b.py").write_text("def test_one_of_the_tree(): pass")
    (tmp_path / "linux/core.c").write_text("right")
    done = step(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "pytest_iommu.commands.cmd_bisect_step",
            "-p",
            "no:cacheprovider",
            "--collect-only",
            "-q",
        ),
        *(f"--rootdir={tmp_path / 'suite'}", *words),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("basics.iommu.yaml::basics::one-page" in done.stdout) == (len(words) == 2)
    assert ("test_one_of_the_tree" in done.stdout) == (len(words) == 3)


def test_dashes_of_pytest_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    monkeypatch.setattr(
        "pytest_iommu.commands.cmd_bisect_step.run", lambda given, cache: got.append((given, cache)) or 0
    )
    assert cli.main(["--cache=/c", "bisect-step", "--", "-k", "one-page", "-x", "--pyargs", "a.b"]) == 0
    assert cli.main(["bisect-step"]) == 0
    assert got[0] == (["-k", "one-page", "-x", "--pyargs", "a.b"], Path("/c"))
    assert got[1][0] == []
