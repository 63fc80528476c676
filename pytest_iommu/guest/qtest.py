# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's qtest protocol over a connected socket: the host reads and writes device registers of a running guest.

A request is a line, its answer a line that begins with OK or FAIL (system/qtest.c of QEMU). It does not need ``-accel
qtest``: QEMU serves it along with TCG, under icount and while the guest is stopped.
"""

from __future__ import annotations

import socket

from pytest_iommu.core.waiting import Deadline, receive, send

LETTER = {1: "b", 2: "w", 4: "l", 8: "q"}
TIMEOUT = 10.0
"""Timeout in seconds. An answer takes 50 microseconds, but an overloaded host must not look like a dead QEMU."""


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
        """Read ``size`` bytes (1, 2, 4, 8) at a guest-physical address, as one access, in the guest's byte order."""
        return int(self._ask(f"read{_letter(address, size)} {address:#x}"), 16)

    def write(self, address: int, value: int, size: int) -> None:
        """Write ``size`` bytes (1, 2, 4, 8) as one access. ValueError if the value is too large."""
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value:#x} does not fit into {size} bytes")
        self._ask(f"write{_letter(address, size)} {address:#x} {value:#x}")

    def close(self) -> None:
        """Close the connection; QEMU continues to run."""
        self._broken = self._broken or "the connection was closed"
        self._sock.close()

    def _ask(self, command: str) -> str:
        if self._broken:
            raise QtestError(f"{command}: {self._broken}")
        deadline = Deadline(self._timeout)
        try:
            send(self._sock, command.encode() + b"\n", deadline)
            line = self._line(deadline)
            while line.startswith("IRQ "):  # unsolicited, may arrive in between
                line = self._line(deadline)
        except OSError as error:
            # The answer may still arrive, and would be taken for the answer to the next command.
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
                raise ConnectionError("QEMU closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode("ascii", "replace").strip()


def _letter(address: int, size: int) -> str:
    if size not in LETTER or address % size:
        raise ValueError(f"{size} bytes at {address:#x}: a register access has 1, 2, 4 or 8 bytes and is aligned")
    return LETTER[size]
