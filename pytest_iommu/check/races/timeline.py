# SPDX-License-Identifier: GPL-2.0-only
"""What a page table was at every time, and whether the lines of a read that raced with its changes can be true.

Every address is judged on its own: a line may be many items merged, each of them loaded at another time of the line's
window (abi.md, CON-4 is by entry). Addresses are never counted one by one: those that were the same at all times are
one segment, however large. Times are whole numbers of any clock, all of the same one: nanoseconds or ordinals.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_iommu.core.model import Prot, Range, TableConfig

TOP = 1 << 64
#: the end of a change that is not over yet
FOREVER = 1 << 63
_ALWAYS = -FOREVER

#: all columns of a leaf but where it is: OA minus IOVA, level, leaf, prot, flags
Look = tuple[int, int, int, Prot, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, both ends included."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Change:
    """From ``first`` to ``last`` the table is ``ranges`` (ascending, none outside) when this is over.

    Before ``begin`` an address is what it was, after ``end`` what it is now, in between either, and nothing else: to
    unmap and to map are two changes. Where ``ranges`` says what was so before, nothing changes: a change may be given
    as the whole table, from 0 to 2^64 - 1. ``what`` is the operation, for the reader of a failure.
    """

    first: int
    last: int
    ranges: tuple[Range, ...]
    begin: int
    end: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a segment may be from ``begin`` to ``end``; None is not mapped. Neighbours overlap for a change's time."""

    look: Look | None
    begin: int
    end: int
    what: str


@dataclass(slots=True)
class Segment:
    """Addresses that are alike at all times, and what they are in the course of time."""

    first: int
    last: int
    epochs: list[Epoch]
    _begins: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    _by_look: dict[Look | None, tuple[list[int], list[int]]] = field(default_factory=dict)

    def close(self) -> None:
        """No epoch comes any more: make what the questions are answered by."""
        for epoch in self.epochs:
            self._begins.append(epoch.begin)
            self._ends.append(epoch.end)
            begins, ends = self._by_look.setdefault(epoch.look, ([], []))
            begins.append(epoch.begin)
            ends.append(epoch.end)

    def may_be(self, look: Look | None, window: Window) -> bool:
        """Whether it was that at some time of the window."""
        times = self._by_look.get(look)
        if times is None:
            return False
        begins, ends = times
        at = bisect_left(ends, window.begin)
        return at < len(ends) and begins[at] <= window.end

    def during(self, window: Window) -> list[Epoch]:
        """All that it may have been in the window, in order."""
        return self.epochs[bisect_left(self._ends, window.begin) : bisect_right(self._begins, window.end)]

    def steady(self, window: Window) -> Epoch | None:
        """What it was all the window long; None when it changed."""
        at = bisect_left(self._ends, window.begin)
        alone = at + 1 == len(self.epochs) or self._begins[at + 1] > window.end
        return self.epochs[at] if alone else None


class History:
    """A page table from ``ranges_at_start`` on, as its changes made it."""

    def __init__(self, config: TableConfig, ranges_at_start: Sequence[Range]) -> None:
        self.config = config
        self.page = min(config.page_sizes)
        self._start = tuple(ranges_at_start)
        self._changes: list[Change] = []
        self._segments: list[Segment] = []
        self._firsts: list[int] = []

    def add(self, change: Change) -> None:
        """One more change, in any order. ValueError when it contradicts itself."""
        if not 0 <= change.first <= change.last < TOP or change.begin > change.end:
            raise ValueError(f"{change} ends before it begins")
        if any(row.first < change.first or row.last > change.last for row in change.ranges):
            raise ValueError(f"{change} reaches farther than it says")
        self._changes.append(change)
        self._segments = []

    @property
    def changes(self) -> Sequence[Change]:
        """All that were added."""
        return self._changes

    @property
    def segments(self) -> Sequence[Segment]:
        """The whole address space, ascending. ValueError when two changes of an address overlap in time."""
        if not self._segments:
            self._build()
        return self._segments

    def segment(self, iova: int) -> Segment:
        """The one that an address is in."""
        segments = self.segments
        return segments[bisect_right(self._firsts, iova) - 1]

    def over(self, first: int, last: int) -> Iterator[Segment]:
        """Those that lie in part or whole between two addresses."""
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
        looks: dict[int, Look | None] = dict.fromkeys(here)
        for row in change.ranges:
            looks |= dict.fromkeys(self._within(row.first, row.last), look_of(row))
        for at, look in looks.items():
            epochs = states[at]
            before = epochs[-1]
            if before.look == look:
                continue
            if len(epochs) > 1 and epochs[-2].end > change.begin:
                why = f"{before.what!r} and {change.what!r} change 0x{self._firsts[at]:x} at the same time"
                raise ValueError(f"{why}: what it is in between nobody can say")
            epochs[-1] = Epoch(before.look, before.begin, change.end, before.what)
            epochs.append(Epoch(look, change.begin, FOREVER, change.what))


def look_of(row: Range) -> Look:
    """The columns of a line that all of its addresses share."""
    return row.oa - row.first, row.level, row.leaf, row.prot, row.flags


def row_of(look: Look, first: int, last: int) -> Range:
    """A line that looks like that."""
    delta, level, leaf, prot, flags = look
    return Range(first, last, first + delta, level, leaf, prot, flags)
