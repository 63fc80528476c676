# SPDX-License-Identifier: GPL-2.0-only
"""Guest memory made of bytes: page tables written from a model, and what an SMMUv3 keeps in memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pytest_iommu import formats
from pytest_iommu.core.model import Dump, Entry, Kind
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.oracle import Expected

BASE = 0x40000000
SIZE = 16 << 20


class SyntheticMemory:
    """RAM of ``size`` bytes from ``base`` on, and registers by address."""

    def __init__(self, size: int = SIZE, base: int = BASE) -> None:
        self.base = base
        self.ram = bytearray(size)
        self.registers: dict[int, int] = {}
        self.sizes: set[tuple[int, int]] = set()
        """Register accesses seen, as (address, size)."""
        self._next = base

    def read(self, address: int, size: int) -> memoryview:
        return memoryview(self.ram)[self._offset(address, size) :][:size].toreadonly()

    def write(self, address: int, data: bytes) -> None:
        start = self._offset(address, len(data))
        self.ram[start : start + len(data)] = data

    def register(self, address: int, size: int = 4) -> int:
        self.sizes.add((address, size))
        return self.registers.get(address, 0) & (1 << 8 * size) - 1

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        self.registers[address] = value

    def _offset(self, address: int, size: int) -> int:
        if not self.base <= address <= address + size <= self.base + len(self.ram):
            raise OutsideMemory(f"{size} bytes at {address:#x}")
        return address - self.base

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes that nobody has, aligned to that, as hardware wants it of tables."""
        unit = 1 << max(size - 1, 4095).bit_length()
        self._next = -(-self._next // unit) * unit + unit
        return self._next - unit

    def words(self, address: int, words: Sequence[int]) -> None:
        """Write 64-bit words."""
        self.write(address, struct.pack(f"<{len(words)}Q", *words))

    def word(self, address: int) -> int:
        """Read a 64-bit word."""
        return int.from_bytes(self.read(address, 8), "little")


@dataclass
class Written:
    """A page table in memory: where each table is, by (level, number), the number being IOVA / what a table covers."""

    memory: SyntheticMemory
    expected: Expected
    top: int = 0
    tables: dict[tuple[int, int], int] = field(default_factory=dict)

    def slot(self, iova: int, level: int) -> int:
        """The address of the item at ``level`` that is for ``iova``."""
        top, geometry = self.expected.top, self.expected.format.geometry(self.expected.config)
        shift = geometry.item_lg2(level)
        table = self.top if level == top else self.tables[level, iova >> geometry.item_lg2(level + 1)]
        return table + (iova >> shift) % geometry.items(level, top) * 8

    def dump(self) -> Dump:
        """What the dump of it must be, now with the addresses of tables."""
        fmt, config = self.expected.format, self.expected.config
        geometry = fmt.geometry(config)
        entries: list[Entry] = []
        for entry in self.expected.entries:
            if entry.kind is Kind.TABLE:
                address = self.tables[entry.level - 1, entry.iova >> geometry.item_lg2(entry.level)]
                entry = replace(entry, oa=address, raw=fmt.encode_table(config, entry.level, address))
            entries.append(entry)
        return Dump(None, self.expected.ranges, tuple(entries), self.expected.stats)


def write_table(memory: SyntheticMemory, expected: Expected) -> Written:
    """Write the page table into memory, each table as often as it is there, group leaves in all their items."""
    config, top = expected.config, expected.top
    fmt = formats.get(config.format)
    geometry = fmt.geometry(config)
    written = Written(memory, expected, memory.allocate(geometry.table_bytes(top, top)))
    for level in range(top - 1, -1, -1):
        for number in sorted(expected.tables.get(level, ())):
            written.tables[level, number] = memory.allocate(geometry.table_bytes(level, top))
    for (level, number), address in written.tables.items():
        slot = written.slot(number << geometry.item_lg2(level + 1), level + 1)
        memory.words(slot, [fmt.encode_table(config, level + 1, address)])
    for run in expected.runs:
        item = 1 << geometry.item_lg2(run.level)
        for at in range(0, run.count * run.leaf, run.leaf):
            raw = fmt.encode(config, run.level, run.leaf, run.oa + at, run.attributes.requested)
            memory.words(written.slot(run.iova + at, run.level), [raw] * (run.leaf // item))
    return written
