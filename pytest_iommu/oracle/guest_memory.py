# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM: a page table read from the guest's memory by the format's own definition, in the form of a dump.

Only ``formats`` knows the meaning of an item. Contiguous leaves of one table stay together as one piece: a table full
of pages costs one comparison, and lines are rendered only on demand.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice

from pytest_iommu import formats
from pytest_iommu.core.model import Entry, Kind, Prot, Range, Stats, TableConfig
from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.dialects.io_ptdump import render_entry, size_text
from pytest_iommu.dialects.io_ptdump_small import render_stats
from pytest_iommu.formats.base import ITEM_BYTES, NO_PROT, lg2, words
from pytest_iommu.oracle.expected import count as counted

FILES = ("page_table", "entries", "stats")
ITEM_BITS = 8 * ITEM_BYTES
NOTHING = -1
"""Neither an item nor an address."""

LineKey = tuple[int, int, Prot, tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The common part of items that differ only by their address.

    ``size`` in bytes and ``items`` are those of one leaf entry; ``step`` is the difference between the raw items of
    adjacent leaves. ``line`` is the identical object for all leaves that RNG-3 may merge into one line.
    """

    kind: Kind
    level: int
    size: int = 0
    items: int = 1
    step: int = 0
    prot: Prot = NO_PROT
    flags: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    line: LineKey | None = None


#: ``count`` leaves of one table that follow each other in IOVA, OA and raw item, or one table, or one bad item:
#: look, IOVA, where it points, raw item, count. A plain tuple, as there may be one for every page.
Piece = tuple[Look, int, int, int, int]
#: A line of page_table: look of its first leaf, first IOVA, the byte after its last, OA.
Line = tuple[Look, int, int, int]


#: A group with an item unlike its first one: IOVA and size of the group, its raw item, number and raw of the other.
Torn = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Walk:
    """The contents of a page table: ``levels`` in use, ``top`` the address of its top, ``pieces`` depth first.

    A group is one leaf, whose first item is shown. ``torn`` are the groups that are not complete.
    """

    config: TableConfig
    top: int
    levels: int
    pieces: tuple[Piece, ...]
    torn: tuple[Torn, ...] = ()

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """Return the lines of page_table."""
        with _no_collection():
            rows = [
                Range(first, end - 1, oa, look.level, look.size, look.prot, look.flags)
                for look, first, end, oa in self._lines
            ]
        return tuple(rows)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Return the lines of entries, a table before its entries. A bad item's address is decoded from its bits."""
        return tuple(self._entries())

    @cached_property
    def stats(self) -> Stats:
        """Return the lines of stats."""
        tables, leaves = dict.fromkeys(range(self.levels), 0), dict.fromkeys(range(self.levels), 0)
        tables[self.levels - 1] = 1
        for look, _, _, _, count in self.pieces:
            if look.kind is Kind.LEAF:
                leaves[look.level] += count
            elif look.kind is Kind.TABLE:
                tables[look.level - 1] += 1
        return counted(self.config, self.levels - 1, tables, leaves)

    def texts(self) -> dict[str, str]:
        """Return the files page_table, entries and stats of a true dump."""
        return {name: self.text(name) for name in FILES}

    def text(self, file: str) -> str:
        """Return one of those files; each is rendered once. KeyError for another name."""
        if file == "page_table":
            return self._page_table
        if file == "entries":
            return self._entries_text
        if file == "stats":
            return render_stats(self.stats)
        raise KeyError(file)

    @cached_property
    def _lines(self) -> list[Line]:
        """Merge by RNG-3: one line for leaves that are contiguous in IOVA and OA and look the same."""
        rows: list[Line] = []
        look, first, end, oa = Look(Kind.BAD, 0), NOTHING, NOTHING, NOTHING
        for here, iova, address, _, count in self.pieces:
            if here.line is None:
                continue
            if iova != end or here.line is not look.line or address - oa != iova - first:
                if end > 0:
                    rows.append((look, first, end, oa))
                look, first, oa = here, iova, address
            end = iova + here.size * count
        if end > 0:
            rows.append((look, first, end, oa))
        return rows

    @cached_property
    def _page_table(self) -> str:
        with _no_collection():
            rows = [
                f"0x{first:016x}-0x{end - 1:016x} 0x{oa:016x} {_padded(end - first)} {_line_end(look)}\n"
                for look, first, end, oa in self._lines
            ]
        return "".join(rows)

    def _entries(self) -> Iterator[Entry]:
        for look, iova, oa, raw, count in self.pieces:
            if look.kind is not Kind.LEAF:
                yield Entry(look.level, iova, look.kind, None, oa, raw)
                continue
            shown = look.flags + look.volatile
            for at in range(count):
                done = at * look.size
                item = raw + at * look.step
                yield Entry(look.level, iova + done, look.kind, look.size, oa + done, item, look.prot, shown)

    @cached_property
    def _entries_text(self) -> str:
        parts: list[str] = []
        for look, iova, oa, raw, count in self.pieces:
            if look.kind is not Kind.LEAF:
                parts.append(render_entry(Entry(look.level, iova, look.kind, None, oa, raw)) + "\n")
                continue
            kind, tail = _around(look)
            if count == 1:
                parts.append(f"{look.level} 0x{iova:016x}{kind}{oa:016x} raw 0x{raw:016x}{tail}")
                continue
            head, size, step = f"{look.level} 0x", look.size, look.step
            parts += [
                f"{head}{one:016x}{kind}{two:016x} raw 0x{three:016x}{tail}"
                for one, two, three in zip(
                    range(iova, iova + count * size, size),
                    range(oa, oa + count * size, size),
                    range(raw, raw + count * step, step),
                    strict=True,
                )
            ]
        return "".join(parts)


def walk(memory: Memory, config: TableConfig, top: int, levels: int | None = None) -> Walk:
    """Read the page table whose top is at the physical address ``top``.

    ``levels`` are those in use; by default, those of the configuration. A table item that points outside RAM is
    ``bad``; OutsideMemory if the top itself is not in RAM.
    """
    reader = _Reader(memory, config, levels or config.levels)
    with _no_collection():
        reader.read(top)
    return Walk(config, top, reader.levels, tuple(reader.pieces), tuple(reader.torn))


class _Reader:
    """One walk; ``pieces`` grows depth first."""

    def __init__(self, memory: Memory, config: TableConfig, levels: int) -> None:
        self.levels = levels
        self.pieces: list[Piece] = []
        self.torn: list[Torn] = []
        self._memory = memory
        self._config = config
        self._format = formats.get(config.format)
        self._unpack = unpack = partial(self._format.unpack, config)
        self._geometry = self._format.geometry(config)
        self._address = self._format.address_mask(config)
        self._rest = ~self._address
        # Where to add to a raw item is to add to its address: all of it, but for 52-bit addresses of 64K granules,
        # whose highest bits stand below the others.
        self._linear = self._address & -self._format.pack(config, config.granule)
        # How far its bits are to be moved up, where that is all there is to an address.
        self._up = lg2(unpack(self._linear & -self._linear)) - lg2(self._linear & -self._linear)
        self._plain = all(unpack(part) == part << self._up for part in (self._address, self._linear))
        self._looks: list[dict[int, Look]] = [{} for _ in range(levels)]
        self._groups: dict[tuple[int, int, int], Look] = {}
        self._bad = [Look(Kind.BAD, level) for level in range(levels)]
        self._steady = ~sum(flag.mask for flag in self._format.volatile)
        self._part = [Look(Kind.PART, level) for level in range(levels)]
        # The bits of a raw item in which a leaf that is no group must be 0: the address within the leaf
        self._within = [self._bits_below(1 << self._geometry.item_lg2(level)) for level in range(levels)]
        self._lines: dict[LineKey, LineKey] = {}

    def _bits_below(self, size: int) -> int:
        """Return the address bits of a raw item that stand for less than ``size``."""
        each = (1 << bit for bit in range(ITEM_BITS) if self._address >> bit & 1)
        return sum(bit for bit in each if self._unpack(bit) & size - 1)

    def read(self, top: int) -> None:
        """Read the whole table."""
        level = self.levels - 1
        data = self._data(top, level)
        if "sign_extend" in self._config.features:
            # The upper half of the table is the upper end of the address space (RNG-5).
            half = len(data) // 2
            upper = (1 << ITEM_BITS) - (half // ITEM_BYTES << self._geometry.item_lg2(level))
            self._table(level, data[:half], 0)
            self._table(level, data[half:], upper)
        else:
            base = self._format.aperture(self._config)[0] if "ttbr1" in self._config.features else 0
            self._table(level, data, base)

    def _data(self, address: int, level: int) -> bytes:
        """Return a copy of one table: the guest may be writing to it."""
        return bytes(self._memory.read(address, self._geometry.table_bytes(level, self.levels - 1)))

    def _table(self, level: int, data: bytes, base: int) -> None:
        """Read the items in ``data``, at ``level`` and from the IOVA ``base`` on."""
        whole = int.from_bytes(data, "little")
        if not whole:
            return
        number = len(data) // ITEM_BYTES
        first = whole & (1 << ITEM_BITS) - 1
        if first:
            # A table full of leaves one after the other is an arithmetic progression, compared as one large number.
            look = self._looks[level].get(first & self._rest) or self._look(level, first)
            aligned = not first & self._within[level]
            full = aligned and bool(look.step) and self._fitting(look, first) >= number
            if full and whole == first * _ones(number) + look.step * _ramp(number):
                self.pieces.append((look, base, self._unpack(first), first, number))
                return
        self._items(level, struct.unpack(f"<{number}Q", data), base)

    def _items(self, level: int, items: tuple[int, ...], base: int) -> None:
        """Read items one by one. Optimized, because it runs for every item of a table that is not uniform."""
        rest, looks, shift, add = self._rest, self._looks[level], self._geometry.item_lg2(level), self.pieces.append
        plain, address, up, unpack, within = self._plain, self._address, self._up, self._unpack, self._within[level]
        want, count, step, more, iova, oa, began = NOTHING, 0, 0, 0, 0, 0, 0
        run = self._bad[level]
        numbered = enumerate(items)
        for index, raw in numbered:
            if raw == want and (not more or items[index : index + more + 1].count(raw) > more):
                count += 1
                want += step
                if more:
                    next(islice(numbered, more, more), None)
                continue
            if count == 1:
                add((run, iova, oa, began, 1))
            elif count:
                self._run(run, iova, oa, began, count)
            count, want = 0, NOTHING
            if not raw:
                continue
            look = looks.get(raw & rest) or self._look(level, raw)
            iova = base + (index << shift)
            step = look.step
            if step:
                if raw & within:
                    add((self._bad[level], iova, unpack(raw), raw, 1))
                    continue
                oa = (raw & address) << up if plain else unpack(raw)
                more = 0
            elif look.kind is Kind.LEAF:
                oa, look = self._group(level, raw, index, items)
                step, more = look.step, look.items - 1
                if look.kind is not Kind.LEAF:
                    add((look, iova, oa, raw, 1))
                    continue
                next(islice(numbered, more, more), None)
                if items[index : index + more + 1].count(raw) <= more:
                    add((self._uneven(look, iova, items[index : index + more + 1]), iova, oa, raw, 1))
                    continue
            else:
                self._other(look, iova, raw)
                continue
            run, began, count, want = look, raw, 1, raw + step
        if count:
            self._run(run, iova, oa, began, count)

    def _run(self, look: Look, iova: int, oa: int, raw: int, count: int) -> None:
        """Add leaves whose items are an arithmetic progression."""
        fitting = self._fitting(look, raw)
        self.pieces.append((look, iova, oa, raw, min(count, fitting)))
        if count > fitting:
            # The sum ran over the end of the address field: what follows looks different and happens to fit.
            firsts = range(raw + fitting * look.step, raw + count * look.step, look.step)
            items = tuple(item for item in firsts for _ in range(look.items))
            self._items(look.level, items, iova + fitting * look.size)

    def _fitting(self, look: Look, raw: int) -> int:
        """Return how many leaves from this one on the address field can count up."""
        return ((raw | self._linear) - raw) // look.step + 1

    def _other(self, look: Look, iova: int, raw: int) -> None:
        """Add a table and its contents, or a bad item."""
        address = self._unpack(raw)
        if look.kind is Kind.TABLE:
            try:
                data = self._data(address, look.level - 1)
            except OutsideMemory:
                look = self._bad[look.level]
            else:
                self.pieces.append((look, iova, address, raw, 1))
                self._table(look.level - 1, data, iova)
                return
        self.pieces.append((look, iova, address, raw, 1))

    def _look(self, level: int, raw: int) -> Look:
        """Classify an item by its bits except the address; a leaf with its size encoded in the address has step 0."""
        key = raw & self._rest
        kind = self._format.kind(self._config, level, raw) or Kind.BAD
        look = self._bad[level]
        if kind is Kind.TABLE:
            look = Look(kind, level)
        elif kind is Kind.LEAF:
            size = 1 << self._geometry.item_lg2(level)
            if {size} != {self._format.leaf_span(self._config, level, item)[1] for item in (raw, key)}:
                look = Look(kind, level)
            elif size in self._config.page_sizes:
                look = self._leaf(level, raw, size)
        if look.kind is not Kind.BAD:
            self._looks[level][key] = look  # what is bad may be so by its address
        return look

    def _uneven(self, look: Look, iova: int, group: tuple[int, ...]) -> Look:
        """Return the look of a group whose items differ, and note it when it is torn: hardware may read any of them.

        It may also set A and D in any of them.
        """
        first, seen = group[0], 0
        others = [(number, raw) for number, raw in enumerate(group) if (raw ^ first) & self._steady]
        if others:
            self.torn.append((iova, look.size, first, *others[0]))
        for raw in group:
            seen |= raw
        return replace(look, volatile=words(self._format.volatile, seen))

    def _group(self, level: int, raw: int, index: int, table: tuple[int, ...]) -> tuple[int, Look]:
        """Return OA and look of a leaf that is a group of items.

        It is bad if there is no such size, and a part if the group begins elsewhere, where its first item is not.
        """
        oa, size = self._format.leaf_span(self._config, level, raw)
        key = level, raw & self._rest, size
        look = self._groups.get(key)
        if look is None:
            fits = size in self._config.page_sizes and self._geometry.level_of(size) == level
            look = self._groups[key] = self._leaf(level, raw, size) if fits else self._bad[level]
        whole = look.items <= len(table) and self._format.classify(self._config, level, raw) is Kind.LEAF
        if look.kind is Kind.BAD or not whole:
            return self._unpack(raw), self._bad[level]
        if index % look.items:
            return self._unpack(raw), self._part[level]
        return oa, look

    def _leaf(self, level: int, raw: int, size: int) -> Look:
        fmt, config = self._format, self._config
        prot, flags = fmt.prot(config, raw), words(fmt.flags, raw)
        line = self._lines.setdefault((level, size, prot, flags), (level, size, prot, flags))
        items = size >> self._geometry.item_lg2(level)
        volatile = words(fmt.volatile, raw)
        return Look(Kind.LEAF, level, size, items, fmt.pack(config, size), prot, flags, volatile, line)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable cyclic garbage collection: there are no cycles, and the search takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(maxsize=64)
def _ones(number: int) -> int:
    """Return a table of ``number`` items that are all 1, as one large number."""
    return int.from_bytes(struct.pack(f"<{number}Q", *[1] * number), "little")


@lru_cache(maxsize=64)
def _ramp(number: int) -> int:
    """Return a table of items 0, 1, 2 and so on, as one large number."""
    return int.from_bytes(struct.pack(f"<{number}Q", *range(number)), "little")


@lru_cache(maxsize=4096)
def _padded(size: int) -> str:
    return f"{size_text(size):>8}"


@lru_cache(maxsize=1024)
def _line_end(look: Look) -> str:
    """Render a line of page_table from the level on."""
    return " ".join((str(look.level), _padded(look.size), str(look.prot), *look.flags))


@lru_cache(maxsize=1024)
def _around(look: Look) -> tuple[str, str]:
    """Render a line of entries between IOVA and OA, and from the end of the raw item on."""
    words_shown = " ".join((str(look.prot), *look.flags, *look.volatile))
    return f" leaf  {size_text(look.size):<2} 0x", f" {words_shown}\n"
