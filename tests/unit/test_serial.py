# SPDX-License-Identifier: GPL-2.0-only
"""The serial target with a shell of this machine at the other end of a line, which may lose characters."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from bad_line import Damage, Noise, Relay

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import ops
from pytest_iommu.targets import console_shell, running
from pytest_iommu.targets.console_shell import PASSWORD_VARIABLE
from pytest_iommu.targets.running import RunningTarget
from pytest_iommu.targets.serial import SerialHost

QUIET = Noise()
BAD = Noise(lost=1 / 20000, garbled=1 / 20000)
READ = [ops.read_file("/proc/version")]
SHELL = "PS1='board# ' exec sh -i"
LOGIN = """
while :; do printf 'board login: '; read -r user; [ -n "$user" ] || continue
printf 'Password: '; stty -echo; read -r word; stty echo; echo
if [ "$user $word" = "root secret" ]; then PS1='board# ' sh -i; else echo 'Login incorrect'; fi; done
"""
# What it asks is read together with what it says of the answer.
SLOW_LOGIN = """
while :; do printf 'board login: '; read -r user; [ -n "$user" ] || continue
sleep 1; read -r word; printf 'Password: \\nLogin incorrect\\n'; done
"""

pytestmark = pytest.mark.skipif(platform.machine() not in running.ARCHES, reason="no agent for this machine")


class Board:
    """What is on its console is a line of shell, and the device is a pty."""

    def __init__(self, command: str, noise: Noise, folder: Path) -> None:
        (folder / "bin").mkdir()
        # The agent has to be root; whoever we are, the board says so.
        (folder / "bin" / "id").write_text("#!/bin/sh\necho 0\n")
        (folder / "bin" / "id").chmod(0o755)
        (folder / "tmp").mkdir(exist_ok=True)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "TMPDIR": str(folder / "tmp"), "ENV": ""}
        self.console = pexpect.spawn("/bin/sh", ["-c", command], env=env)
        master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.device = os.ttyname(self.slave)
        self.there, self.back = Damage(noise, 1), Damage(noise, 2)
        self.said = bytearray()
        self.relay = Relay(master, os.dup(self.console.child_fd), self.there, self._heard)

    def _heard(self, data: bytes) -> bytes:
        self.said += data
        return self.back(data)

    def close(self) -> None:
        self.relay.close()
        self.console.close(force=True)
        os.close(self.slave)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def one(command: str = SHELL, noise: Noise = QUIET) -> Board:
        boards.append(Board(command, noise, tmp_path))
        return boards[-1]

    yield one
    for each in boards:
        each.close()


@pytest.fixture
def target(agent_cache: Path, tmp_path: Path, debugfs: Path) -> Callable[..., RunningTarget]:
    def make(board: Board) -> RunningTarget:
        given = Settings("serial", agent_cache, tmp_path, tmp_path, target_argument=board.device)
        machine = machines.get("smmuv3")
        page = os.sysconf("SC_PAGESIZE")
        return RunningTarget(SerialHost(given, machine), given, machine, Key("smmuv3", "plain"), page)

    return make


@pytest.mark.parametrize("noise", [QUIET, BAD], ids=str)
def test_a_board_with_a_shell(
    target: Callable[..., RunningTarget],
    board: Callable[..., Board],
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its agent is sent once; the second time there is the shell again, and the agent is there."""
    monkeypatch.setattr(console_shell, "ANSWER", 0.5)
    one = board(SHELL, noise)
    both = target(one)
    sent = []
    for _ in range(2):
        before = one.there.passed
        guest = both.start()
        assert guest.run(READ).results[0].data.startswith(b"Linux version")
        guest.close()
        with pytest.raises(GuestLost, match="was closed"):
            guest.run(READ)
        sent.append(one.there.passed - before)
    assert sent[1] < sent[0] / 5
    assert (one.there.damaged > 10) is (noise is BAD)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["pytest-iommu-agent"]


def test_a_board_with_a_login(
    target: Callable[..., RunningTarget], board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged out again."""
    one = board(LOGIN)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(SetupError, match=rf"serial:/dev/pts/\d+ asks root for a password: set \${PASSWORD_VARIABLE}"):
        target(one).start()
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(SetupError, match=rf"does not let root in: is \${PASSWORD_VARIABLE} right"):
        target(one).start()
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    for _ in range(2):
        guest = target(one).start()
        assert guest.run(READ).results[0].ok
        seen = len(one.said)
        guest.close()
        deadline = Deadline(60)
        while b"board login: " not in one.said[seen:]:
            assert not deadline.over
            time.sleep(0.05)


def test_a_slow_board_that_asks_for_a_password(
    target: Callable[..., RunningTarget], board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what is said again, since no answer came in time, for a password that is not right."""
    monkeypatch.setattr(console_shell, "ANSWER", 0.05)
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with pytest.raises(SetupError, match=rf"asks root for a password: set \${PASSWORD_VARIABLE}"):
        target(board(SLOW_LOGIN)).start()


def test_what_the_kernel_says_in_between(target: Callable[..., RunningTarget], board: Callable[..., Board]) -> None:
    """An oops on the console is a crash, also where the agent does not tell."""
    one = board()
    guest = target(one).start()
    terminal = os.open(os.readlink(f"/proc/{one.console.pid}/fd/0"), os.O_WRONLY | os.O_NOCTTY)
    os.write(terminal, b"[   12.000001] harmless\r\n")
    assert guest.run(READ).results[0].ok
    os.write(terminal, b"[   12.345678] Internal error: Oops: 0000000096000004 [#1] SMP\r\n")
    os.close(terminal)
    with pytest.raises(KernelCrash, match="oops while it ran a batch: Internal error: Oops"):
        guest.run(READ)
    evidence = guest.evidence()
    guest.close()
    assert "harmless" in evidence.console
    assert evidence.command == f"serial:{one.device}"


def test_an_agent_that_died(target: Callable[..., RunningTarget], board: Callable[..., Board]) -> None:
    guest = target(board()).start()
    # The board is a shell of this machine: what the agent runs has the agent above it.
    (found,) = guest.run([ops.run("/bin/sh", "-c", "echo $PPID")]).results
    agent = int(found.data)
    while not Path(f"/proc/{agent}/cmdline").read_bytes().endswith(b"--stdio\0"):
        agent = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
        assert agent > 1
    os.kill(agent, signal.SIGKILL)
    with pytest.raises(GuestLost, match="lost serial:.* while it ran a batch: .*shell .* ended with status 137"):
        guest.run(READ)
    guest.close()


def test_an_agent_that_hangs(
    target: Callable[..., RunningTarget], board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_iommu.targets.serial.DEAD", 0.5)
    guest = target(board()).start()
    with pytest.raises(KernelHang, match="did not answer within 0.3 s; serial:/dev/pts/.* still runs"):
        guest.run([ops.sleep(3000)], timeout=0.3)
    guest.close()


def test_sessions_that_nobody_ended(target: Callable[..., RunningTarget], board: Callable[..., Board]) -> None:
    """An agent that has the line, and a shell that takes lines: both are told to leave it."""
    one = board()
    guest = target(one).start()
    guest.child.close()  # killed: it has not said that it goes
    guest = target(one).start()
    guest.close()


def test_nobody_is_there(
    target: Callable[..., RunningTarget], board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_shell, "LOGIN_TIMEOUT", 0.5)
    monkeypatch.setattr(console_shell, "ANSWER", 0.2)
    with pytest.raises(SetupError, match=r"serial:.*: no login and no shell within 0.5 s; it says: '.*U-Boot"):
        target(board("stty -echo; while sleep 0.02; do echo U-Boot; done")).start()


def settings(where: str, folder: Path) -> Settings:
    return Settings("serial", folder, folder, folder, target_argument=where)


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("", "--iommu-target=serial:/dev/DEVICE"),
        ("ttyUSB0", "--iommu-target=serial:/dev/DEVICE"),
        ("/dev/ttyUSB0,fast", "--iommu-target=serial:/dev/DEVICE"),
        ("/dev/ttyUSB0,0", "no serial line has 0 baud"),
        ("/dev/ttyUSB0,115201", "no serial line has 115201 baud"),
    ],
)
def test_where_it_does_not_go(where: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=match):
        SerialHost(settings(where, tmp_path), machines.get("smmuv3"))


def test_the_slower_the_line_the_more_patient(tmp_path: Path) -> None:
    patience = [
        SerialHost(settings(f"/dev/x,{baud}", tmp_path), machines.get("smmuv3")).patience for baud in (9600, 115200)
    ]
    assert patience[0] > 4000 > 1000 > patience[1]


def test_devices_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where, match in (("nothing", "No such file"), ("file", "is no serial line")):
        host = SerialHost(settings(str(tmp_path / where), tmp_path), machines.get("smmuv3"))
        with pytest.raises(SetupError, match=match):
            host.open("true")


def test_a_device_in_use(board: Callable[..., Board], tmp_path: Path) -> None:
    one = board()
    fcntl.flock(one.slave, fcntl.LOCK_EX)
    with pytest.raises(SetupError, match=f"{one.device} is used by another session"):
        SerialHost(settings(one.device, tmp_path), machines.get("smmuv3")).open("true")
