# SPDX-License-Identifier: GPL-2.0-only
"""The queues of an IOMMU, read back from memory: what was taken from one stays there until it wraps around.

Sources of Ring, that of an SMMUv3: IHI 0070, 3.5 "Command and Event queues", 6.3.26 to 6.3.31 for the registers.
"""

from __future__ import annotations

import struct

from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.formats.base import Field, bits

_LOG2SIZE, _BASE = Field(0, 4, 0), Field(0, 51, 5)
OVERFLOW = bits(31)
"""Of the index of whoever adds: it changes when a record could not be added."""


class _Records:
    """Records of so many bytes in memory, in a queue that wraps around."""

    def __init__(self, memory: Memory, record: int) -> None:
        self._memory = memory
        self._words = struct.Struct(f"<{record // 8}Q")

    def _take(self, start: int, size: int, at: int, number: int) -> tuple[list[tuple[int, ...]], bool]:
        """Return the words of ``number`` records from index ``at`` on, and whether they are not in RAM.

        The queue is at ``start`` and has ``size`` records.
        """
        first = min(number, size - at)
        try:
            data = self._read(start, at, first) + self._read(start, 0, number - first)
        except OutsideMemory:
            return [], True
        return list(self._words.iter_unpack(data)), False

    def _read(self, start: int, at: int, number: int) -> bytes:
        record = self._words.size
        return bytes(self._memory.read(start + at * record, number * record)) if number else b""


class Log(_Records):
    """A queue of whose producer only the index is known; remembers how far it was read."""

    def __init__(self, memory: Memory, record: int) -> None:
        super().__init__(memory, record)
        self._start = 0
        self._seen = 0

    def new(self, start: int, size: int, tail: int) -> tuple[list[tuple[int, ...]], bool]:
        """Return the words of the records since the last call (at first: since index 0), and whether some are lost."""
        seen = self._seen if start == self._start else 0
        self._start, self._seen = start, tail
        return self._take(start, size, seen, (tail - seen) % size)


class Ring(_Records):
    """The queue whose registers for base and producer are at these physical addresses; remembers how far it was read.

    An access to a register that has another size than it reads as zero in QEMU.
    """

    def __init__(self, memory: Memory, base: int, producer: int, record: int) -> None:
        """``record``: bytes of a record."""
        super().__init__(memory, record)
        self._registers = (base, 8), (producer, 4)
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
        records, outside = self._take(_BASE.address([base]), size, (producer - number) % size, number)
        return records, lost or outside
