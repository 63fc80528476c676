# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's map and unmap as they are written, on tables of dicts: slow, explicit, for checking the oracle.

io-pgtable: iommu_pgsize() and __arm_lpae_map()/__arm_lpae_unmap(); generic_pt: __map_range() and __unmap_range(), leaf
by leaf. An item is a dict (a table) or the size of the leaf that begins or goes on there.
"""

from __future__ import annotations

from typing import Any

from pytest_iommu.formats import Geometry

Table = dict[int, Any]


class Walk:
    """``tables()`` and ``leaves()`` are what the oracle is compared with."""

    def __init__(self, geometry: Geometry, sizes: tuple[int, ...]) -> None:
        self.geometry = geometry
        self.sizes = sizes
        self.top = geometry.top
        self.root: Table = {}

    def index(self, iova: int, level: int) -> int:
        within = iova & (1 << self.geometry.covers_lg2(level, self.top)) - 1
        return within >> self.geometry.item_lg2(level)

    def tables(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {level: set() for level in range(self.top)}
        self._tables(self.root, self.top, 0, found)
        return found

    def _tables(self, table: Table, level: int, base: int, found: dict[int, set[int]]) -> None:
        for index, item in table.items():
            if isinstance(item, dict):
                here = base + (index << self.geometry.item_lg2(level))
                found[level - 1].add(here >> self.geometry.item_lg2(level))
                self._tables(item, level - 1, here, found)

    def leaves(self) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        self._leaves(self.root, self.top, 0, found)
        return sorted(found)

    def _leaves(self, table: Table, level: int, base: int, found: list[tuple[int, int, int]]) -> None:
        for index, item in table.items():
            here = base + (index << self.geometry.item_lg2(level))
            if isinstance(item, dict):
                self._leaves(item, level - 1, here, found)
            elif here % item == 0:
                found.append((here, level, item))


class Arm(Walk):
    def pgsize(self, iova: int, pa: int, size: int) -> tuple[int, int]:
        fit = [s for s in self.sizes if s <= size and not (iova | pa) % s]
        step = fit[-1]
        larger = [s for s in self.sizes if s > step]
        if larger and not (iova ^ pa) % larger[0]:
            offset = larger[0] - (iova | pa) % larger[0]
            if offset + larger[0] <= size:
                size = offset
        return step, size // step

    def map(self, iova: int, pa: int, size: int) -> None:
        while size:
            step, count = self.pgsize(iova, pa, size)
            done = self._map(self.root, self.top, iova, step, count)
            iova, pa, size = iova + done, pa + done, size - done

    def _map(self, table: Table, level: int, iova: int, step: int, count: int) -> int:
        index = self.index(iova, level)
        if step == 1 << self.geometry.item_lg2(level):
            per_table = 1 << self.geometry.index_bits
            count = min(count, per_table - index % per_table)
            for number in range(index, index + count):
                assert not isinstance(table.get(number), int)
                table[number] = step
            return count * step
        return self._map(table.setdefault(index, {}), level - 1, iova, step, count)

    def unmap(self, iova: int, size: int) -> None:
        while size:
            step, count = self.pgsize(iova, iova, size)
            done = self._unmap(self.root, self.top, iova, step, count)
            iova, size = iova + done, size - done

    def _unmap(self, table: Table, level: int, iova: int, step: int, count: int) -> int:
        index = self.index(iova, level)
        if step == 1 << self.geometry.item_lg2(level):
            per_table = 1 << self.geometry.index_bits
            count = min(count, per_table - index % per_table)
            for number in range(index, index + count):
                del table[number]
            return count * step
        return self._unmap(table[index], level - 1, iova, step, count)


class Generic(Walk):
    def best(self, va: int, last: int, oa: int) -> int:
        return max(s for s in self.sizes if s <= last - va + 1 and not (va | oa) % s)

    def map(self, iova: int, pa: int, size: int) -> None:
        last = iova + size - 1
        level = self.geometry.level_of(self.best(iova, last, pa))
        while last >> self.geometry.covers_lg2(self.top, self.top) or level > self.top:
            self.root, self.top = {0: self.root}, self.top + 1
        while iova <= last:
            step = self.best(iova, last, pa)
            self._install(iova, step)
            iova, pa = iova + step, pa + step

    def _install(self, iova: int, step: int) -> None:
        table, target = self.root, self.geometry.level_of(step)
        for level in range(self.top, target, -1):
            table = table.setdefault(self.index(iova, level), {})
        index = self.index(iova, target)
        for number in range(index, index + (step >> self.geometry.item_lg2(target))):
            assert not isinstance(table.get(number), int)
            table[number] = step

    def unmap(self, iova: int, size: int) -> None:
        self._unmap(self.root, self.top, 0, iova, iova + size - 1)

    def _unmap(self, table: Table, level: int, base: int, va: int, last: int) -> None:
        shift = self.geometry.item_lg2(level)
        for index in sorted(table):
            first, end = base + (index << shift), base + (index + 1 << shift) - 1
            if end < va or first > last:
                continue
            item = table[index]
            if not isinstance(item, dict):
                del table[index]
                continue
            self._unmap(item, level - 1, first, va, last)
            if va <= first and end <= last:
                del table[index]
