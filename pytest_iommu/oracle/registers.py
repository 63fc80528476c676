# SPDX-License-Identifier: GPL-2.0-only
"""What an IOMMU's reader in memory begins with: its registers, and words of the structures that they lead to."""

from __future__ import annotations

import struct

from pytest_iommu.core.protocol import Memory, OutsideMemory


class Registers:
    """An IOMMU with registers at the physical address ``base``, and the memory that it reads."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._memory = memory
        self._base = base

    @property
    def base(self) -> int:
        """The address of the registers."""
        return self._base

    def _register(self, register: tuple[int, int]) -> int:
        """Read a register, given by its offset and its size in bytes."""
        offset, size = register
        return self._memory.register(self._base + offset, size)

    def _words(self, address: int, number: int) -> tuple[int, ...] | None:
        """Return a copy of so many 64-bit words; None if they are not in RAM."""
        try:
            return struct.unpack(f"<{number}Q", bytes(self._memory.read(address, number * 8)))
        except OutsideMemory:
            return None
