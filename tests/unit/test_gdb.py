# SPDX-License-Identifier: GPL-2.0-only
"""The gdbstub client, against a scripted QEMU at the other end of a socketpair."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.gdb import Gdb, GdbError, Point, Stop
from pytest_iommu.guest.qmp import Qmp

READY = b'{"QMP": {}}\n{"return": {}, "id": 1}\n{"return": {}, "id": 2}\n{"return": "", "id": 3}\n'
"""What the monitor says to ``stop`` and ``gdbserver``."""


class Ends:
    """A client that does not wait long, and QEMU's ends of its two connections."""

    def __init__(self) -> None:
        ours, self.stub = socket.socketpair()
        monitor, self.monitor = socket.socketpair()
        self._ours = (ours, monitor)
        self.gdb = Gdb(ours, Qmp(monitor), timeout=0.05)

    def say(self, *packets: str) -> None:
        for packet in packets:
            self.stub.sendall(b"+$%s#%02x" % (packet.encode(), sum(packet.encode()) & 0xFF))

    def close(self) -> None:
        for sock in (*self._ours, self.stub, self.monitor):
            sock.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_a_packet_and_its_answer(ends: Ends) -> None:
    ends.say("OK", "0102")
    ends.gdb.set(Point.READ, 0x1000)
    assert ends.gdb.read(0x1000, 2) == b"\1\2"
    assert ends.stub.recv(100) == b"$Z3,1000,8#de+$m1000,2#8c+"


def test_registers(ends: Ends) -> None:
    ends.say("OK", "0100000000000000", "OK", "OK")
    assert ends.gdb.registers(1) == bytes([1, *[0] * 7])
    ends.gdb.set_register(1, 32, 0x1234)
    assert ends.stub.recv(100) == b"$Hgp1.2#b0+$g#67+$Hgp1.2#b0+$P20=3412000000000000#f9+"


def test_stops_that_nobody_waited_for_are_no_answers(ends: Ends) -> None:
    ends.monitor.sendall(READY)
    ends.say("T02thread:p01.01;", "PacketSize=1000;multiprocess+", "T02thread:p01.01;")
    ends.gdb.attach()
    ends.say("00")
    assert ends.gdb.read(0, 1) == b"\0"


def test_a_late_answer_is_not_taken_for_the_next_one(ends: Ends) -> None:
    with pytest.raises(GdbError, match="m10,1: no answer from QEMU"):
        ends.gdb.read(0x10, 1)
    ends.say("10")
    with pytest.raises(GdbError, match="m20,1: the connection is unusable: m10,1: no answer"):
        ends.gdb.read(0x20, 1)
    with pytest.raises(GdbError, match="the connection is unusable"):
        ends.gdb.halt()


def test_a_point_that_is_not_met_breaks_nothing(ends: Ends) -> None:
    ends.gdb.go()
    assert ends.gdb.wait(0.05) is None
    ends.say("T02thread:p01.02;")
    ends.gdb.halt()
    ends.gdb.go([1])
    ends.say("T05thread:p01.02;rwatch:ffff0010;")
    assert ends.gdb.wait(5) == Stop(1, 0xFFFF0010)


@pytest.mark.parametrize("call", ["go", "halt", "read", "step", "wait"])
def test_a_stub_that_is_gone(ends: Ends, call: str) -> None:
    ends.stub.close()
    arguments = {"read": (0, 1), "step": (0,), "wait": (1,)}.get(call, ())
    with pytest.raises(GdbError):
        getattr(ends.gdb, call)(*arguments)


def test_a_stub_that_goes_before_its_answer_is_acknowledged(ends: Ends) -> None:
    ends.say("00")
    ends.stub.shutdown(socket.SHUT_RD)
    with pytest.raises(GdbError):
        ends.gdb.read(0, 1)
