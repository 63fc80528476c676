# SPDX-License-Identifier: GPL-2.0-only
"""The expected dump of a known page table: leaves, merged ranges (RNG-3), entries and stats.

Nothing here is taken from a dump. Only the addresses of tables cannot be predicted: an expected table entry has address
0 and, in ``raw``, all bits except the address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_iommu import formats
from pytest_iommu.core.model import Dump, Entry, Info, Kind, Leaf, LevelStats, Prot, Range, Stats, TableConfig
from pytest_iommu.formats import Attributes


@dataclass(frozen=True, slots=True)
class LeafRun:
    """``count`` leaves of ``leaf`` bytes each, contiguous in IOVA and OA and otherwise identical."""

    iova: int
    oa: int
    leaf: int
    count: int
    level: int
    attributes: Attributes

    @property
    def last(self) -> int:
        return self.iova + self.leaf * self.count - 1

    def slice(self, begin: int, end: int) -> LeafRun:
        """Return the leaves ``begin`` up to, not including, ``end``."""
        offset = self.leaf * begin
        return LeafRun(self.iova + offset, self.oa + offset, self.leaf, end - begin, self.level, self.attributes)


@dataclass(frozen=True)
class Expected:
    """A page table at one moment: ``top`` is the level of its top, ``tables`` the numbers of the tables per level."""

    config: TableConfig
    top: int
    runs: tuple[LeafRun, ...]
    tables: Mapping[int, frozenset[int]]

    @property
    def format(self) -> formats.Format:
        return formats.get(self.config.format)

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """Return the lines of page_table."""
        return merge(
            Range(
                run.iova,
                run.last,
                run.oa,
                run.level,
                run.leaf,
                run.attributes.prot,
                run.attributes.flags,
            )
            for run in self.runs
        )

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Return the lines of entries, depth first: a table before its entries."""
        fmt, geometry = self.format, self.format.geometry(self.config)
        found: list[tuple[int, int, Entry]] = []
        for level, numbers in self.tables.items():
            word = fmt.table_bits(self.config, level + 1)
            shift = geometry.item_lg2(level + 1)
            for number in numbers:
                iova = number << shift
                found.append((iova, -level - 1, Entry(level + 1, iova, Kind.TABLE, None, 0, word)))
        for run in self.runs:
            look = run.attributes
            words, raw, pack = look.flags + look.volatile, look.raw, fmt.pack
            for index in range(run.count):
                iova, oa = run.iova + index * run.leaf, run.oa + index * run.leaf
                item = raw | pack(self.config, oa)
                found.append(
                    (iova, -run.level, Entry(run.level, iova, Kind.LEAF, run.leaf, oa, item, look.prot, words))
                )
        found.sort(key=_place)
        return tuple(entry for _, _, entry in found)

    @cached_property
    def stats(self) -> Stats:
        """Return the lines of stats."""
        leaves = dict.fromkeys(range(self.top + 1), 0)
        for run in self.runs:
            leaves[run.level] += run.count
        tables = {level: len(numbers) for level, numbers in self.tables.items()} | {self.top: 1}
        return count(self.config, self.top, tables, leaves)

    @property
    def info(self) -> Info:
        """Return the lines of info, its ``top`` unknown (0)."""
        aperture = self.format.aperture(self.config)
        sizes = tuple(sorted(self.config.page_sizes))
        return Info(self.config.format, "unmanaged", aperture, sizes, self.top + 1, 0)

    def leaves(self) -> Iterator[Leaf]:
        """Yield every leaf, ascending."""
        for run in self.runs:
            look = run.attributes
            for index in range(run.count):
                iova, oa = run.iova + index * run.leaf, run.oa + index * run.leaf
                raw = look.raw | self.format.pack(self.config, oa)
                yield Leaf(iova, oa, run.level, run.leaf, look.prot, look.flags, look.volatile, raw)

    def requested(self, iova: int) -> Prot | None:
        """Return the requested prot of the mapping at ``iova``, None if nothing is mapped there."""
        at = bisect_right(self.runs, iova, key=lambda run: run.iova) - 1
        return self.runs[at].attributes.requested if at >= 0 and self.runs[at].last >= iova else None

    def dump(self, top: int = 0) -> Dump:
        """Return everything as a dump; table addresses are invented, one page each from ``top`` on (for tests)."""
        entries: list[Entry] = []
        address = top or 0x40000000
        info = self.info
        for entry in self.entries:
            if entry.kind is Kind.TABLE:
                address += 1 << 16
                raw = self.format.encode_table(self.config, entry.level, address)
                entry = Entry(entry.level, entry.iova, entry.kind, None, address, raw)
            entries.append(entry)
        placed = Info(info.format, info.type, info.aperture, info.page_sizes, info.levels, top or 0x40000000)
        return Dump(placed, self.ranges, tuple(entries), self.stats)


def _place(item: tuple[int, int, Entry]) -> tuple[int, int]:
    return item[0], item[1]


def merge(parts: Iterable[Range]) -> tuple[Range, ...]:
    """Return ascending ranges, with adjacent ones that continue each other merged (RNG-3)."""
    merged: list[Range] = []
    for part in parts:
        if merged and continues(merged[-1], part):
            before = merged.pop()
            part = Range(before.first, part.last, before.oa, part.level, part.leaf, part.prot, part.flags)
        merged.append(part)
    return tuple(merged)


def leaves(entries: Iterable[Entry], fmt: formats.Format) -> Iterator[Range]:
    """Return the leaves among the entries as lines of page_table; one split by the reader begins there (LVL-2)."""
    volatile = {flag.name for flag in fmt.volatile}
    for entry in entries:
        if entry.kind is Kind.LEAF and entry.size is not None and entry.prot is not None:
            last = entry.iova | entry.size - 1
            flags = tuple(word for word in entry.flags if word not in volatile)
            yield Range(entry.iova, last, entry.oa, entry.level, entry.size, entry.prot, flags)


def merge_entries(entries: Iterable[Entry], fmt: formats.Format) -> tuple[Range, ...]:
    """Return the leaves among the entries as ranges, which page_table must consist of (ENT-2)."""
    return merge(leaves(entries, fmt))


def continues(before: Range, after: Range) -> bool:
    """Whether RNG-3 requires these two adjacent ranges as one line."""
    return (
        before.last + 1 == after.first
        and before.oa + before.size == after.oa
        and before.level == after.level
        and before.leaf == after.leaf
        and before.prot == after.prot
        and before.flags == after.flags
    )


def count(config: TableConfig, top: int, tables: Mapping[int, int], leaves: Mapping[int, int]) -> Stats:
    """Return the stats of a table with that many tables and leaves per level."""
    geometry = formats.get(config.format).geometry(config)
    rows = []
    for level in range(top, -1, -1):
        number = tables.get(level, 0)
        rows.append(LevelStats(level, number, leaves.get(level, 0), number * geometry.table_bytes(level, top)))
    total = LevelStats(-1, sum(r.tables for r in rows), sum(r.leaves for r in rows), sum(r.bytes for r in rows))
    return Stats(tuple(rows), total)
