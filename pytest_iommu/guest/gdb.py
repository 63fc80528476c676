# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's gdbstub over a connected socket: watch an address of the guest's kernel, stop there, let one vCPU go on.

The stub is started over QMP when it is first needed, and the guest is detached from it between two uses, so that it
runs and stops over QMP as if there were none. Packets are those of the GDB manual's "Remote Serial Protocol".
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pytest_iommu.core.waiting import Deadline, receive, send
from pytest_iommu.guest.qmp import Qmp

CHARDEV = "gdb"
INTERRUPT = b"\x03"


class GdbError(Exception):
    """QEMU is gone, did not answer in time, or refused a packet."""


class Point(IntEnum):
    """What stops the guest: an instruction is about to be executed, or about to write or to read bytes of memory.

    QEMU stops an Arm before such an access (gdb_stop_before_watchpoint), other processors behind it.
    """

    EXECUTE = 1
    WRITE = 2
    READ = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the guest stopped: the vCPU, from 0, and the watched address that it met, None where it was no watchpoint."""

    cpu: int
    address: int | None = None


class Gdb:
    """One gdbstub connection. All methods but attach() need an attached, stopped guest.

    Answers have no numbers. When one does not come in time the connection is not used again: a late answer would be
    taken for the one to the next packet.
    """

    def __init__(self, sock: socket.socket, qmp: Qmp, timeout: float = 10.0) -> None:
        self._sock = sock
        self._qmp = qmp
        self._timeout = timeout
        self._buffer = b""
        self._broken = ""
        self._started = False
        self._points: set[tuple[Point, int, int]] = set()

    def attach(self) -> None:
        """Stop the guest and take hold of it."""
        self._qmp.command("stop")
        if not self._started:
            self._qmp.monitor(f"gdbserver chardev:{CHARDEV}")
            self._started = True
        # Without it stops name a thread in another way than vCont does. Stops that nobody waited for may come first.
        self._ask("qSupported:multiprocess+", "PacketSize=.*", skip=True)
        self._ask("vAttach;1", r"[ST]..*")

    def set(self, point: Point, address: int, size: int = 8) -> None:
        """Stop the guest where this happens; ``address`` is a virtual one of the kernel."""
        self._ask(f"Z{point:d},{address:x},{size:x}", "OK")
        self._points.add((point, address, size))

    def clear(self) -> None:
        """Forget all points."""
        for point, address, size in self._points:
            self._ask(f"z{point:d},{address:x},{size:x}", "OK")
        self._points.clear()

    def go(self, cpus: Iterable[int] = ()) -> None:
        """Let these vCPUs run, the others stand still; all of them without any."""
        chosen = [f";c:p1.{cpu + 1:x}" for cpu in cpus]
        self._send("vCont" + ("".join(chosen) or ";c"))

    def wait(self, timeout: float) -> Stop | None:
        """Wait ``timeout`` seconds of host time until a point is met; None when none was, the guest then runs on."""
        try:
            packet = self._packet(Deadline(timeout))
        except TimeoutError:
            return None
        return self._stop(packet)

    def step(self, cpu: int) -> None:
        """Let a vCPU execute one instruction; the others stand still, and no interrupt comes in between.

        No point may be set at that instruction, or on what it accesses.
        """
        self._send(f"vCont;s:p1.{cpu + 1:x}")
        self._stop(self._answer("the vCPU does not come to the end of one instruction"))

    def halt(self) -> None:
        """Stop a guest that runs."""
        self._put(INTERRUPT, "the interrupt")
        self._stop(self._answer("the guest does not stop"))

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a virtual address. GdbError where nothing is mapped."""
        return bytes.fromhex(self._ask(f"m{address:x},{size:x}", "[0-9a-f]+"))

    def register(self, cpu: int, number: int) -> int:
        """A vCPU's general register, in gdb's numbering of the architecture; little endian."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        return int.from_bytes(bytes.fromhex(self._ask(f"p{number:x}", "[0-9a-f]+")), "little")

    def registers(self, cpu: int) -> bytes:
        """All general registers of a vCPU, in gdb's order and their sizes; little endian."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        return bytes.fromhex(self._ask("g", "[0-9a-f]+"))

    def set_register(self, cpu: int, number: int, value: int) -> None:
        """Give a general register of 64 bits, of a little endian vCPU, this value."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        self._ask(f"P{number:x}={value.to_bytes(8, 'little').hex()}", "OK")

    def detach(self) -> None:
        """Forget all points and let the guest run, all of it."""
        self.clear()
        self._ask("D;1", "OK")
        self._qmp.command("cont")

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _stop(self, packet: str) -> Stop:
        match = re.match(r"T..thread:p0*1\.([0-9a-f]+);(?:.*?watch:([0-9a-f]+);)?", packet)
        if match is None:
            raise GdbError(f"the guest stopped with {packet!r}")
        return Stop(int(match[1], 16) - 1, int(match[2], 16) if match[2] else None)

    def _ask(self, packet: str, pattern: str, skip: bool = False) -> str:
        """The answer to a packet, which must match; with ``skip`` what comes before such an answer is dropped."""
        self._send(packet)
        answer = self._answer(f"{packet}: no answer from QEMU")
        while skip and not re.fullmatch(pattern, answer):
            answer = self._answer(f"{packet}: no answer from QEMU but {answer!r}")
        if not re.fullmatch(pattern, answer):
            raise GdbError(f"{packet}: {answer or 'QEMU does not know it'}")
        return answer

    def _answer(self, otherwise: str) -> str:
        """A packet that is due. GdbError with ``otherwise`` when none comes, and the connection is done with."""
        try:
            return self._packet(Deadline(self._timeout))
        except TimeoutError as error:
            self._broken = otherwise
            raise GdbError(otherwise) from error

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._put(b"$%s#%02x" % (data, sum(data) & 0xFF), packet)

    def _put(self, data: bytes, what: str) -> None:
        if self._broken:
            raise GdbError(f"{what}: not possible after this: {self._broken}")
        try:
            send(self._sock, data, Deadline(self._timeout))
        except OSError as error:
            self._broken = f"{what}: {error}"
            raise GdbError(self._broken) from error

    def _packet(self, deadline: Deadline) -> str:
        """The next packet, acknowledged. TimeoutError when none comes in time."""
        while True:
            match = re.search(rb"\$([^#]*)#[0-9a-f]{2}", self._buffer)
            if match is not None:
                self._buffer = self._buffer[match.end() :]
                self._put(b"+", "the acknowledgement")
                return match[1].decode()
            try:
                data = receive(self._sock, 4096, deadline)
            except TimeoutError:
                raise
            except OSError as error:
                raise GdbError(f"no answer from QEMU: {error}") from error
            if not data:
                raise GdbError("QEMU closed the connection")
            self._buffer += data
