# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's gdbstub over a connected socket: set watchpoints in the guest's kernel, stop there, resume single vCPUs.

QMP starts the stub at its first use. Between two uses it is detached, so that QMP alone starts and stops the guest.
Packets follow the GDB manual's "Remote Serial Protocol".
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
    """Where to stop the guest: before an instruction executes, or at a write or a read of memory.

    For Arm, QEMU stops before the memory access (gdb_stop_before_watchpoint), for other processors after it.
    """

    EXECUTE = 1
    WRITE = 2
    READ = 3


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the guest stopped: the vCPU, from 0, and the watched address, None if it was not a watchpoint."""

    cpu: int
    address: int | None = None


class Gdb:
    """One gdbstub connection. All methods except attach() require an attached, stopped guest.

    Answers have no numbers. After a timeout the connection is not used again: a late answer would be taken for the
    answer to the next packet.
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
        """Attach to the stub, which stops the guest."""
        self._qmp.command("stop")
        if not self._started:
            self._qmp.monitor(f"gdbserver chardev:{CHARDEV}")
            self._started = True
        # Without it, stops name threads in another form than vCont does. Unread earlier stops may arrive first.
        self._ask("qSupported:multiprocess+", "PacketSize=.*", skip=True)
        self._ask("vAttach;1", r"[ST]..*")

    def set(self, point: Point, address: int, size: int = 8) -> None:
        """Set a breakpoint or watchpoint; ``address`` is a virtual address of the kernel."""
        self._ask(f"Z{point:d},{address:x},{size:x}", "OK")
        self._points.add((point, address, size))

    def clear(self) -> None:
        """Remove all breakpoints and watchpoints."""
        for point, address, size in self._points:
            self._ask(f"z{point:d},{address:x},{size:x}", "OK")
        self._points.clear()

    def go(self, cpus: Iterable[int] = ()) -> None:
        """Let these vCPUs run and keep the others stopped; without any, let all run."""
        chosen = [f";c:p1.{cpu + 1:x}" for cpu in cpus]
        self._send("vCont" + ("".join(chosen) or ";c"))

    def wait(self, timeout: float) -> Stop | None:
        """Wait ``timeout`` seconds of host time for a stop; None if there is none, and the guest continues to run."""
        try:
            packet = self._packet(Deadline(timeout))
        except TimeoutError:
            return None
        return self._stop(packet)

    def step(self, cpu: int) -> None:
        """Single-step a vCPU; the others stay stopped, and interrupts are masked.

        There must be no breakpoint at that instruction and no watchpoint on its access.
        """
        self._send(f"vCont;s:p1.{cpu + 1:x}")
        self._stop(self._answer("the vCPU does not finish a single step"))

    def halt(self) -> None:
        """Stop a running guest."""
        self._put(INTERRUPT, "the interrupt")
        self._stop(self._answer("the guest does not stop"))

    def read(self, address: int, size: int) -> bytes:
        """Read bytes at a virtual address. GdbError if nothing is mapped there."""
        return bytes.fromhex(self._ask(f"m{address:x},{size:x}", "[0-9a-f]+"))

    def register(self, cpu: int, number: int) -> int:
        """Read a vCPU's general register, by gdb's number for the architecture; little endian."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        return int.from_bytes(bytes.fromhex(self._ask(f"p{number:x}", "[0-9a-f]+")), "little")

    def registers(self, cpu: int) -> bytes:
        """Read all general registers of a vCPU, in gdb's order and sizes; little endian."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        return bytes.fromhex(self._ask("g", "[0-9a-f]+"))

    def set_register(self, cpu: int, number: int, value: int) -> None:
        """Write a 64-bit general register of a little-endian vCPU."""
        self._ask(f"Hgp1.{cpu + 1:x}", "OK")
        self._ask(f"P{number:x}={value.to_bytes(8, 'little').hex()}", "OK")

    def detach(self) -> None:
        """Remove all breakpoints and watchpoints and let the whole guest run."""
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
        """Send a packet and return the answer, which must match; with ``skip``, drop packets before such an answer."""
        self._send(packet)
        answer = self._answer(f"{packet}: no answer from QEMU")
        while skip and not re.fullmatch(pattern, answer):
            answer = self._answer(f"{packet}: unexpected answer from QEMU: {answer!r}")
        if not re.fullmatch(pattern, answer):
            raise GdbError(f"{packet}: {answer or 'not supported by QEMU'}")
        return answer

    def _answer(self, otherwise: str) -> str:
        """Return the next packet. If none arrives, GdbError with ``otherwise``, and the connection is unusable."""
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
            raise GdbError(f"{what}: the connection is unusable: {self._broken}")
        try:
            send(self._sock, data, Deadline(self._timeout))
        except OSError as error:
            self._broken = f"{what}: {error}"
            raise GdbError(self._broken) from error

    def _packet(self, deadline: Deadline) -> str:
        """Return the next packet, acknowledged. TimeoutError if none arrives in time."""
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
