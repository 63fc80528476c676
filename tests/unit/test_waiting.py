# SPDX-License-Identifier: GPL-2.0-only
"""Time limits of guests: what does not count, and that all that waits for a guest keeps to it."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pytest_iommu.core import machines, waiting
from pytest_iommu.core.outcomes import GuestLost
from pytest_iommu.core.process import Child
from pytest_iommu.core.waiting import GAP, TICK, Clock, Deadline, ready, receive, send
from pytest_iommu.guest import ops
from pytest_iommu.guest.channel import MAGIC, REPLY, Channel, ChannelTimeout
from pytest_iommu.guest.gdb import Gdb
from pytest_iommu.guest.qmp import Qmp
from pytest_iommu.guest.qtest import Qtest
from pytest_iommu.guest.virtual import VirtualGuest, Wires
from pytest_iommu.targets.qemu import memory_file

FREEZE = 35.0


class Host:
    """A host's time, which goes on by ``step`` whenever somebody looks.

    At the look number ``freeze_at`` it has gone on by FREEZE, and ``thawed`` is called right after that: what the other
    end does when it goes on, too.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = TICK
        self.looks = 0
        self.freeze_at = -1
        self.thawed: Callable[[], object] = lambda: None

    def read(self) -> float:
        self.looks += 1
        self.now += self.step
        if self.looks == self.freeze_at:
            self.now += FREEZE
            self.thawed()
        return self.now

    def freeze(self, thawed: Callable[[], object], looks: int = 4) -> None:
        """Stand still after some more looks, while somebody waits."""
        self.freeze_at = self.looks + looks
        self.thawed = thawed


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(waiting, "CLOCK", Clock(made.read))
    monkeypatch.setattr(waiting, "TICK", 0.001)  # nobody really waits
    return made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_time_counts_while_somebody_looks() -> None:
    times = iter([0.0, 0.0, 0.2, 0.2 + GAP, 7.0, 7.1])
    clock = Clock(lambda: next(times))
    looks = [clock.look()[0] for _ in range(5)]
    assert looks == pytest.approx([0.0, 0.2, 0.2 + GAP, 0.2 + GAP + TICK, 0.3 + GAP + TICK])


def test_a_limit_is_over_after_its_time(host: Host) -> None:
    deadline = Deadline(10)
    looks = host.looks
    while not deadline.over:
        pass
    assert host.looks - looks == pytest.approx(10 / TICK, abs=1)
    assert deadline.missed == 0


def test_a_limit_is_not_over_because_we_stood_still(host: Host) -> None:
    deadline = Deadline(10)
    host.now += FREEZE
    assert deadline.left > 9
    assert deadline.missed == pytest.approx(FREEZE, abs=2 * TICK)
    assert Deadline(10).missed == 0


def test_what_is_there_is_seen_however_late_we_come(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    deadline = Deadline(0)
    assert not ready(ours, select.POLLIN, deadline)
    theirs.sendall(b"x")
    assert ready(ours, select.POLLIN, deadline)
    assert receive(ours, 10, deadline) == b"x"


def test_a_part_of_a_limit_can_be_waited(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    deadline = Deadline(10)
    assert not ready(pair[0], select.POLLIN, deadline, within=1)
    assert 0 < deadline.left < 9.5


def test_much_is_sent_in_pieces(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    data = bytes(4 << 20)
    got = bytearray()

    def take() -> None:
        host.freeze(take, looks=1)
        theirs.setblocking(False)
        while len(got) < len(data):
            try:
                got.extend(theirs.recv(1 << 20))
            except BlockingIOError:
                return

    host.freeze(take)
    send(ours, data, Deadline(10))
    theirs.setblocking(True)
    while len(got) < len(data):
        got += theirs.recv(1 << 20)
    assert got == data


def answer_of(sock: socket.socket, data: bytes) -> Callable[[], object]:
    return lambda: sock.sendall(data)


EMPTY_REPLY = b"".join(
    number.to_bytes(4, "little") for number in (MAGIC, REPLY, 1, 20, 0, 0, 1, 0, 0)
)  # head; taint, kmsg; one result, 0 and no data

QMP_ANSWERS = b'{"QMP": {}}\n{"return": {}, "id": 1}\n{"return": "on", "id": 2}\n'

CLIENTS: dict[str, tuple[Callable[[socket.socket], object], bytes, object]] = {
    "qmp": (lambda sock: Qmp(sock).command("query-status", 5), QMP_ANSWERS, "on"),
    "qtest": (lambda sock: Qtest(sock, 5).read(0, 4), b"OK 0x7\n", 7),
    "gdb": (lambda sock: Gdb(sock, Qmp(sock), 5).read(0, 1), b"$07#67", b"\x07"),
    "agent": (lambda sock: Channel(sock.dup()).run([ops.sleep(0)], 5).results[0].value, EMPTY_REPLY, 0),
    "hello": (
        lambda sock: Channel(sock.dup()).hello(5),
        MAGIC.to_bytes(4, "little") + b"\1\0\0\0\0\0\0\0\x0b\0\0\0protocol=1\n",
        {"protocol": "1"},
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_an_answer_that_comes_after_a_freeze(host: Host, pair: tuple[socket.socket, socket.socket], name: str) -> None:
    """The other end was frozen, too: its answer comes some time later."""
    ours, theirs = pair
    ask, data, wanted = CLIENTS[name]
    host.freeze(lambda: host.freeze(answer_of(theirs, data)))
    assert ask(ours) == wanted


def test_silence_after_a_freeze_is_still_a_timeout(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    began = host.now
    host.freeze(lambda: None)
    with pytest.raises(ChannelTimeout):
        Channel(pair[0].dup()).run([ops.sleep(0)], 5)
    assert host.now - began - FREEZE == pytest.approx(5, abs=4 * TICK)


def test_a_batch_tells_that_we_stood_still(host: Host, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    channel = Channel(ours.dup())
    host.freeze(answer_of(theirs, EMPTY_REPLY))
    channel.run([ops.sleep(0)], 5)
    assert channel.stood_still == "this process was stopped or frozen for 35 s while the guest ran a batch"
    second = bytearray(EMPTY_REPLY)
    second[8] = 2
    theirs.sendall(second)
    channel.run([ops.sleep(0)], 5)
    assert channel.stood_still == ""


def test_a_child_is_waited_for_as_long_as_we_run(host: Host) -> None:
    child = Child([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        host.freeze(lambda: host.freeze(lambda: child._process.send_signal(signal.SIGKILL)))
        host.step = 0.001
        assert child.wait(5) == -signal.SIGKILL
        host.step = TICK
    finally:
        child.close()


def virtual(agent: socket.socket, host_time: bool) -> VirtualGuest:
    """A QEMU of which only the agent answers."""
    child = Child([sys.executable, "-c", "import signal; signal.pause()"])
    machine = replace(machines.get("smmuv3"), memory=1 << 20)
    nobody = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    qmp = Qmp(nobody[0])
    ram = memory_file("ram", machine.memory)
    wires = Wires(Channel(agent), qmp, Qtest(nobody[1]), Gdb(nobody[2], qmp), memory_file("console"), ram)
    return VirtualGuest(machine, child, wires, host_time)


@pytest.mark.parametrize("host_time", [False, True])
def test_a_guest_whose_clock_went_on_is_not_believed(host: Host, host_time: bool) -> None:
    """Its watchdogs and time limits have expired. The clock of one that counts instructions stood still, too."""
    ours, theirs = socket.socketpair()
    guest = virtual(ours, host_time)
    try:
        host.freeze(answer_of(theirs, EMPTY_REPLY))
        if host_time:
            with pytest.raises(GuestLost, match="stopped or frozen for 35 s"):
                guest.run([ops.sleep(0)])
        else:
            assert guest.run([ops.sleep(0)]).results[0].ok
    finally:
        guest.close()
        theirs.close()
