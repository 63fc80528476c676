# SPDX-License-Identifier: GPL-2.0-only
"""The oracle against the kernel's algorithms written out, and against truths counted by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import kernel_walk
import pytest

from pytest_iommu.core.model import Kind, LevelStats, Prot, Range
from pytest_iommu.formats import configure, get
from pytest_iommu.formats.base import KEEPS_TABLES
from pytest_iommu.formats.vtdss import READABLE
from pytest_iommu.oracle import MappingError, TableModel, cut

RW, RO = Prot.from_letters("rw"), Prot.from_letters("r")
K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40
ARM = (4 * K, 2 * M, G)

CONFIGS = {
    "s1-4k": configure("arm_64_lpae_s1", ias=48, oas=44),
    "s2-4k": configure("arm_64_lpae_s2", ias=44, oas=44),
    "s2-4k-concatenated": configure("arm_64_lpae_s2", ias=40, oas=40),
    "s1-16k": configure("arm_64_lpae_s1", granule=16 * K, ias=48, oas=48),
    "s1-64k": configure("arm_64_lpae_s1", granule=64 * K, ias=52, oas=52),
    "amdv1": configure("amdv1"),
    "amdv1-2": configure("amdv1", levels=2),
    "vtdss": configure("vtdss"),
    "x86_64": configure("x86_64", levels=5),
    "riscv": configure("riscv_64"),
}


def pieces(iova: int, oa: int, size: int, sizes: tuple[int, ...] = ARM) -> list[tuple[int, int]]:
    return [(piece.size, piece.count) for piece in cut(iova, oa, size, sizes)]


def test_cuts_counted_by_hand() -> None:
    assert pieces(0x1000000, 0x41000000, 4 * K) == [(4 * K, 1)]
    assert pieces(0x200000, 0x40200000, 2 * M) == [(2 * M, 1)]
    assert pieces(0x200000, 0x40201000, 2 * M) == [(4 * K, 512)]
    assert pieces(0x1FF000, 0x401FF000, 4 * M) == [(4 * K, 1), (2 * M, 1), (4 * K, 511)]
    assert pieces(G - 2 * M, 5 * G - 2 * M, G + 4 * M) == [(2 * M, 1), (G, 1), (2 * M, 1)]
    assert pieces(0, 0, 6 * K, (2 * K, 4 * K)) == [(4 * K, 1), (2 * K, 1)]
    assert pieces(0, 1 << 39, 1 << 39, configure("amdv1").page_sizes) == [(1 << 38, 2)]
    assert pieces(0, 0, 0x7000, configure("amdv1").page_sizes) == [(0x4000, 1), (0x2000, 1), (0x1000, 1)]
    assert pieces(0x3000, 0x5000, 0x4000, configure("amdv1").page_sizes) == [(0x1000, 1), (0x2000, 1), (0x1000, 1)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_against_the_kernels_walk(name: str, seed: int) -> None:
    config = CONFIGS[name]
    chance = random.Random(f"{name} {seed}")
    geometry = get(config.format).geometry(config)
    model = TableModel(config)
    walk: kernel_walk.Arm | kernel_walk.Generic
    walk = (kernel_walk.Arm if config.format.startswith("arm") else kernel_walk.Generic)(geometry, config.page_sizes)
    top = min(config.ias - ("sign_extend" in config.features), 44)
    units = [size for size in config.page_sizes if size < 1 << top]
    live: list[tuple[int, int]] = []
    for _ in range(60):
        unit = chance.choice(units[:3] * 4 + units)
        size = unit * chance.choice((1, 1, 2, 3, 7))
        if size >= 1 << top or size >> 31:
            size = unit = config.page_sizes[0]
        if live and chance.random() < 0.4:
            first, length = live.pop(chance.randrange(len(live)))
            leaves = sorted(x for x in walk.leaves() if first <= x[0] < first + length)
            # all of it, or from one leaf to another
            if chance.random() < 0.5 and len(leaves) > 2:
                low, high = sorted(chance.sample(range(len(leaves)), 2))
                begin, end = leaves[low][0], leaves[high][0]
                live += [(first, begin - first)] if begin > first else []
                live.append((end, first + length - end))
                first, length = begin, end - begin
            walk.unmap(first, length)
            model.unmap(first, length)
        else:
            iova = chance.randrange(0, (1 << top) - size, unit) & -unit
            if chance.random() < 0.7:
                iova &= 4 * G - 1
            oa = iova ^ (1 << 31)
            if size <= 8 * M and chance.random() < 0.4:
                oa = chance.randrange(0, 1 << 40, config.page_sizes[0])
            if any(first < iova + size and iova < first + length for first, length in live):
                with pytest.raises(MappingError, match="EEXIST"):
                    model.map(iova, oa & (1 << 43) - 1, size, RW)
                continue
            model.map(iova, oa & (1 << 43) - 1, size, RW)
            walk.map(iova, oa & (1 << 43) - 1, size)
            live.append((iova, size))
        assert model.top == walk.top
    expected = model.snapshot()
    assert {level: set(numbers) for level, numbers in expected.tables.items()} == walk.tables()
    assert [(leaf.iova, leaf.level, leaf.leaf) for leaf in expected.leaves()] == walk.leaves()


def tables(model: TableModel) -> list[int]:
    return [row.tables for row in model.snapshot().stats.levels]


def test_tables_of_io_pgtable_go_with_a_block_sized_unmap() -> None:
    model = TableModel(CONFIGS["s1-4k"])
    model.map(2 * M, 0x40000000, 2 * M, RW, leaf=4 * K)
    assert tables(model) == [1, 1, 1, 1]
    model.unmap(2 * M, 2 * M, leaf=4 * K)
    assert tables(model) == [1, 1, 1, 1]
    model.map(2 * M, 0x40000000, 2 * M, RW)  # a block over the empty table
    assert tables(model) == [1, 1, 1, 0]
    model.unmap(2 * M, 2 * M)
    model.map(2 * M, 0x40001000, 2 * M, RW)
    model.unmap(2 * M, 2 * M)
    assert tables(model) == [1, 1, 1, 0]
    model.map(0, 0, 4 * G, RW)
    assert tables(model) == [1, 1, 0, 0]
    model.unmap(0, 4 * G)
    assert tables(model) == [1, 1, 0, 0]


def test_tables_of_generic_pt_go_when_the_unmap_covers_them() -> None:
    model = TableModel(CONFIGS["amdv1"])
    model.map(2 * M, 0x40001000, 2 * M, RW)
    model.unmap(2 * M, 1 * M)
    model.unmap(3 * M, 1 * M)
    assert tables(model) == [1, 1, 1]
    model.map(2 * M, 0x40200000, 2 * M, RW)
    assert tables(model) == [1, 1, 0]


def test_tables_that_stay() -> None:
    """AMD's of Linux 6.12 go where a larger leaf takes their place, and with the domain."""
    config = replace(CONFIGS["amdv1"], features=CONFIGS["amdv1"].features | {KEEPS_TABLES})
    model = TableModel(config)
    model.map(2 * M, 0x40001000, 2 * M, RW)
    model.unmap(2 * M, 2 * M)
    assert tables(model) == [1, 1, 1]
    model.map(2 * M, 0x40200000, 2 * M, RW)
    assert tables(model) == [1, 1, 0]


def test_leaves_that_can_all_be_read() -> None:
    """VT-d's of Linux 6.12."""
    readable = replace(CONFIGS["vtdss"], features=frozenset({READABLE}))
    have = []
    for config in (CONFIGS["vtdss"], readable):
        model = TableModel(config)
        model.map(0, 0x40000000, 4 * K, Prot.from_letters("w"))
        have += [(row.prot.read, row.prot.write) for row in model.snapshot().ranges]
    assert have == [(False, True), (True, True)]


def test_a_growing_top() -> None:
    model = TableModel(CONFIGS["amdv1-2"])
    assert model.snapshot().info.levels == 2
    model.map(0, 0x40000000, 4 * K, RW)
    assert tables(model) == [1, 1]
    model.map((1 << 64) - 4 * K, 0x40001000, 4 * K, RW)
    expected = model.snapshot()
    assert expected.info.levels == 6
    assert [row.tables for row in expected.stats.levels] == [1, 2, 2, 2, 2, 2]
    assert expected.stats.levels[0] == LevelStats(5, 1, 0, 128 * 8)
    first = [(entry.level, entry.kind) for entry in expected.entries][:6]
    assert first == [*((level, Kind.TABLE) for level in (5, 4, 3, 2, 1)), (0, Kind.LEAF)]


def test_a_leaf_as_large_as_the_top_makes_it_grow() -> None:
    model = TableModel(CONFIGS["amdv1-2"])
    model.map(0, 0, G, RW)
    assert model.top == 2
    assert tables(model) == [1, 0, 0]


def test_tops_of_stage_2() -> None:
    assert TableModel(CONFIGS["s2-4k"]).snapshot().stats.levels[0] == LevelStats(3, 1, 0, 32 * 8)
    concatenated = TableModel(CONFIGS["s2-4k-concatenated"]).snapshot()
    assert concatenated.info.levels == 3
    assert concatenated.stats.levels[0] == LevelStats(2, 1, 0, 1024 * 8)


def test_a_page_size_that_no_level_has() -> None:
    """4T is a page size of any 64K table with 52 bits of output address, also of one that has 42 bits of input."""
    model = TableModel(configure("arm_64_lpae_s1", granule=64 * K, ias=42, oas=52))
    for leaf in (None, 4 * T):
        with pytest.raises(MappingError, match="no item of this table maps 4T"):
            model.map(0, 4 * T, 4 * T, RW, leaf)
    model.map(0, 512 * M, 4 * T, RW)
    assert [(run.leaf, run.count) for run in model.snapshot().runs] == [(512 * M, 8192)]
    with pytest.raises(MappingError, match="no item of this table maps 4T"):
        model.unmap(0, 4 * T)
    model.unmap(0, 4 * T, 512 * M)
    assert not model.snapshot().runs


def test_ranges_merge_across_calls_and_tables() -> None:
    model = TableModel(CONFIGS["s1-4k"])
    model.map(2 * M - 4 * K, 0x401FF000, 8 * K, RW)
    model.map(2 * M + 4 * K, 0x40201000, 4 * K, RW)
    model.map(2 * M + 8 * K, 0x40202000, 4 * K, RO)
    model.map(4 * M, 0x50000000, 4 * K, RO)
    rows = model.snapshot().ranges
    assert [(row.first, row.last, row.oa) for row in rows] == [
        (2 * M - 4 * K, 2 * M + 8 * K - 1, 0x401FF000),
        (2 * M + 8 * K, 2 * M + 12 * K - 1, 0x40202000),
        (4 * M, 4 * M + 4 * K - 1, 0x50000000),
    ]
    assert isinstance(rows[0], Range)
    model.unmap(2 * M, 4 * K)
    assert [row.first for row in model.snapshot().ranges] == [2 * M - 4 * K, 2 * M + 4 * K, 2 * M + 8 * K, 4 * M]


def test_an_unmapped_middle_leaves_the_leaves_beside_it_as_they_are() -> None:
    model = TableModel(CONFIGS["amdv1"])
    model.map(0, 0x40000000, 64 * K, RW, leaf=16 * K)
    model.unmap(16 * K, 16 * K)
    assert [(row.first, row.size, row.leaf) for row in model.snapshot().ranges] == [
        (0, 16 * K, 16 * K),
        (32 * K, 32 * K, 16 * K),
    ]


@pytest.mark.parametrize(
    ("action", "errno"),
    [
        (lambda m: m.map(0x1000, 0, 0x800, RW), "EINVAL"),
        (lambda m: m.map(0x1000, 0x800, 0x1000, RW), "EINVAL"),
        (lambda m: m.map(0x1000, 0, 0, RW), "EINVAL"),
        (lambda m: m.map(0x1000, 0, 0x1000, Prot.from_letters("xc")), "EINVAL"),
        (lambda m: m.map(0x1000, 0, 0x2000, RW, leaf=0x2000), "EINVAL"),
        (lambda m: m.map(0x1000, 0, 2 * M, RW, leaf=2 * M), "EINVAL"),
        (lambda m: m.map(1 << 48, 0, 0x1000, RW), "ERANGE"),
        (lambda m: m.map((1 << 48) - 0x1000, 0, 0x2000, RW), "ERANGE"),
        (lambda m: m.map(0, (1 << 44) - 0x1000, 0x2000, RW), "ERANGE"),
        (lambda m: m.map(4 * M - 0x1000, 0, 0x2000, RW), "EEXIST"),
        (lambda m: m.map(0, 0, 16 * M, RW), "EEXIST"),
        (lambda m: m.unmap(4 * M, 0x1000), "EINVAL"),
        (lambda m: m.unmap(5 * M, 1 * M), "EINVAL"),
        (lambda m: m.unmap(4 * M, 2 * M, leaf=0x1000), "EINVAL"),
        (lambda m: m.unmap(4 * M, 4 * M), "ENOENT"),
        (lambda m: m.unmap(0, 0x1000), "ENOENT"),
    ],
)
def test_refused_and_nothing_changed(action: object, errno: str) -> None:
    model = TableModel(CONFIGS["s1-4k"])
    model.map(4 * M, 0x40000000, 2 * M, RW)
    before = model.snapshot()
    assert callable(action)
    with pytest.raises(MappingError) as refused:
        action(model)
    assert refused.value.errno == errno
    assert model.snapshot() == before


@pytest.mark.parametrize(
    ("offset", "size", "leaves", "tables"),
    [
        # 2M blocks of 1G, and the pages of the one that is split again
        (0, 2 << 20, [(2 << 20, 511)], 1),
        (4 << 20, 4096, [(2 << 20, 2), (4096, 511), (2 << 20, 509)], 2),
        ((4 << 20) - 4096, 8192, [(2 << 20, 1), (4096, 511), (4096, 511), (2 << 20, 509)], 3),
    ],
    ids=["block", "page", "two-blocks"],
)
def test_what_is_left_of_a_block(offset: int, size: int, leaves: list[tuple[int, int]], tables: int) -> None:
    iova, oa, block = 1 << 40, 3 << 30, 1 << 30
    model = TableModel(configure("arm_64_lpae_s1"))
    model.map(iova, oa, 2 * block, Prot.from_letters("r"))
    before = sum(len(found) for found in model.snapshot().tables.values())
    model.split(iova + offset, size)
    after = model.snapshot()
    of_block = [run for run in after.runs if run.iova < iova + block]
    assert [(run.leaf, run.count) for run in of_block] == leaves
    assert all(run.oa - oa == run.iova - iova for run in after.runs)
    assert sum(run.leaf * run.count for run in of_block) == block - size
    assert sum(len(found) for found in after.tables.values()) - before == tables
    assert {run.attributes.requested for run in after.runs} == {Prot.from_letters("r")}


@pytest.mark.parametrize(
    ("offset", "size", "errno"), [(0, 2 << 20, "EINVAL"), (4096, 2 << 20, "EINVAL"), (4 << 20, 4096, "ENOENT")]
)
def test_only_a_part_of_one_block_is_split(offset: int, size: int, errno: str) -> None:
    model = TableModel(configure("arm_64_lpae_s1"))
    model.map(1 << 30, 1 << 31, 4 << 20, Prot.from_letters("rw"))
    with pytest.raises(MappingError, match=errno):
        model.split((1 << 30) + offset, size)
    assert len(model.snapshot().ranges) == 1
