# SPDX-License-Identifier: GPL-2.0-only
"""The words of races and storms: where a reader can be held, and what the kernel's threads change meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.core.model import format_size

TABLE, LEAF, BATCH, COPY = "table-loaded", "leaf-loaded", "between-batches", "copying"
POINTS = (TABLE, LEAF, BATCH, COPY)
INSIDE = (TABLE, LEAF)
PREEMPTED, FROZEN = "preempted", "frozen"
WAYS = (PREEMPTED, FROZEN)
TIMEOUT = 15.0
"""Seconds of host time for whoever is awaited at a point: the longest that was seen is below one."""
MORE = 100000
"""Changes that a storm may go on with for that, 100 microseconds apart."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One point that a reader comes to, and is held at.

    ``at`` is one of POINTS:

    - table-loaded: it has loaded the item of the table at ``level`` (default 1) on the way to ``iova``, which points
      to a table, and has not yet made anything of it;
    - leaf-loaded: the same for the leaf that maps ``iova``;
    - between-batches: it has left the RCU section in which it loaded the leaf that maps ``iova``, and has not entered
      the next one;
    - copying: it waits in a page fault of its own buffer, which nobody serves.

    ``how``: preempted by a process of higher priority, so that all else in the kernel goes on, its processor included;
    or frozen, with its whole processor, which answers no interrupt either. Copying needs neither. ``timeout`` in
    seconds of host time: not to have come to the point by then is a failure, never a skip.
    """

    at: str
    iova: int = 0
    level: int | None = None
    how: str = PREEMPTED
    timeout: float = TIMEOUT

    @property
    def inside(self) -> bool:
        """Whether the reader stands inside the walk: what it may read next must not go away."""
        return self.at in INSIDE

    def __str__(self) -> str:
        if self.at == COPY:
            return "a reader whose text is being copied to its buffer"
        what = {TABLE: f"that has loaded the table item of level {self.level or 1}", LEAF: "that has loaded the leaf"}
        where = what.get(self.at, "between two batches, the first with the leaf")
        return f"a reader {where} of 0x{self.iova:x} ({self.how})"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a whole file again and again, ``chunk`` bytes a read(2), as long as the storm lasts."""

    file: str = "page_table"
    chunk: int = 65536
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Storm:
    """``cells`` of ``cell`` bytes, one every ``gap`` bytes from ``iova`` on, changed ``operations`` times in all.

    ``mappers`` threads do that, from one processor to the next, each of which sleeps ``pause`` microseconds after a
    change: with none, a cell changes many times in one read, and few of its values can be ruled out. What they do
    follows from ``seed``. Sentinels are what
    the table has mapped beside the cells. Readers that share a processor take turns, and one whose turn is over in the
    middle of a read has seen so much change when it comes back that hardly anything can be ruled out: by default there
    is one, on processor 1, where a single mapper is not.
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

    def command(self, name: str) -> str:
        """The test module's command for the domain of that name."""
        gap = f" gap={format_size(self.gap)}" if self.gap else ""
        pause = f" pause={self.pause}" if self.pause else ""
        return (
            f"storm {name} {self.iova:#x} {format_size(self.cell)} cells={self.cells}{gap} "
            f"threads={self.mappers} ops={self.operations} more={MORE}{pause} seed={self.seed}"
        )
