# SPDX-License-Identifier: GPL-2.0-only
"""Locate single items of a page table in the guest's memory, and the tables below an item."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.core.model import Kind, TableConfig
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats.base import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its physical ``address`` and ``size`` in bytes, its ``level``, and the IOVA of its first item."""

    address: int
    size: int
    level: int
    iova: int


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its physical ``address``, its ``table``, the first IOVA it covers, its value."""

    address: int
    table: Table
    iova: int
    raw: int
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Root:
    """A page table as described to the hardware: ``top`` is a physical address, ``levels`` are those in use."""

    config: TableConfig
    top: int
    levels: int

    def path(self, memory: Memory, iova: int) -> list[Item]:
        """Return the items on the path to an IOVA, the top's first; the last one is a leaf, bad or empty."""
        fmt = formats.get(self.config.format)
        geometry = fmt.geometry(self.config)
        level, address = self.levels - 1, self.top
        start = fmt.aperture(self.config)[0] if "ttbr1" in self.config.features else 0
        found: list[Item] = []
        while True:
            size = geometry.table_bytes(level, self.levels - 1)
            shift = geometry.item_lg2(level)
            index = (iova - start >> shift) % (size // ITEM_BYTES)
            first = (iova >> shift) - index << shift
            table = Table(address, size, level, first)
            where = address + index * ITEM_BYTES
            raw = int.from_bytes(memory.read(where, ITEM_BYTES), "little")
            kind = fmt.classify(self.config, level, raw)
            found.append(Item(where, table, iova >> shift << shift, raw, kind))
            if kind is not Kind.TABLE:
                return found
            level, address = level - 1, fmt.unpack(self.config, raw)

    def below(self, memory: Memory, item: Item) -> Iterator[Table]:
        """Return the table that an item points to, and all tables below it; none for any other item."""
        if item.kind is not Kind.TABLE:
            return
        fmt = formats.get(self.config.format)
        geometry = fmt.geometry(self.config)
        level = item.table.level - 1
        table = Table(fmt.unpack(self.config, item.raw), geometry.table_bytes(level, self.levels - 1), level, item.iova)
        yield table
        if level == 0:
            return
        for index, raw in enumerate(
            struct.unpack(f"<{table.size // ITEM_BYTES}Q", memory.read(table.address, table.size))
        ):
            if fmt.classify(self.config, level, raw) is Kind.TABLE:
                iova = table.iova + (index << geometry.item_lg2(level))
                yield from self.below(memory, Item(table.address + index * ITEM_BYTES, table, iova, raw, Kind.TABLE))

    def tables(self, memory: Memory) -> Iterator[Table]:
        """Return every table, the top first."""
        fmt = formats.get(self.config.format)
        size = fmt.geometry(self.config).table_bytes(self.levels - 1, self.levels - 1)
        # The top hangs on an item that nobody has: all its own items lead to the others.
        top = Table(self.top, size, self.levels - 1, 0)
        yield top
        shift = fmt.geometry(self.config).item_lg2(top.level)
        for index, raw in enumerate(struct.unpack(f"<{size // ITEM_BYTES}Q", memory.read(top.address, size))):
            kind = fmt.classify(self.config, top.level, raw)
            yield from self.below(memory, Item(top.address + index * ITEM_BYTES, top, index << shift, raw, kind))


def item_address(memory: Memory, root: Root, iova: int, level: int) -> Item:
    """Return the item of the table at ``level`` on the path to an IOVA. LookupError if the path ends above it."""
    path = root.path(memory, iova)
    found = next((item for item in path if item.table.level == level), None)
    if found is None:
        raise LookupError(f"the path to 0x{iova:x} ends at level {path[-1].table.level}, there is no item at {level}")
    return found
