# SPDX-License-Identifier: GPL-2.0-only
"""Vocabulary of races and storms: where a reader can be held, and what kernel threads change meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.core.model import format_size

TABLE, LEAF, BATCH, COPY = "table-loaded", "leaf-loaded", "between-batches", "copying"
POINTS = (TABLE, LEAF, BATCH, COPY)
INSIDE = (TABLE, LEAF)
PREEMPTED, FROZEN = "preempted", "frozen"
WAYS = (PREEMPTED, FROZEN)
TIMEOUT = 15.0
"""Seconds of host time to wait for a reader at its point: the longest wait seen so far is below one."""
MORE = 100000
"""Maximum number of changes of a storm in that time, 100 microseconds apart."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A point at which a reader is held.

    ``at`` is one of POINTS:

    - table-loaded: the reader has loaded, but not yet used, the item at ``level`` (default 1) on the way to ``iova``,
      which points to a table;
    - leaf-loaded: the same for the leaf that maps ``iova``;
    - between-batches: it has left the RCU section in which it loaded the leaf that maps ``iova``, and has not entered
      the next one;
    - copying: it waits in a page fault of its own buffer, which is not resolved.

    ``how``: preempted by a process of higher priority, while the rest of the kernel runs, including its processor; or
    frozen together with its processor, which answers no interrupts. Copying needs neither. ``timeout`` is in seconds of
    host time: a reader that does not reach its point by then is a failure, never a skip.
    """

    at: str
    iova: int = 0
    level: int | None = None
    how: str = PREEMPTED
    timeout: float = TIMEOUT

    @property
    def inside(self) -> bool:
        """Whether the reader is inside the walk, so that the tables it may read next must not be freed."""
        return self.at in INSIDE

    def __str__(self) -> str:
        if self.at == COPY:
            return "a reader whose text is being copied to its buffer"
        what = {TABLE: f"that has loaded the table item of level {self.level or 1}", LEAF: "that has loaded the leaf"}
        where = what.get(self.at, "between two batches, the first with the leaf")
        return f"a reader {where} of 0x{self.iova:x} ({self.how})"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a whole file repeatedly, ``chunk`` bytes per read(2), during the whole storm."""

    file: str = "page_table"
    chunk: int = 65536
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Storm:
    """``cells`` of ``cell`` bytes, one every ``gap`` bytes from ``iova`` on, changed ``operations`` times in total.

    ``mappers`` threads make the changes, on one processor after the other. Each sleeps ``pause`` microseconds after a
    change: without a pause, a cell changes so often during one read that few of its values can be ruled out. ``seed``
    determines the changes. Sentinels are the mappings of the table beside the cells.

    With ``round`` the mappers race in rounds for the tables that lead to their cells: in each round all map at once,
    each in a cell of its own, ``round`` bytes behind the cells of the round before. The first one begins ``late``
    microseconds after the others. Then ``operations`` and ``pause`` do not count, and nobody reads.

    Readers on the same processor take turns. A reader that is preempted in the middle of a read misses so many changes
    that hardly anything can be ruled out. So by default there is one reader, on processor 1, and a single mapper
    elsewhere.
    """

    iova: int
    cell: int
    cells: int
    gap: int = 0
    mappers: int = 1
    operations: int = 4000
    seed: int = 0
    readers: tuple[Reader, ...] = (Reader(cpu=1),)
    pause: int = 0
    round: int = 0
    late: int = 0

    def command(self, name: str) -> str:
        """Return the test module's command for the domain of that name."""
        gap = f" gap={format_size(self.gap)}" if self.gap else ""
        where = f"storm {name} {self.iova:#x} {format_size(self.cell)} cells={self.cells}{gap} threads={self.mappers}"
        if self.round:
            return f"{where} round={format_size(self.round)} late={self.late} seed={self.seed}"
        pause = f" pause={self.pause}" if self.pause else ""
        return f"{where} ops={self.operations} more={MORE}{pause} seed={self.seed}"
