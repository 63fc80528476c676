# SPDX-License-Identifier: GPL-2.0-only
"""The commands that a kernel gave an SMMUv3, read back from its queue: they stay there until it wraps around."""

from __future__ import annotations

from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats.smmuv3_commands import COMMAND_BYTES, Command, decode_command
from pytest_iommu.oracle.ring import Ring

# IHI 0070, 6.3.26 and 6.3.27; in bytes, of the widths that they are read with.
CMDQ_BASE = 0x90, 8
CMDQ_PROD = 0x98, 4
REGISTERS = (CMDQ_BASE, CMDQ_PROD)


class CommandQueue:
    """The queue of the SMMUv3 with registers at the physical address ``base``; remembers how far it has been read."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._ring = Ring(memory, base + CMDQ_BASE[0], base + CMDQ_PROD[0], COMMAND_BYTES)

    def skip(self) -> None:
        """Forget the commands of before."""
        self._ring.skip()

    def new(self) -> tuple[Command, ...] | None:
        """Return the commands since the last call (at first: since the queue's setup), oldest first.

        None if some of them are lost: overwritten since, or not in RAM.
        """
        records, lost = self._ring.new()
        return None if lost else tuple(map(decode_command, records))
