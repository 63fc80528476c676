# SPDX-License-Identifier: GPL-2.0-only
"""The state of a page table over time, and whether the lines of a read that raced with its changes can be true.

Every address is judged on its own: a line may merge many items, each loaded at a different time of the line's window
(docs/abi.md, CON-4 holds per entry). Addresses are never counted one by one: addresses that had the same state at all
times form one segment of any size. Times are integers of one common clock: nanoseconds or ordinals.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_iommu.core.model import Prot, Range, TableConfig

TOP = 1 << 64
#: end of a change that is not over yet
FOREVER = 1 << 63
_ALWAYS = -FOREVER

#: all columns of a leaf except its location: OA minus IOVA, level, leaf, prot, flags
Columns = tuple[int, int, int, Prot, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A time interval, both ends included."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change: once it is over, the table has ``ranges`` from ``first`` to ``last`` (ascending, none outside).

    Before ``begin`` an address has its old state, after ``end`` its new state, and in between either of them but
    nothing else: unmapping and mapping are two changes. Where ``ranges`` equals the old state nothing changes, so a
    change may be given as the whole table, from 0 to 2^64 - 1. ``what`` names the operation in a failure.
    """

    first: int
    last: int
    ranges: tuple[Range, ...]
    begin: int
    end: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The state of a segment from ``begin`` to ``end``; None is unmapped. Adjacent epochs overlap during a change."""

    look: Columns | None
    begin: int
    end: int
    what: str


@dataclass(slots=True)
class Segment:
    """Addresses that have the same state at all times, and their epochs."""

    first: int
    last: int
    epochs: list[Epoch]
    _begins: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    _by_look: dict[Columns | None, tuple[list[int], list[int]]] = field(default_factory=dict)

    def close(self) -> None:
        """Build the lookup tables; no epoch is added after this."""
        for epoch in self.epochs:
            self._begins.append(epoch.begin)
            self._ends.append(epoch.end)
            begins, ends = self._by_look.setdefault(epoch.look, ([], []))
            begins.append(epoch.begin)
            ends.append(epoch.end)

    def may_be(self, look: Columns | None, window: Interval) -> bool:
        """Whether the segment can have had that state in the window."""
        times = self._by_look.get(look)
        if times is None:
            return False
        begins, ends = times
        at = bisect_left(ends, window.begin)
        return at < len(ends) and begins[at] <= window.end

    def during(self, window: Interval) -> list[Epoch]:
        """Return all states that the segment can have had in the window, in order."""
        return self.epochs[bisect_left(self._ends, window.begin) : bisect_right(self._begins, window.end)]

    def steady(self, window: Interval) -> Epoch | None:
        """Return the state that the segment had during the whole window; None if it changed."""
        at = bisect_left(self._ends, window.begin)
        alone = at + 1 == len(self.epochs) or self._begins[at + 1] > window.end
        return self.epochs[at] if alone else None


class History:
    """The history of a page table: ``ranges_at_start``, and its changes."""

    def __init__(self, config: TableConfig, ranges_at_start: Sequence[Range]) -> None:
        self.config = config
        self.page = min(config.page_sizes)
        self._start = tuple(ranges_at_start)
        self._changes: list[Change] = []
        self._segments: list[Segment] = []
        self._firsts: list[int] = []

    def add(self, change: Change) -> None:
        """Add a change, in any order. ValueError if it contradicts itself."""
        if not 0 <= change.first <= change.last < TOP or change.begin > change.end:
            raise ValueError(f"{change} ends before it begins")
        if any(row.first < change.first or row.last > change.last for row in change.ranges):
            raise ValueError(f"{change} has ranges outside its bounds")
        self._changes.append(change)
        self._segments = []

    @property
    def changes(self) -> Sequence[Change]:
        """All changes added so far."""
        return self._changes

    @property
    def segments(self) -> Sequence[Segment]:
        """Return the whole address space, ascending. ValueError if two changes of an address overlap in time."""
        if not self._segments:
            self._build()
        return self._segments

    def segment(self, iova: int) -> Segment:
        """Return the segment of an address."""
        segments = self.segments
        return segments[bisect_right(self._firsts, iova) - 1]

    def over(self, first: int, last: int) -> Iterator[Segment]:
        """Return the segments that overlap an address range."""
        segments = self.segments
        for at in range(bisect_right(self._firsts, first) - 1, len(segments)):
            if segments[at].first > last:
                return
            yield segments[at]

    def _build(self) -> None:
        edges = {0}
        for row in self._start:
            edges |= {row.first, row.last + 1}
        for change in self._changes:
            edges |= {change.first, change.last + 1}
            for row in change.ranges:
                edges |= {row.first, row.last + 1}
        edges.discard(TOP)
        self._firsts = sorted(edges)
        lasts = [first - 1 for first in self._firsts[1:]] + [TOP - 1]
        states: list[list[Epoch]] = [[Epoch(None, _ALWAYS, FOREVER, "")] for _ in self._firsts]
        for row in self._start:
            for at in self._within(row.first, row.last):
                states[at] = [Epoch(look_of(row), _ALWAYS, FOREVER, "from the start")]
        for change in sorted(self._changes, key=lambda change: (change.begin, change.end)):
            self._apply(change, states)
        pairs = zip(self._firsts, lasts, states, strict=True)
        self._segments = [Segment(first, last, epochs) for first, last, epochs in pairs]
        for segment in self._segments:
            segment.close()

    def _within(self, first: int, last: int) -> range:
        return range(bisect_left(self._firsts, first), bisect_left(self._firsts, last + 1))

    def _apply(self, change: Change, states: list[list[Epoch]]) -> None:
        here = self._within(change.first, change.last)
        looks: dict[int, Columns | None] = dict.fromkeys(here)
        for row in change.ranges:
            looks |= dict.fromkeys(self._within(row.first, row.last), look_of(row))
        for at, look in looks.items():
            epochs = states[at]
            before = epochs[-1]
            if before.look == look:
                continue
            if len(epochs) > 1 and epochs[-2].end > change.begin:
                why = f"{before.what!r} and {change.what!r} change 0x{self._firsts[at]:x} at the same time"
                raise ValueError(f"{why}: the state in between is undefined")
            epochs[-1] = Epoch(before.look, before.begin, change.end, before.what)
            epochs.append(Epoch(look, change.begin, FOREVER, change.what))


def look_of(row: Range) -> Columns:
    """Return the columns that are common to all addresses of a line."""
    return row.oa - row.first, row.level, row.leaf, row.prot, row.flags


def row_of(look: Columns, first: int, last: int) -> Range:
    """Return a line with these columns."""
    delta, level, leaf, prot, flags = look
    return Range(first, last, first + delta, level, leaf, prot, flags)
