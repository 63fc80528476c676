# SPDX-License-Identifier: GPL-2.0-only
"""A page table as a list of mappings: how Linux splits them into leaves, and which tables exist.

Written from the algorithms of Linux 7.3 (drivers/iommu/iommu.c iommu_pgsize(); generic_pt/pt_iter.h
pt_compute_best_pgsize() and pt_pgsz_count(); io-pgtable-arm.c and generic_pt/iommu_pt.h for the life of tables) and
sharing no code with them. Both families are greedy: each step uses the largest page size that fits the remaining length
and the alignment of IOVA and OA.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pytest_iommu import formats
from pytest_iommu.core.model import Prot, TableConfig, format_size
from pytest_iommu.formats import Attributes
from pytest_iommu.formats.base import KEEPS_TABLES
from pytest_iommu.oracle.expected import Expected, LeafRun


class MappingError(ValueError):
    """The kernel, or the test module on its behalf, refuses this; ``errno`` is the name of its errno."""

    def __init__(self, errno: str, message: str) -> None:
        super().__init__(f"{errno}: {message}")
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Cut:
    """``count`` steps of ``size`` bytes from ``iova`` and ``oa`` on."""

    iova: int
    oa: int
    size: int
    count: int


def cut(iova: int, oa: int, size: int, page_sizes: tuple[int, ...]) -> Iterator[Cut]:
    """Split a range into steps of the largest page size that fits; ``page_sizes`` ascending, all in bytes."""
    while size > 0:
        merged = iova | oa
        step = 0
        for index in range(len(page_sizes) - 1, -1, -1):
            step = page_sizes[index]
            if step <= size and not merged & (step - 1):
                break
        else:
            raise MappingError("EINVAL", f"0x{iova:x} is not aligned to the smallest page size")
        count = size // step
        if index + 1 < len(page_sizes):
            larger = page_sizes[index + 1]
            offset = larger - (iova & (larger - 1))
            if not (iova ^ oa) & (larger - 1) and offset + larger <= size:
                count = offset // step
        yield Cut(iova, oa, step, count)
        iova += step * count
        oa += step * count
        size -= step * count


class TableModel:
    """One page table: its mappings as leaves, and its tables.

    ``map`` and ``unmap`` do what one command of the test module does (one call of iommu_map() or iommu_unmap(), or one
    for each ``leaf`` bytes). They raise MappingError if that is refused, without changing anything.
    """

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        self.format = formats.get(config.format)
        self.geometry = self.format.geometry(config)
        self.top = self.geometry.top
        self._sizes = tuple(sorted(config.page_sizes))
        self._aperture = self.format.aperture(config)
        self._starts: list[int] = []
        self._runs: dict[int, LeafRun] = {}
        # for each level below the top, the numbers of its tables (IOVA divided by what a table covers)
        self._tables: dict[int, set[int]] = {level: set() for level in range(self.geometry.highest)}

    def snapshot(self) -> Expected:
        """Return the expected dump of the table in its current state."""
        runs = tuple(self._runs[start] for start in self._starts)
        tables = {level: frozenset(self._tables[level]) for level in range(self.top)}
        return Expected(self.config, self.top, runs, tables)

    def map(self, iova: int, oa: int, size: int, prot: Prot, leaf: int | None = None) -> None:
        """Map ``size`` bytes; with ``leaf`` in calls of that many bytes. MappingError if it would be refused."""
        self._check_map(iova, oa, size, prot, leaf)
        pieces = cut(iova, oa, size, self._sizes) if leaf is None else iter((Cut(iova, oa, leaf, size // leaf),))
        for number, piece in enumerate(pieces):
            if number == 0:
                # the kernel looks at the first leaf and the last address only (generic_pt, check_map_range())
                self._grow(iova + size - 1, self.geometry.level_of(piece.size))
            self._install(piece, prot)

    def unmap(self, iova: int, size: int, leaf: int | None = None) -> None:
        """Unmap ``size`` bytes; with ``leaf`` in calls of that many bytes. MappingError if it would be refused."""
        self._check_unmap(iova, size, leaf)
        self._remove(iova, iova + size - 1)
        step = leaf or size
        if step == self._sizes[0] or KEEPS_TABLES in self.config.features:
            return  # no table is as small as a page
        for start in range(iova, iova + size, step):
            if self.format.frees_covered_tables:
                self._free(start, start + step - 1, self.top)
            else:
                for piece in cut(start, start, step, self._sizes):
                    last = piece.iova + piece.size * piece.count - 1
                    self._free(piece.iova, last, self.geometry.level_of(piece.size))

    def split(self, iova: int, size: int) -> None:
        """Unmap a part of one block: smaller leaves are left of it, the largest that fit.

        Written from arm_lpae_split_blk_unmap() of Linux 6.12; later kernels, and other formats, refuse this.
        """
        self._check_range(iova, size, None)
        at = bisect_right(self._starts, iova) - 1
        run = self._runs[self._starts[at]] if at >= 0 else None
        if run is None or iova > run.last:
            raise MappingError("ENOENT", f"0x{iova:x} is not mapped")
        block = run.slice((iova - run.iova) // run.leaf, (iova - run.iova) // run.leaf + 1)
        end = iova + size
        if size >= run.leaf or end - 1 > block.last:
            raise MappingError("EINVAL", f"not a part of the block at 0x{block.iova:x}")
        self._remove(block.iova, block.last)
        for first, last in ((block.iova, iova), (end, block.last + 1)):
            for piece in cut(first, first - block.iova + block.oa, last - first, self._sizes):
                self._install(piece, block.attributes.requested)

    def clean(self, iova: int, size: int) -> tuple[int, int] | None:
        """Make leaves clean, as dirty tracking does; return the first and the last address of those that were not.

        The range begins and ends at leaf boundaries.
        """
        found: list[LeafRun] = []
        for run in self.snapshot().runs:
            begin, end = max(0, iova - run.iova), min(run.last + 1, iova + size) - run.iova
            attributes = self.format.cleaned(self.config, run.attributes)
            if begin < end and attributes != run.attributes:
                found.append(replace(run.slice(begin // run.leaf, end // run.leaf), attributes=attributes))
        for part in found:
            self._remove(part.iova, part.last)
            self._insert(part)
        return (found[0].iova, found[-1].last) if found else None

    def _check_range(self, iova: int, size: int, leaf: int | None, oa: int = 0) -> None:
        page = self._sizes[0]
        if size <= 0 or (iova | size) & (page - 1):
            raise MappingError("EINVAL", f"IOVA and size must be non-zero multiples of {format_size(page)}")
        if leaf is not None and (leaf not in self._sizes or (iova | size) & (leaf - 1)):
            raise MappingError(
                "EINVAL", f"{format_size(leaf)} is not a page size, or IOVA and size are not multiples of it"
            )
        if not self._in_table(iova, iova + size - 1):
            raise MappingError("ERANGE", f"0x{iova:x}-0x{iova + size - 1:x} is outside the aperture")
        # io-pgtable-arm has 4T among its page sizes where the whole table is no larger, and WARNs when it is used
        step = leaf or size
        if step in self._sizes and self.geometry.level_of(step) > self.geometry.highest and not oa & (step - 1):
            raise MappingError("EINVAL", f"no item of this table maps {format_size(step)}")

    def _in_table(self, first: int, last: int) -> bool:
        if self._aperture[0] <= first and last <= self._aperture[1]:
            return True
        upper = (1 << 64) - (1 << self.config.ias - 1)
        return "sign_extend" in self.config.features and upper <= first and last < 1 << 64

    def _check_map(self, iova: int, oa: int, size: int, prot: Prot, leaf: int | None) -> None:
        self._check_range(iova, size, leaf, oa)
        if oa & ((leaf or self._sizes[0]) - 1):
            raise MappingError("EINVAL", f"PA must be a multiple of {format_size(leaf or self._sizes[0])}")
        if not (prot.read or prot.write):
            raise MappingError("EINVAL", "prot has neither r nor w")
        if oa < 0 or oa + size > 1 << self.config.oas:
            raise MappingError("ERANGE", f"PA 0x{oa:x} has more than {self.config.oas} bits")
        at = bisect_right(self._starts, iova + size - 1) - 1
        if at >= 0 and self._runs[self._starts[at]].last >= iova:
            raise MappingError("EEXIST", f"0x{iova:x}-0x{iova + size - 1:x} is already mapped, partly or completely")

    def _check_unmap(self, iova: int, size: int, leaf: int | None) -> None:
        self._check_range(iova, size, leaf)
        here, last = iova, iova + size - 1
        at = bisect_right(self._starts, iova) - 1
        while here <= last:
            run = self._runs[self._starts[at]] if 0 <= at < len(self._starts) else None
            if run is None or not run.iova <= here <= run.last:
                raise MappingError("ENOENT", f"0x{here:x} is not mapped")
            cut_first = (here - run.iova) % run.leaf
            cut_last = (min(last, run.last) + 1 - run.iova) % run.leaf
            # a call of `leaf` bytes must not end within a block either
            if cut_first or cut_last or (leaf is not None and leaf % run.leaf):
                raise MappingError("EINVAL", f"part of a {format_size(run.leaf)} block at 0x{here:x}")
            here = run.last + 1
            at += 1

    def _grow(self, last: int, leaf_level: int) -> None:
        """Add levels above the top until it covers ``last`` and can hold the leaf (generic_pt, increase_top())."""
        top = self.top
        while leaf_level > top or last >> self.geometry.covers_lg2(top, top):
            if not self.geometry.can_grow(top):
                if top == self.geometry.top == self.geometry.highest:
                    return  # a table that does not grow; the aperture has been checked
                raise MappingError("ERANGE", f"0x{last:x} needs more levels than the format has")
            top += 1
        for level in range(self.top, top):
            self._tables[level].add(0)
        self.top = top

    def _install(self, piece: Cut, prot: Prot) -> None:
        level = self.geometry.level_of(piece.size)
        last = piece.iova + piece.size * piece.count - 1
        for above in range(level, self.top):
            shift = self.geometry.item_lg2(above + 1)
            self._tables[above].update(range(piece.iova >> shift, (last >> shift) + 1))
        if level:
            self._free(piece.iova, last, level)
        attributes: Attributes = self.format.attributes(self.config, level, piece.size, prot)
        self._insert(LeafRun(piece.iova, piece.oa, piece.size, piece.count, level, attributes))

    def _free(self, first: int, last: int, level: int) -> None:
        """Free the tables below ``level`` that are completely in the range."""
        for below in range(level):
            tables = self._tables[below]
            if not tables:
                continue
            shift = self.geometry.item_lg2(below + 1)
            begin, end = -(-first >> shift), (last + 1) >> shift
            if end - begin < len(tables):
                tables.difference_update(range(begin, end))
            elif end > begin:
                self._tables[below] = {number for number in tables if not begin <= number < end}

    def _insert(self, run: LeafRun) -> None:
        if not self._starts or run.iova > self._starts[-1]:
            self._starts.append(run.iova)
        else:
            self._starts.insert(bisect_left(self._starts, run.iova), run.iova)
        self._runs[run.iova] = run

    def _remove(self, first: int, last: int) -> None:
        """Remove the leaves of a range that begins and ends at leaf boundaries."""
        low = bisect_right(self._starts, first) - 1
        high = bisect_right(self._starts, last)
        kept: list[LeafRun] = []
        for start in self._starts[low:high]:
            run = self._runs.pop(start)
            if run.iova < first:
                kept.append(run.slice(0, (first - run.iova) // run.leaf))
            if run.last > last:
                kept.append(run.slice((last + 1 - run.iova) // run.leaf, run.count))
        self._starts[low:high] = [run.iova for run in kept]
        self._runs.update((run.iova, run) for run in kept)
