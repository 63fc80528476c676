# SPDX-License-Identifier: GPL-2.0-only
"""What an IOMMU's reader in memory begins with: its registers, and words of the structures that they lead to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_iommu.core.protocol import Memory, OutsideMemory


class Registers:
    """An IOMMU with registers at the physical address ``base``, and the memory that it reads."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._memory = memory
        self._base = base
        self._known: dict[tuple[int, int], int] | None = None

    @property
    def base(self) -> int:
        """The address of the registers."""
        return self._base

    @contextmanager
    def at_one_time(self) -> Iterator[None]:
        """Read each register once in the block, in which nothing changes them: a read is a round trip to QEMU."""
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def _register(self, register: tuple[int, int]) -> int:
        """Read a register, given by its offset and its size in bytes."""
        offset, size = register
        if self._known is None:
            return self._memory.register(self._base + offset, size)
        if register not in self._known:
            self._known[register] = self._memory.register(self._base + offset, size)
        return self._known[register]

    def _words(self, address: int, number: int) -> tuple[int, ...] | None:
        """Return a copy of so many 64-bit words; None if they are not in RAM."""
        try:
            return struct.unpack(f"<{number}Q", bytes(self._memory.read(address, number * 8)))
        except OutsideMemory:
            return None
