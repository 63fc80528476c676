# SPDX-License-Identifier: GPL-2.0-only
"""The agent's --line and guest/pump.py at the two ends of a line that loses characters: as a shell over ssh."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_line import Damage, Noise, Relay

from pytest_iommu.core.waiting import Deadline, ready
from pytest_iommu.guest import ops, pump
from pytest_iommu.guest.channel import Channel
from pytest_iommu.guest.link import DATA, QUIT, encode

PATIENCE = "50"
NOISES = [Noise(), Noise(lost=1 / 1000, garbled=1 / 1000, doubled=1 / 1000)]
GENEROUS = 60.0
PUMP = ("-m", "pytest_iommu.guest.pump")
IMPATIENT = (
    "-c",
    "import sys; from pytest_iommu.guest import pump; pump.PING, pump.DEAD = 0.2, 1.0; "
    "sys.exit(pump.main(sys.argv[1:]))",
)

SLOW_TO_RECORD = (
    "-c",
    """
import os, sys, time
from pytest_iommu.guest import pump

def write(descriptor, data, write=os.write):
    time.sleep(0.3 if descriptor == int(sys.argv[2]) else 0)
    return write(descriptor, data)

os.write = write
sys.exit(pump.main(sys.argv[1:]))
""",
)


class Session:
    """A line of shell at the other end of a pty with a relay in it; ``host`` is its stdin and stdout."""

    def __init__(self, program: Path, command: str, noise: Noise, seed: int, folder: Path) -> None:
        self.board, slave = os.openpty()
        # What the relay passes on comes to a terminal as it is: the agent makes it raw itself.
        self.line, theirs = socket.socketpair()
        self.damage = Damage(noise, seed), Damage(noise, seed + 1)
        self.relay = Relay(self.board, theirs.detach(), self.damage[1], self.damage[0])
        self.before = tty.tcgetattr(slave)
        self.terminal = os.dup(slave)
        self.agent = subprocess.Popen([program, "--line", "1f3a", PATIENCE, command], stdin=slave, stdout=slave)
        os.close(slave)
        self.console = folder / "console.txt"
        self.console.touch()
        self._ended = False

    def start_pump(self, *program: str) -> None:
        self.host, wire = socket.socketpair()
        record = os.open(self.console, os.O_WRONLY | os.O_APPEND)
        line = self.line.fileno()
        words = map(str, (line, record, "1f3a", PATIENCE))
        self.pump = subprocess.Popen(
            [sys.executable, *program, *words],
            stdin=wire,
            stdout=wire,
            stderr=subprocess.PIPE,
            pass_fds=(line, record),
        )
        wire.close()
        os.close(record)

    def receive(self, size: int) -> bytes:
        """So many bytes, or all until the end."""
        deadline, found = Deadline(GENEROUS), b""
        while len(found) < size:
            assert ready(self.host, select.POLLIN, deadline), f"{len(found)} of {size} bytes came"
            data = self.host.recv(65536)
            if not data:
                break
            found += data
        return found

    def close_pump(self) -> None:
        self.pump.kill()
        self.pump.wait()
        assert self.pump.stderr is not None
        self.pump.stderr.close()
        self.host.close()

    def close(self) -> None:
        self.close_pump()
        self.agent.kill()
        self.agent.wait()
        self.line.close()
        os.close(self.terminal)
        self.relay.close()


@pytest.fixture
def session(program: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def start(command: str, noise: Noise = NOISES[0], seed: int = 1, pump: tuple[str, ...] = PUMP) -> Session:
        sessions.append(Session(program, command, noise, seed, tmp_path))
        sessions[-1].start_pump(*pump)
        return sessions[-1]

    yield start
    for one in sessions:
        one.close()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_what_goes_in_comes_out(session: Callable[..., Session], noise: Noise) -> None:
    one = session("echo hello; cat; echo bye", noise)
    data = os.urandom(12_000)
    assert one.receive(6) == b"hello\n"
    one.host.settimeout(GENEROUS)
    one.host.sendall(data)
    assert one.receive(len(data)) == data
    one.host.shutdown(socket.SHUT_WR)
    assert one.receive(5) == b"bye\n"
    assert one.pump.wait(GENEROUS) == 0
    assert one.agent.wait(GENEROUS) == 0
    assert (one.damage[0].damaged > 5) is (noise.lost > 0)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_an_agent_over_a_line(session: Callable[..., Session], program: Path, noise: Noise, tmp_path: Path) -> None:
    """Batches and their answers, with a kernel that prints."""
    one = session(f"{program} --stdio", noise)
    channel = Channel(one.host)
    channel.slow = True
    assert channel.hello(GENEROUS)["build"] == "test"
    blob = os.urandom(8_000)
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "out").touch()
    out = str(tmp_path / "out")
    for number in range(10):
        message = b"[    1.%06d] message %d of the kernel\r\n" % (number, number)
        os.write(one.terminal, message)
        batch = [ops.write_file(out, blob[: 100 * number]), ops.read_file(out)]
        wrote, read = channel.run(batch, GENEROUS).results
        assert (wrote.value, read.data) == (100 * number, blob[: 100 * number])
    (whole,) = channel.run([ops.read_file(str(tmp_path / "blob"))], GENEROUS).results
    assert whole.data == blob
    channel.close()
    assert one.pump.wait(GENEROUS) == 0
    if noise == Noise():
        lines = one.console.read_bytes().splitlines()
        assert [line for line in lines if b"message" in line] == lines
        assert len(lines) == 10


def test_the_console_is_there_before_the_answer(session: Callable[..., Session]) -> None:
    """Who has an answer finds all that the kernel said until then, also when both came at once."""
    one = session("true")
    one.line.close()
    # In the place of the board: nothing comes between what is written here.
    one.line, board = socket.socketpair()
    one.close_pump()
    one.start_pump(*SLOW_TO_RECORD)
    said = b"[   12.345678] Internal error: Oops\r\n"
    with board:
        board.sendall(said + encode(b"1f3a", DATA, 0, 0, b"answer"))
        assert one.receive(6) == b"answer"
        assert one.console.read_bytes() == said


def test_the_terminal_is_as_it_was(session: Callable[..., Session]) -> None:
    one = session("echo hello")
    assert one.receive(100) == b"hello\n"
    assert one.agent.wait(GENEROUS) == 0
    assert tty.tcgetattr(one.terminal) == one.before


def test_how_the_shell_ended_is_told(session: Callable[..., Session]) -> None:
    one = session("exit 3")
    assert one.receive(1) == b""
    assert one.pump.wait(GENEROUS) == 3
    assert one.pump.stderr is not None
    assert one.pump.stderr.read() == b"the shell at the other end of the line ended with status 3\n"


def test_what_is_left_behind_holds_nobody_up(session: Callable[..., Session], tmp_path: Path) -> None:
    one = session(f"sleep 600 & echo $! > {tmp_path}/pid; echo hello")
    assert one.receive(100) == b"hello\n"
    assert one.agent.wait(GENEROUS) == 0
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_killed_agent_is_missed(session: Callable[..., Session]) -> None:
    """The line goes on without it, as one of a board that panics does."""
    one = session("echo hello; cat", pump=IMPATIENT)
    assert one.receive(6) == b"hello\n"
    one.agent.kill()
    assert one.receive(1) == b""
    assert one.pump.wait(GENEROUS) == 1
    assert one.pump.stderr is not None
    assert re.match(rb"the line has been dead for \d+ s\n", one.pump.stderr.read())


def test_a_line_that_is_closed_is_missed(session: Callable[..., Session]) -> None:
    one = session("echo hello; cat")
    assert one.receive(6) == b"hello\n"
    one.line.shutdown(socket.SHUT_RDWR)
    assert one.receive(1) == b""
    assert one.pump.wait(GENEROUS) == 1
    assert one.pump.stderr is not None
    assert one.pump.stderr.read().startswith(b"the line is gone: ")


def test_a_session_that_nobody_ended_is_told_to(program: Path, tmp_path: Path) -> None:
    """Its shell gets its end of file, and tidies up."""
    one = Session(program, f"touch {tmp_path}/begun; cat; echo tidy > {tmp_path}/tidy", Noise(), 1, tmp_path)
    deadline = Deadline(GENEROUS)
    while not (tmp_path / "begun").exists():
        assert not deadline.over
        time.sleep(0.02)
    os.write(one.line.fileno(), b"\n" + encode(b"0000", QUIT))
    try:
        assert one.agent.wait(GENEROUS) == 0
        assert (tmp_path / "tidy").read_text() == "tidy\n"
    finally:
        one.agent.kill()
        one.line.close()
        os.close(one.terminal)
        one.relay.close()


def test_the_judge_has_its_reasons() -> None:
    """A ping is answered long before the line is called dead."""
    assert 2 * pump.PING < pump.DEAD < pump.SILENT
