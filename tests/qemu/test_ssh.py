# SPDX-License-Identifier: GPL-2.0-only
"""The ssh target against a kernel of ours: an `ssh` on PATH that does what sshd and a shell on a board would.

It takes the files, and becomes a QEMU whose agent's port is its stdin and stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.key import Key
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops
from pytest_iommu.guest.virtual import VirtualGuest
from pytest_iommu.images import source
from pytest_iommu.images.store import Store
from pytest_iommu.session.run import RUN
from pytest_iommu.targets.local import LocalHost
from pytest_iommu.targets.qemu import Boot
from pytest_iommu.targets.running import DEBUGFS, MODULE, RunningTarget, There

SSH = """\
#!{python}
import json, os, sys
board = json.load(open({board!r}))
host, command = sys.argv[-2:]
assert host == "board" and "-oBatchMode=yes" in sys.argv, sys.argv
if "pytest-iommu." not in command:
    sys.exit("ssh: connect to host board port 22: Connection refused")
print("Welcome to the board", flush=True)
print("pytest-iommu", board["uid"], "aarch64", "/tmp/none", flush=True)
print("Linux version of the board", flush=True)
print("loaded", flush=True)
stdin = open(0, "rb", buffering=0, closefd=False)
while words := stdin.readline().split():
    left = int(words[0])
    while left:
        left -= len(stdin.read(left))
    print("taken", flush=True)
os.execvpe(board["argv"][0], board["argv"], {{**os.environ, **board["env"]}})
"""


class Board:
    """A board that ``ssh board`` reaches, for a pytest of its own."""

    def __init__(self, boot: Boot, cache: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.console = pytester.path / "console.txt"
        words = boot.command(("-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console"))
        argv = ["stdio,id=agent,signal=off" if word == "null,id=agent" else word for word in words]
        folder = pytester.mkdir("bin")
        self._description = folder / "board.json"
        self._said = {"argv": argv, "env": dict(boot.env), "uid": 0}
        self.is_user(0)
        program = folder / "ssh"
        program.write_text(SSH.format(python=sys.executable, board=str(self._description)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        self._pytester = pytester
        self._cache = cache

    def is_user(self, uid: int) -> None:
        """Who one is there."""
        self._description.write_text(json.dumps({**self._said, "uid": uid}))

    def run(self, *arguments: object) -> pytest.RunResult:
        """A pytest on it."""
        options = ("--iommu-target=ssh://board", f"--iommu-cache={self._cache}", "-rs")
        return self._pytester.runpytest_subprocess(*options, *map(str, arguments))


@pytest.fixture
def board(boot: Boot, iommu_settings: Settings, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(boot, iommu_settings.cache, pytester, monkeypatch)


def test_scenarios_on_a_board(board: Board) -> None:
    """Software tables and domains of hardware that is there; what QEMU has to be for is skipped."""
    suite = paths.conformance()
    files = (suite / "scenarios" / "basics.iommu.yaml", suite / "test_default_domains.py", suite / "test_buffers.py")
    result = board.run(*files, "-v")
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) > 50, outcomes
    result.stdout.fnmatch_lines([f"*test_dma_comes_to_where_the_dump_says?{stage}? PASSED*" for stage in ("s1", "s2")])
    assert outcomes.keys() == {"passed", "skipped"}
    result.stdout.fnmatch_lines(
        ["iommu: target ssh, *", "iommu: nobody sees its memory: EXPECTED is judged*", "SKIPPED*under QEMU*"]
    )


def test_the_kselftest_on_a_board(board: Board, iommu_settings: Settings) -> None:
    """Its programs are compiled for what the board says that it is, and put there by the agent."""
    if source.path(iommu_settings, Store(iommu_settings.cache)) is None:
        pytest.skip("there is no kernel tree to build the kselftest with")
    listed = paths.conformance() / "kselftest.iommu-ksft"
    result = board.run(f"{listed}::ptdump_cases", f"{listed}::ptdump_storm", "-k", "one-page or storm.amdv1.freed")
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) > 10, outcomes
    assert outcomes.keys() <= {"passed", "skipped", "deselected"}


def test_a_panic_of_a_board(board: Board, pytester: pytest.Pytester) -> None:
    """There is no console: the connection ends, and nobody answers who could be asked for the kernel's log."""
    pytester.makepyfile(
        """
        from pytest_iommu.guest import ops

        def test_panic(iommu_guest):
            iommu_guest.run([ops.write_file("/proc/sysrq-trigger", b"c")])
        """
    )
    result = board.run("test_a_panic_of_a_board.py")
    result.stdout.fnmatch_lines(["*guest-lost: lost ssh://board while it ran a batch*"])
    assert "sysrq triggered crash" in board.console.read_text(errors="replace")


def test_a_warning_of_a_board(board: Board, pytester: pytest.Pytester) -> None:
    """It is seen with the agent's next answer, and the machine goes on: what tainted it is held against one test."""
    pytester.makepyfile(
        """
        from pytest_iommu.guest import ops

        def test_warning(iommu_guest):
            iommu_guest.run([ops.write_file("/proc/sys/kernel/tainted", b"512")])

        def test_after(iommu_guest):
            assert iommu_guest.run([ops.read_file("/proc/version")]).results[0].ok
        """
    )
    result = board.run("test_a_warning_of_a_board.py")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*kernel-crash: taint while it ran a batch: the kernel is tainted: warned*"])


def test_a_board_whose_root_we_are_not(board: Board) -> None:
    board.is_user(1000)
    result = board.run(paths.conformance() / "scenarios" / "basics.iommu.yaml", "-x")
    result.stdout.fnmatch_lines(
        ["*setup-error: no guest of smmuv3/plain: the user id on ssh://board is 1000, but the agent has to be root*"]
    )


def test_one_board_has_one_test_at_a_time(board: Board) -> None:
    result = board.run(paths.conformance() / "scenarios" / "basics.iommu.yaml", "-n2", "-x")
    result.stdout.fnmatch_lines(
        ["*setup-error: no guest of smmuv3/plain: there is only one ssh://board*run without -n*"]
    )


def test_the_module_is_loaded_where_it_is_not(guest: VirtualGuest, request: pytest.FixtureRequest) -> None:
    """The target's own steps, in a guest whose init had loaded it."""
    run = request.config.stash[RUN]
    machine = run.machine(guest.machine.name)
    target = RunningTarget(LocalHost(), run.settings, machine, Key(machine.name, "plain"), 4096)
    target._there = There("0", machine.arch, "/modules", "")
    listed = f"{DEBUGFS}/{MODULE}"
    assert [one.ok for one in guest.run([ops.rmmod(MODULE), ops.stat(listed)]).results] == [True, False]
    for loaded in (MODULE, ""):
        guest.module = ""  # type: ignore[attr-defined]
        target._load(guest)  # type: ignore[arg-type]
        assert guest.module == loaded, "loaded again, or what was there is taken out at the end"  # type: ignore[attr-defined]
    target._devices(guest)  # type: ignore[arg-type]
    assert "edu0" not in guest.absent  # type: ignore[attr-defined]
    assert guest.run([ops.rmmod(MODULE)]).results[0].ok


def test_recorded_on_a_board_and_replayed(board: Board, pytester: pytest.Pytester) -> None:
    scenarios = paths.conformance() / "scenarios" / "files.iommu.yaml"
    first = board.run(scenarios, "--iommu-record=rec").parseoutcomes()
    again = pytester.runpytest_subprocess("--iommu-target=replay:rec", str(scenarios)).parseoutcomes()
    assert first == again
    assert first["passed"] > 5
