# SPDX-License-Identifier: GPL-2.0-only
"""The commands that a kernel gave an SMMUv3, read back from its queue: they stay there until it wraps around."""

from __future__ import annotations

import struct

from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.formats.smmuv3 import Field
from pytest_iommu.formats.smmuv3_commands import COMMAND_BYTES, Command, decode_command

# IHI 0070, 6.3.26 to 6.3.28; an access of the wrong size reads as zero in QEMU.
CMDQ_BASE = 0x90, 8
CMDQ_PROD = 0x98, 4
REGISTERS = (CMDQ_BASE, CMDQ_PROD)
_LOG2SIZE, _BASE = Field(0, 4, 0), Field(0, 51, 5)


class CommandQueue:
    """The queue of the SMMUv3 with registers at the physical address ``base``; remembers how far it has been read."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._memory = memory
        self._base = base
        self._queue = 0
        self._seen = 0

    def skip(self) -> None:
        """Forget the commands of before."""
        self._queue = self._memory.register(self._base + CMDQ_BASE[0], CMDQ_BASE[1])
        self._seen = self._memory.register(self._base + CMDQ_PROD[0], CMDQ_PROD[1])

    def new(self) -> tuple[Command, ...] | None:
        """Return the commands since the last call (at first: since the queue's setup), oldest first.

        None if some of them are lost: overwritten since, or not in RAM.
        """
        base = self._memory.register(self._base + CMDQ_BASE[0], CMDQ_BASE[1])
        prod = self._memory.register(self._base + CMDQ_PROD[0], CMDQ_PROD[1])
        if base != self._queue:
            self._queue, self._seen = base, 0
        size = 1 << _LOG2SIZE.of([base])
        # The index is one bit wider than the queue is long, so a full one differs from an empty one.
        seen, self._seen = self._seen, prod
        number = (prod - seen) % (2 * size)
        if number > size:
            return None
        start, at = _BASE.address([base]), seen % size
        first = min(number, size - at)
        try:
            data = bytes(self._memory.read(start + at * COMMAND_BYTES, first * COMMAND_BYTES)) if first else b""
            data += bytes(self._memory.read(start, (number - first) * COMMAND_BYTES)) if number > first else b""
        except OutsideMemory:
            return None
        return tuple(decode_command(words) for words in struct.iter_unpack("<2Q", data))
