# SPDX-License-Identifier: GPL-2.0-only
"""The serial target on a real guest: a shell on its console, and a line that loses characters now and then."""

from __future__ import annotations

import os
import socket
import sys
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.process import Child
from pytest_iommu.core.settings import Settings
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.images import Progress, prepare
from pytest_iommu.session.run import RUN
from pytest_iommu.targets.qemu import Boot, boot_of

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from bad_line import Damage, Noise, Relay

SCENARIOS = paths.conformance() / "scenarios" / "basics.iommu.yaml"


class Board:
    """A guest whose console is a pty here, for a pytest of its own."""

    def __init__(self, boot: Boot, noise: Noise, cache: Path, pytester: pytest.Pytester) -> None:
        ours, theirs = socket.socketpair()
        # It stays open: a pty whose last user goes away would end the line.
        master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.device = os.ttyname(self._slave)
        self.there, self.back = Damage(noise, 1), Damage(noise, 2)
        self.said = bytearray()
        self._relay = Relay(master, ours.detach(), self.there, self._heard)
        console = ("-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console")
        # Where nothing runs its clock waits for the host's: the agent leaves after a minute without a word, which was
        # a second of a busy host.
        mode = replace(boot.boot_mode, icount="shift=2")
        boot = replace(boot, append=f"{boot.append} iommu.shell=1".strip(), boot_mode=mode)
        self._child = Child(boot.command(console), [theirs.detach()], boot.env)
        self._pytester = pytester
        self._cache = cache
        # A board has a shell where shells are; this one has a busybox that was started as one.
        self._await(b"# ")
        self.type(b"ln -s busybox /bin/sh")

    def type(self, text: bytes) -> None:
        """A line at the shell's prompt; it has been done when this is back."""
        done = b"done %d" % len(self.said)
        os.write(self._slave, text + b"\necho " + done.replace(b" ", b"' '") + b"\n")
        self._await(done + b"\r\n")

    def _await(self, text: bytes) -> None:
        deadline = Deadline(180)
        while text not in self.said:
            assert not deadline.over, self.said
            time.sleep(0.05)

    def _heard(self, data: bytes) -> bytes:
        self.said += data
        return self.back(data)

    def run(self, *arguments: object) -> pytest.RunResult:
        """A pytest on it."""
        options = (f"--iommu-target=serial:{self.device}", f"--iommu-cache={self._cache}", "-rs")
        return self._pytester.runpytest_subprocess(*options, *map(str, arguments))

    def close(self) -> None:
        self._child.close()
        self._relay.close()
        os.close(self._slave)


@pytest.fixture
def with_shell(boot: Boot, iommu_settings: Settings, request: pytest.FixtureRequest) -> Boot:
    """The guest with busybox in it."""
    if iommu_settings.offline:
        pytest.skip("a shell's busybox may have to be fetched, --iommu-offline")
    run = request.config.stash[RUN]
    machine = run.machine(boot.machine.name)
    return boot_of(run.settings, machine, prepare(run.settings, machine, "plain", Progress(None), shell=True))


@pytest.fixture
def board(
    with_shell: Boot, iommu_settings: Settings, pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> Iterator[Board]:
    noise = getattr(request, "param", Noise())
    one = Board(with_shell, noise, iommu_settings.cache, pytester)
    yield one
    one.close()


@pytest.mark.parametrize("board", [Noise(lost=1 / 10000)], indirect=True)
def test_scenarios_over_a_line(board: Board) -> None:
    """What the kernel says meanwhile goes into the middle of lines; what the line loses is sent again."""
    board.type(b"while true; do echo '<4>said by the kernel' >/dev/kmsg; sleep 0.2; done &")
    result = board.run(SCENARIOS, "-k", "one-page")
    assert board.there.damaged > 10
    assert board.said.count(b"] said by the kernel") > 10
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) > 10, outcomes
    assert outcomes.keys() <= {"passed", "skipped", "deselected"}


def test_a_panic_of_a_board(board: Board, pytester: pytest.Pytester) -> None:
    """The console tells what the agent cannot."""
    pytester.makepyfile(
        """
        from pytest_iommu.guest import ops

        def test_panic(iommu_guest):
            iommu_guest.run([ops.write_file("/proc/sysrq-trigger", b"c")])
        """
    )
    result = board.run("test_a_panic_of_a_board.py")
    result.stdout.fnmatch_lines(["*kernel-crash: panic and then hung: Kernel panic - not syncing: sysrq*"])
    assert b"sysrq triggered crash" in board.said
