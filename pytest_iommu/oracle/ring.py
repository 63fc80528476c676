# SPDX-License-Identifier: GPL-2.0-only
"""A queue of an SMMUv3, read back from memory: what was taken from it stays there until it wraps around.

Sources: IHI 0070, 3.5 "Command and Event queues", 6.3.26 to 6.3.31 for the registers.
"""

from __future__ import annotations

import struct

from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.formats.base import Field, bits

_LOG2SIZE, _BASE = Field(0, 4, 0), Field(0, 51, 5)
OVERFLOW = bits(31)
"""Of the index of whoever adds: it changes when a record could not be added."""


class Ring:
    """The queue whose registers for base and producer are at these physical addresses; remembers how far it was read.

    An access to a register that has another size than it reads as zero in QEMU.
    """

    def __init__(self, memory: Memory, base: int, producer: int, record: int) -> None:
        """``record``: bytes of a record."""
        self._memory = memory
        self._registers = (base, 8), (producer, 4)
        self._words = struct.Struct(f"<{record // 8}Q")
        self._queue = 0
        self._seen = 0

    def skip(self) -> None:
        """Forget the records of before."""
        self._queue, self._seen = (self._memory.register(*register) for register in self._registers)

    def new(self) -> tuple[list[tuple[int, ...]], bool]:
        """Return the words of the records since the last call (at first: since the queue's setup), oldest first.

        And whether others are lost: overwritten since, never added, or not in RAM.
        """
        base, producer = (self._memory.register(*register) for register in self._registers)
        if base != self._queue:
            self._queue, self._seen = base, 0
        size = 1 << _LOG2SIZE.of([base])
        seen, self._seen = self._seen, producer
        # The index is one bit wider than the queue is long, so a full one differs from an empty one.
        number = (producer - seen) % (2 * size)
        lost = bool((producer ^ seen) & OVERFLOW) or number > size
        number = min(number, size)
        at = (producer - number) % size
        start, first = _BASE.address([base]), min(number, size - at)
        try:
            data = self._read(start, at, first) + self._read(start, 0, number - first)
        except OutsideMemory:
            return [], True
        return list(self._words.iter_unpack(data)), lost

    def _read(self, start: int, at: int, number: int) -> bytes:
        record = self._words.size
        return bytes(self._memory.read(start + at * record, number * record)) if number else b""
