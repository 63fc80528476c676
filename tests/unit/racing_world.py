# SPDX-License-Identifier: GPL-2.0-only
"""Cells and sentinels that change at random, and a walker that reads them while they do: the truth, item by item."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_iommu.check.races.history import Change, History, Interval, Line
from pytest_iommu.core.model import Prot, Range, TableConfig
from pytest_iommu.formats import configure
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.expected import merge

K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE = 4 * K
BASE, OA = 0x40000000, 0x800000000
RW, RO = Prot.from_letters("rw"), Prot.from_letters("r")
ARM, AMD = configure("arm_64_lpae_s1", ias=48, oas=44), configure("amdv1")


def mapped(config: TableConfig, iova: int, oa: int, size: int, prot: Prot = RW, leaf: int | None = None) -> Range:
    """The one line of one map call."""
    model = TableModel(config)
    model.map(iova, oa, size, prot, leaf)
    (row,) = model.snapshot().ranges
    return row


@dataclass
class World:
    """Cells of ``size`` bytes and sentinels, changed at random; the truth is kept item by item."""

    chance: random.Random
    config: TableConfig
    size: int
    cells: int
    gap: int
    changes: int
    end: int = 0
    start: list[Range] = field(default_factory=list)
    #: page -> (time, leaf) from then on; one list a page, ascending
    items: dict[int, list[tuple[int, Range | None]]] = field(default_factory=dict)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        below = mapped(self.config, BASE - 3 * PAGE, OA, 2 * PAGE, RW, PAGE)
        above = mapped(self.config, self.cell(self.cells) + PAGE, OA + G, 3 * PAGE, RO, PAGE)
        self.start = [below, above]
        for row in self.start:
            self._set(row.first, row.last, [row], lambda _: 0)
        self.history = History(self.config, self.start)
        now, state = 0, [0] * self.cells
        free = [0] * self.cells
        for number in range(self.changes):
            cell = self.chance.randrange(self.cells)
            begin = max(now, free[cell])
            state[cell] = self.chance.choice([s for s in range(5) if s != state[cell]]) if state[cell] == 0 else 0
            end = begin + self.chance.randrange(4)
            self._change(cell, state[cell], begin, end, number)
            free[cell], now = end, begin + self.chance.randrange(3)
            self.end = max(self.end, end)

    def cell(self, number: int) -> int:
        return BASE + number * self.gap

    def rows(self, cell: int, state: int) -> list[Range]:
        """What a cell is in a state (those of the test module's command `storm`)."""
        first, oa = self.cell(cell), OA + (state + 2) * G + cell * self.size
        if state == 0:
            return []
        half = self.size // 2 if self.size > PAGE else self.size
        size = half if state == 4 else self.size
        leaf = self.size if state == 3 and self.size in self.config.page_sizes else PAGE
        return [mapped(self.config, first, oa, size, RO if state == 2 else RW, leaf)]

    def _change(self, cell: int, state: int, begin: int, end: int, number: int) -> None:
        rows = self.rows(cell, state)
        first = self.cell(cell)
        last = first + self.size - 1
        self._set(first, last, rows, lambda _: self.chance.randint(begin, end))
        self.history.add(Change(first, last, tuple(rows), begin, end, f"{number}"))

    def _set(self, first: int, last: int, rows: Sequence[Range], when: Callable[[int], int]) -> None:
        for iova in range(first, last + 1, PAGE):
            row = next((row for row in rows if row.first <= iova <= row.last), None)
            leaf = None
            if row is not None:
                base = iova & -row.leaf
                leaf = replace(row, first=base, last=base + row.leaf - 1, oa=row.oa + base - row.first)
            self.items.setdefault(iova, []).append((when(iova), leaf))

    def load(self, iova: int, now: int) -> tuple[Range | None, int]:
        """The leaf at an address, and where the walk goes on; a group is there when its first item is."""
        leaf = self._item(iova, now)
        if leaf is None or self._item(leaf.first, now) != leaf:
            return None, iova + PAGE
        return replace(leaf, first=iova, oa=leaf.oa + iova - leaf.first), leaf.last + 1

    def _item(self, iova: int, now: int) -> Range | None:
        past = [leaf for begin, leaf in self.items.get(iova, ()) if begin <= now]
        return past[-1] if past else None

    def read(self, begin: int, hurry: int, stale: int) -> tuple[list[Range], list[Line], Interval]:
        """One read: its items, its lines with their windows, and its span."""
        now, loaded, entered = begin, begin, begin
        here, found = BASE - 8 * PAGE, list[tuple[Range, int]]()
        end = self.cell(self.cells) + 8 * PAGE
        while here < end:
            now += self.chance.randrange(hurry)
            if not self.chance.randrange(stale):
                entered = now  # another batch: from here on no table is older than now
            loaded = self.chance.randint(max(entered, loaded), now)
            leaf, here = self.load(here, loaded)
            if leaf is not None:
                found.append((leaf, now))
        stop = now + 1
        lines: list[Line] = []
        for row in merge(leaf for leaf, _ in found):
            read = max(time for leaf, time in found if row.first <= leaf.first <= row.last)
            lines.append((row, Interval(begin, min(read + self.chance.randrange(4), stop))))
        return [leaf for leaf, _ in found], lines, Interval(begin, stop)


def world(chance: random.Random) -> World:
    config, size = chance.choice([(AMD, 64 * K), (AMD, PAGE), (ARM, PAGE), (ARM, 16 * K)])
    gap = size * chance.choice([1, 1, 2])
    return World(chance, config, size, chance.randint(1, 8), gap, chance.randint(0, 150))
