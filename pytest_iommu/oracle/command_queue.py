# SPDX-License-Identifier: GPL-2.0-only
"""The commands that a kernel gave an IOMMU, read back from its queue: they stay there until it wraps around."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.formats.invalidations import Invalidation
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


class CommandLog:
    """The queue of another IOMMU, of whose producer only the index is known.

    ``where`` returns the queue's address, its number of records and the producer's index. That more records were added
    than there is room for is seen in those that should not have changed.
    """

    def __init__(
        self,
        memory: Memory,
        record: int,
        where: Callable[[], tuple[int, int, int]],
        decode: Callable[[Sequence[int]], Invalidation],
    ) -> None:
        """``record``: bytes of a record. What was added before is skipped."""
        self._memory = memory
        self._record = record
        self._where = where
        self._decode = decode
        self._seen = self._start = 0
        self._copy = b""
        self.skip()

    def skip(self) -> None:
        """Forget the commands of before."""
        self._start, _, self._seen, self._copy = self._read()

    def new(self) -> tuple[Invalidation, ...] | None:
        """Return the commands since the last call, oldest first. None if some of them are lost."""
        seen, before, queue = self._seen, self._copy, self._start
        self._start, size, self._seen, self._copy = self._read()
        if not self._copy or self._start != queue or len(before) != len(self._copy):
            return None
        number = (self._seen - seen) % size * self._record
        old, now = (data[seen * self._record :] + data[: seen * self._record] for data in (before, self._copy))
        if old[number:] != now[number:]:
            return None
        return tuple(map(self._decode, struct.iter_unpack(f"<{self._record // 8}Q", now[:number])))

    def _read(self) -> tuple[int, int, int, bytes]:
        start, size, tail = self._where()
        try:
            return start, size, tail, bytes(self._memory.read(start, size * self._record))
        except OutsideMemory:
            return start, size, tail, b""
