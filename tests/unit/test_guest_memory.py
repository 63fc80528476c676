# SPDX-License-Identifier: GPL-2.0-only
"""The IN RAM walker on tables that were written by the formats' encoding, and on broken ones."""

from __future__ import annotations

import random

import pytest
from synthetic_memory import BASE, SIZE, SyntheticMemory, Written, write_table

from pytest_iommu.core.model import Dump, Kind, LevelStats, Prot, TableConfig
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.formats import configure, get
from pytest_iommu.oracle import MappingError, TableModel
from pytest_iommu.oracle.guest_memory import Walk, walk

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40
RW = Prot.from_letters("rwc")

CONFIGS = {
    "s1-4k": configure("arm_64_lpae_s1", ias=48, oas=44),
    "s1-4k-39": configure("arm_64_lpae_s1", ias=39, oas=40),
    "s1-4k-ttbr1": configure("arm_64_lpae_s1", ias=39, oas=44, options=["ttbr1"]),
    "s1-4k-hd": configure("arm_64_lpae_s1", ias=48, oas=44, options=["hd"]),
    "s1-16k": configure("arm_64_lpae_s1", granule=16 * K, ias=47, oas=48),
    "s1-64k": configure("arm_64_lpae_s1", granule=64 * K, ias=52, oas=52),
    "s1-32": configure("arm_32_lpae_s1"),
    "s2-4k": configure("arm_64_lpae_s2", ias=44, oas=44),
    "s2-4k-concatenated": configure("arm_64_lpae_s2", ias=40, oas=40),
    "s2-16k-concatenated": configure("arm_64_lpae_s2", granule=16 * K, ias=40, oas=40),
    "s2-64k-fwb": configure("arm_64_lpae_s2", granule=64 * K, ias=48, oas=48, options=["fwb"]),
    "amdv1": configure("amdv1"),
    "amdv1-2": configure("amdv1", levels=2),
    "vtdss": configure("vtdss"),
    "x86_64": configure("x86_64"),
    "x86_64-5": configure("x86_64", levels=5),
    "riscv": configure("riscv_64"),
    "riscv-39": configure("riscv_64", levels=3, options=["svnapot", "svpbmt", "sign_extend"]),
    "riscv-plain": configure("riscv_64", levels=5, options=[]),
}


def filled(config: TableConfig, seed: str, steps: int = 80) -> TableModel:
    """Random mappings at the edges of the aperture and of tables, blocks and pages, some unmapped again."""
    chance = random.Random(seed)
    model = TableModel(config)
    first, last = get(config.format).aperture(config)
    bases = [first, first + (last - first >> 1) + 1]
    ends = [last + 1, first + (last - first >> 1) + 1]
    if "sign_extend" in config.features:
        bases.append((1 << 64) - (1 << config.ias - 1))
        ends.append(1 << 64)
    sizes = sorted(size for size in config.page_sizes if size <= 1 << min(config.ias - 4, config.oas - 2))
    live: list[tuple[int, int]] = []
    for _ in range(steps):
        leaf = chance.choice(sizes[:2] * 3 + sizes)
        size = leaf * chance.choice((1, 1, 2, 3, 20, 513) if leaf < M else (1, 1, 2))
        offset = chance.randrange(0, 40) * leaf
        iova = chance.choice(bases) + offset if chance.random() < 0.6 else chance.choice(ends) - offset - size
        oa = chance.randrange(0, (1 << config.oas) - size, leaf)
        if chance.random() < 0.2:
            oa = (1 << config.oas) - size
        elif leaf < M and chance.random() < 0.3:
            oa += sizes[0]
        prot = Prot.from_letters(chance.choice(("rwc", "rwc", "rc", "rwxcp", "rwm", "r", "rwc")))
        try:
            if live and chance.random() < 0.2:
                model.unmap(*live.pop(chance.randrange(len(live))))
            else:
                model.map(iova, oa, size, prot, leaf if chance.random() < 0.2 else None)
                live.append((iova, size))
        except MappingError:
            continue
    assert len(model.snapshot().runs) > steps // 8
    return model


def check(written: Written) -> Walk:
    """Hold the walk against what was written."""
    expected = written.expected
    found = walk(written.memory, expected.config, written.top, expected.top + 1)
    dump = written.dump()
    assert found.texts() == render(dump)
    assert (found.ranges, found.entries, found.stats) == (dump.ranges, dump.entries, dump.stats)
    assert (found.top, found.levels) == (written.top, expected.top + 1)
    return found


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_as_written(name: str, seed: int) -> None:
    model = filled(CONFIGS[name], f"{name} {seed}")
    check(write_table(SyntheticMemory(), model.snapshot()))


def written(config: TableConfig, *mappings: tuple[int, int, int]) -> Written:
    """A table with these mappings of (IOVA, OA, size)."""
    model = TableModel(config)
    for iova, oa, size in mappings:
        model.map(iova, oa, size, RW)
    return write_table(SyntheticMemory(), model.snapshot())


def rows(table: Written) -> list[str]:
    """The lines of entries."""
    found = walk(table.memory, table.expected.config, table.top, table.expected.top + 1)
    assert found.text("entries") == render(Dump(entries=found.entries))["entries"]
    return found.text("entries").splitlines()


def test_text_by_hand() -> None:
    table = written(CONFIGS["s1-4k"], (0x1000000, 0x41234000, 16 * K), (2 * G - 2 * M, 0x80000000, 2 * M))
    found = check(table)
    first, second, third, fourth = (table.tables[at] for at in ((2, 0), (1, 0), (0, 8), (1, 1)))
    assert found.texts() == {
        "page_table": "0x0000000001000000-0x0000000001003fff 0x0000000041234000      16K 0       4K rw-c-- SH_IS nG"
        " ATTR1 PXN UXN\n"
        "0x000000007fe00000-0x000000007fffffff 0x0000000080000000       2M 1       2M rw-c-- SH_IS nG ATTR1 PXN UXN\n",
        "entries": f"3 0x0000000000000000 table -  0x{first:016x} raw 0x{first | 3:016x}\n"
        f"2 0x0000000000000000 table -  0x{second:016x} raw 0x{second | 3:016x}\n"
        f"1 0x0000000001000000 table -  0x{third:016x} raw 0x{third | 3:016x}\n"
        "0 0x0000000001000000 leaf  4K 0x0000000041234000 raw 0x0060000041234f47 rw-c-- SH_IS nG ATTR1 PXN UXN AF\n"
        "0 0x0000000001001000 leaf  4K 0x0000000041235000 raw 0x0060000041235f47 rw-c-- SH_IS nG ATTR1 PXN UXN AF\n"
        "0 0x0000000001002000 leaf  4K 0x0000000041236000 raw 0x0060000041236f47 rw-c-- SH_IS nG ATTR1 PXN UXN AF\n"
        "0 0x0000000001003000 leaf  4K 0x0000000041237000 raw 0x0060000041237f47 rw-c-- SH_IS nG ATTR1 PXN UXN AF\n"
        f"2 0x0000000040000000 table -  0x{fourth:016x} raw 0x{fourth | 3:016x}\n"
        "1 0x000000007fe00000 leaf  2M 0x0000000080000000 raw 0x0060000080000f45 rw-c-- SH_IS nG ATTR1 PXN UXN AF\n",
        "stats": "level tables leaves bytes\n3 1 0 4096\n2 1 0 4096\n1 2 1 8192\n0 1 4 4096\ntotal 5 5 20480\n",
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_empty(name: str) -> None:
    found = check(written(CONFIGS[name]))
    assert (found.text("page_table"), found.text("entries")) == ("", "")


def test_grown_top() -> None:
    table = written(CONFIGS["amdv1-2"], (0x1000, 0x1000, 4 * K), ((1 << 63) + 4 * K, 0x2000, 4 * K))
    assert check(table).levels == 6
    assert table.expected.stats.levels[0].bytes == 128 * 8  # the top of all is smaller than a page


def test_concatenated_top() -> None:
    table = written(CONFIGS["s2-4k-concatenated"], (T - 4 * K, 0x1000, 4 * K), (511 * G, 512 * G, 2 * G))
    found = check(table)
    assert found.stats.levels[0] == LevelStats(2, 1, 2, 2 * 4096)
    assert (found.ranges[0].first, found.ranges[0].last) == (511 * G, 513 * G - 1)


def test_both_halves_of_a_sign_extended_space() -> None:
    half = 1 << 38
    table = written(CONFIGS["riscv-39"], (half - 2 * G, 0, 2 * G), ((1 << 64) - half, 2 * G, 2 * G))
    # what one table holds side by side is far apart
    assert [(row.first, row.last) for row in check(table).ranges] == [
        (half - 2 * G, half - 1),
        ((1 << 64) - half, (1 << 64) - half + 2 * G - 1),
    ]


def test_last_page_of_all() -> None:
    for name in ("s1-4k-ttbr1", "x86_64", "riscv"):
        table = written(CONFIGS[name], ((1 << 64) - 8 * K, 0x1000, 8 * K))
        assert [row.last for row in check(table).ranges] == [(1 << 64) - 1]


@pytest.mark.parametrize(("name", "leaf"), [("s1-4k", 4 * K), ("s1-64k", 64 * K), ("x86_64", 2 * M), ("riscv", 64 * K)])
def test_items_that_count_on_where_the_address_ends(name: str, leaf: int) -> None:
    """Whole tables and parts of them whose items go up by a page each, over the end of the address field."""
    config = CONFIGS[name]
    fmt = get(config.format)
    level = fmt.geometry(config).level_of(leaf)
    item = fmt.geometry(config).item_lg2(level)
    for count in (3, 512):
        table = written(config, (leaf << 11, 0x0, leaf))
        slot = table.slot(leaf << 11, level)
        last = fmt.encode(config, level, leaf, leaf << 20, RW) | fmt.address_mask(config) & -fmt.pack(config, leaf * 4)
        raws = [last + at * fmt.pack(config, leaf) for at in range(count)]
        each = leaf >> item
        table.memory.words(slot, [raw for raw in raws for _ in range(each)][: 512 - slot % 4096 // 8])
        found = walk(table.memory, config, table.top)
        leaves = [entry for entry in found.entries if entry.level == level and entry.iova >= leaf << 11]
        assert len(leaves) >= 3
        for entry, raw in zip(leaves, raws, strict=False):
            decoded = fmt.decode(config, level, raw)
            assert decoded is not None
            assert (entry.kind, entry.raw, entry.oa) == (Kind.LEAF, raw, decoded.oa)
            assert (entry.prot, entry.flags) == (decoded.prot, decoded.flags + decoded.volatile)
        assert found.text("entries") == render(Dump(entries=found.entries))["entries"]


@pytest.mark.parametrize("name", ["s1-4k", "s1-64k", "amdv1", "riscv"])
@pytest.mark.parametrize("swap", [(0, 1), (1, 2), (255, 256), (510, 511), (0, 511)])
def test_full_table_with_two_pages_swapped(name: str, swap: tuple[int, int]) -> None:
    config = CONFIGS[name]
    page = config.granule
    model = TableModel(config)
    model.map(512 * page, 16 * page, 512 * page, RW, leaf=page)
    table = write_table(SyntheticMemory(), model.snapshot())
    slots = [table.slot((512 + at) * page, 0) for at in swap]
    for slot, raw in zip(slots, [table.memory.word(slot) for slot in reversed(slots)], strict=True):
        table.memory.words(slot, [raw])
    found = walk(table.memory, config, table.top, table.expected.top + 1)
    want = [16 + at for at in range(512)]
    want[swap[0]], want[swap[1]] = want[swap[1]], want[swap[0]]
    leaves = [entry for entry in found.entries if entry.kind is Kind.LEAF]
    assert [entry.oa // page for entry in leaves] == want
    assert [entry.iova // page for entry in leaves] == list(range(512, 1024))
    assert len(found.ranges) == 2 + (swap[0] > 0) + (swap[1] < 511) + (swap[1] - swap[0] > 1)


def test_volatile_bits_do_not_split_a_range() -> None:
    table = written(CONFIGS["s1-4k"], (0, 0, 8 * K))
    slot = table.slot(4 * K, 0)
    table.memory.words(slot, [table.memory.word(slot) & ~(1 << 10)])
    found = walk(table.memory, table.expected.config, table.top)
    assert found.ranges == table.expected.ranges
    assert [entry.flags[-1] for entry in found.entries if entry.kind is Kind.LEAF] == ["AF", "UXN"]


def test_any_other_bit_splits_a_range() -> None:
    table = written(CONFIGS["s1-4k"], (0, 0, 12 * K))
    slot = table.slot(4 * K, 0)
    table.memory.words(slot, [table.memory.word(slot) | 1 << 7])
    assert [str(row.prot) for row in walk(table.memory, CONFIGS["s1-4k"], table.top).ranges] == [
        "rw-c--",
        "r--c--",
        "rw-c--",
    ]


@pytest.mark.parametrize(
    ("name", "level", "raw"),
    [
        ("s1-4k", 0, 0x41000001),  # a block where only pages are
        ("s1-4k", 3, 0x8000000001),  # a block of 512G
        ("s1-4k", 1, 0x41000000),  # an address, but not valid
        ("s1-4k", 2, 0x30000003),  # a table outside RAM
        ("s1-4k", 2, BASE + SIZE | 3),
        ("s1-16k", 2, 0x8000000001),
        ("amdv1", 0, 0x7000000010000000),
        ("amdv1", 1, 0x7000000041000601),  # a next level that is not the one below
        ("amdv1", 0, 0x700000003FFFFE01),  # 2G in a table of 4K
        ("amdv1", 1, 0x7000000000001E01),  # 16K in a table of 2M
        ("amdv1", 2, 0x6000000030000401),
        ("vtdss", 1, 0x41000080),
        ("vtdss", 3, 0x41000083),
        ("x86_64", 3, 0x410000E7),
        ("riscv", 1, 0x80000000104000D7),  # NAPOT above the pages
        ("riscv-plain", 0, 0x80000000104020D7),  # NAPOT without Svnapot
        ("riscv", 0, 0x10400001),
    ],
)
def test_bad_item(name: str, level: int, raw: int) -> None:
    config = CONFIGS[name]
    far = 8 * G if name == "amdv1" else 1 << config.ias - 2
    table = written(config, (0, 0, config.granule), (far, 0, config.granule))
    table.memory.words(table.slot(0, level), [raw])
    found = rows(table)
    address = get(config.format).unpack(config, raw)
    assert f"{level} 0x{0:016x} bad   -  0x{address:016x} raw 0x{raw:016x}" in found
    # the rest is still there, and nothing that was below it
    assert any(f" 0x{far:016x} leaf" in row for row in found)
    assert not any(row.startswith("0 0x0000000000000000 leaf") for row in found)
    ranges = walk(table.memory, config, table.top).ranges
    assert [row.first for row in ranges] == [far]


def test_the_end_of_ram_is_not_outside() -> None:
    table = written(CONFIGS["s1-4k"], (0, 0, 4 * K))
    last = BASE + SIZE - 4096
    table.memory.words(table.slot(0, 1), [last | 3])
    table.memory.words(last, [0x41000743])
    assert rows(table)[-1].startswith("0 0x0000000000000000 leaf  4K 0x0000000041000000")
    table.memory.words(table.slot(0, 1), [last + 4096 | 3])
    assert rows(table)[-1].startswith("1 0x0000000000000000 bad ")


def test_part_of_a_group() -> None:
    table = written(CONFIGS["amdv1"], (64 * K, 0, 32 * K), (96 * K, 1 << 30, 4 * K))
    slot = table.slot(64 * K, 0)
    group = table.memory.word(slot)
    table.memory.words(slot, [0])
    # without its first item the others are no entry of their own, each is shown
    lines = [row.split() for row in rows(table) if row.startswith("0 ")]
    assert [(row[1], row[2]) for row in lines] == [(f"0x{64 * K + at * 4 * K:016x}", "part") for at in range(1, 8)] + [
        (f"0x{96 * K:016x}", "leaf")
    ]
    # with it the group is shown, and it is said that it is not complete
    table.memory.words(slot, [group, 0, group, group])
    assert [row.split()[1:4] for row in rows(table) if row.startswith("0 ")] == [
        [f"0x{64 * K:016x}", "leaf", "32K"],
        [f"0x{96 * K:016x}", "leaf", "4K"],
    ]
    assert walk(table.memory, CONFIGS["amdv1"], table.top).torn == ((64 * K, 32 * K, group, 1, 0),)


def test_the_second_of_two_groups_is_torn() -> None:
    table = written(CONFIGS["amdv1"], (64 * K, 0, 64 * K), (128 * K, 64 * K, 64 * K))
    slot = table.slot(128 * K, 0)
    table.memory.words(slot + 8 * 15, [0])
    raw = table.memory.word(slot)
    assert walk(table.memory, CONFIGS["amdv1"], table.top).torn == ((128 * K, 64 * K, raw, 15, 0),)


def test_hardware_marks_one_item_of_a_group() -> None:
    table = written(CONFIGS["amdv1"], (64 * K, 0, 32 * K), (96 * K, 32 * K, 32 * K))
    slot = table.slot(64 * K, 0)
    table.memory.words(slot + 3 * 8, [table.memory.word(slot) | 1 << 6])
    found = walk(table.memory, CONFIGS["amdv1"], table.top)
    leaves = [row.split() for row in found.text("entries").splitlines() if row.startswith("0 ")]
    assert [(row[3], row[-1]) for row in leaves] == [("32K", "D"), ("32K", "FC")]
    assert not found.torn
    assert len(found.ranges) == 1


@pytest.mark.parametrize(
    ("name", "level", "raw"),
    [
        ("s1-4k", 1, 0x41001F41),
        ("amdv1", 1, 0x7000000041001001),
        ("vtdss", 1, 0x41001083),
        ("x86_64", 1, 0x410020E7),
        ("riscv", 1, 0x104004D7),
        ("riscv", 0, 0x104000D5),  # W without R is reserved
    ],
)
def test_a_leaf_that_cannot_be(name: str, level: int, raw: int) -> None:
    """Its address is within the block, or its permissions are reserved."""
    config = CONFIGS[name]
    table = written(config, (0, 0, config.granule))
    table.memory.words(table.slot(0, level), [raw])
    assert [row.split()[2] for row in rows(table) if row.startswith(f"{level} ")] == ["bad"]


def test_a_group_is_whole_but_for_volatile_bits() -> None:
    table = written(CONFIGS["amdv1"], (64 * K, 0, 32 * K), (96 * K, 32 * K, 32 * K), (128 * K, 64 * K, 32 * K))
    assert check(table).torn == ()
    second = table.slot(96 * K, 0)
    raw = table.memory.word(second)
    dirty = 1 << 6
    table.memory.words(second + 8, [raw | dirty])
    assert walk(table.memory, table.expected.config, table.top, table.expected.top + 1).torn == ()
    table.memory.words(second + 4 * 8, [0])
    found = walk(table.memory, table.expected.config, table.top, table.expected.top + 1)
    assert found.torn == ((96 * K, 32 * K, raw, 4, 0),)


def test_table_that_points_to_itself() -> None:
    table = written(CONFIGS["s1-4k"], (0, 0x41000000, 4 * K))
    level1 = table.tables[1, 0]
    table.memory.words(table.slot(2 * M, 1), [level1 | 3])
    lines = rows(table)
    # below itself it is read as a table of pages, whose items 0 and 1 are pages then
    inside = f"{1} 0x{2 * M:016x} table -  0x{level1:016x} raw 0x{level1 | 3:016x}"
    assert lines[lines.index(inside) + 1 :] == [
        f"0 0x{2 * M:016x} leaf  4K 0x{table.tables[0, 0]:016x} raw 0x{table.tables[0, 0] | 3:016x} rwx--p SH_NS ATTR0",
        f"0 0x{2 * M + 4 * K:016x} leaf  4K 0x{level1:016x} raw 0x{level1 | 3:016x} rwx--p SH_NS ATTR0",
    ]


def test_top_that_points_to_itself() -> None:
    for name in ("s1-4k", "amdv1", "x86_64", "riscv"):
        config = CONFIGS[name]
        table = written(config, (8 * G, 0, 4 * K))
        top = config.levels - 1
        table.memory.words(table.slot(0, top), [get(config.format).encode_table(config, top, table.top)])
        assert len(rows(table)) <= 4 * config.levels


def test_what_is_mapped_twice_is_counted_twice() -> None:
    table = written(CONFIGS["s1-4k"], (0, 0, 2 * M - 4 * K))
    table.memory.words(table.slot(2 * M, 1), [table.tables[0, 0] | 3])
    found = walk(table.memory, CONFIGS["s1-4k"], table.top)
    assert found.stats.levels[-1] == LevelStats(0, 2, 2 * 511, 2 * 4096)
    assert len(found.ranges) == 2


def test_top_outside() -> None:
    with pytest.raises(OutsideMemory):
        walk(SyntheticMemory(), CONFIGS["s1-4k"], 0x1000)


def test_text_of_no_file() -> None:
    with pytest.raises(KeyError, match="info"):
        check(written(CONFIGS["s1-4k"])).text("info")
