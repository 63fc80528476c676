# SPDX-License-Identifier: GPL-2.0-only
"""Where a reader can be held, and how it is kept there."""

from __future__ import annotations

from dataclasses import dataclass

TABLE, LEAF, BATCH, COPY = "table-loaded", "leaf-loaded", "between-batches", "copying"
POINTS = (TABLE, LEAF, BATCH, COPY)
INSIDE = (TABLE, LEAF)
PREEMPTED, FROZEN = "preempted", "frozen"
WAYS = (PREEMPTED, FROZEN)
TIMEOUT = 15.0
"""Seconds of host time for whoever is awaited at a point: the longest that was seen is below one."""


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
