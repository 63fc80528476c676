# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's qtest protocol over a connected socket: device registers of a running guest, read and written by the host.

A request is a line, its answer a line that begins with OK or FAIL (system/qtest.c of QEMU). Needs no ``-accel qtest``:
QEMU serves it beside TCG, under icount and while the guest is stopped.
"""

from __future__ import annotations

import socket

from pytest_iommu.core.waiting import Deadline, receive, send

LETTER = {1: "b", 2: "w", 4: "l", 8: "q"}
TIMEOUT = 10.0
"""Seconds for an answer: it takes 50 microseconds, but a host that is overloaded must not look like a dead QEMU."""


class QtestError(Exception):
    """QEMU is gone, did not answer in time, or refused the command."""


class Qtest:
    """One qtest connection."""

    def __init__(self, sock: socket.socket, timeout: float = TIMEOUT) -> None:
        self._sock = sock
        self._timeout = timeout
        self._buffer = b""
        self._broken = ""

    def read(self, address: int, size: int) -> int:
        """The ``size`` bytes (1, 2, 4, 8) at a guest-physical address, as one access, in the guest's byte order."""
        return int(self._ask(f"read{_letter(address, size)} {address:#x}"), 16)

    def write(self, address: int, value: int, size: int) -> None:
        """Write ``size`` bytes (1, 2, 4, 8) as one access. ValueError when the value has more."""
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value:#x} does not fit into {size} bytes")
        self._ask(f"write{_letter(address, size)} {address:#x} {value:#x}")

    def close(self) -> None:
        """Close the connection; QEMU itself goes on."""
        self._broken = self._broken or "the connection was closed"
        self._sock.close()

    def _ask(self, command: str) -> str:
        if self._broken:
            raise QtestError(f"{command}: {self._broken}")
        deadline = Deadline(self._timeout)
        try:
            send(self._sock, command.encode() + b"\n", deadline)
            line = self._line(deadline)
            while line.startswith("IRQ "):  # not asked for, may come between
                line = self._line(deadline)
        except OSError as error:
            # The answer may still come: whoever asks next would take it for his.
            self._broken = f"no answer from QEMU: {error}"
            raise QtestError(f"{command}: {self._broken}") from error
        status, _, rest = line.partition(" ")
        if status != "OK":
            raise QtestError(f"{command}: {line}")
        return rest

    def _line(self, deadline: Deadline) -> str:
        while b"\n" not in self._buffer:
            data = receive(self._sock, 4096, deadline)
            if not data:
                raise ConnectionError("it closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode("ascii", "replace").strip()


def _letter(address: int, size: int) -> str:
    if size not in LETTER or address % size:
        raise ValueError(f"{size} bytes at {address:#x}: a register has 1, 2, 4 or 8, and is aligned to them")
    return LETTER[size]
