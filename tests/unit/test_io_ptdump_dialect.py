# SPDX-License-Identifier: GPL-2.0-only
"""The parser of the io_ptdump text: what it takes, and by which rule it refuses."""

from __future__ import annotations

import pytest

from pytest_iommu.core.model import Entry, Info, Kind, LevelStats, Prot, Range, Stats
from pytest_iommu.dialects import DIALECTS, IO_PTDUMP, DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import render

RWC = Prot.parse("rw-c--")
#: the examples of the contract, but for a bit of the table item that no kernel sets
INFO = """format: arm_64_lpae_s1
type: unmanaged
aperture: 0x0000000000000000-0x0000ffffffffffff
page_sizes: 4K 2M 1G
levels: 4
top: 0x0000000041000000
"""
LINE = "0x0000000001000000-0x0000000001003fff 0x0000000041234000      16K 0       4K rw-c-- SH_IS nG ATTR1"
ENTRIES = """3 0x0000000000000000 table -  0x0000000041000000 raw 0x0000000041000003
0 0x0000000001000000 leaf  4K 0x0000000041300000 raw 0x0040000041300f47 rw-c-- SH_IS nG ATTR1 UXN AF
1 0x0000000020000000 leaf  512M 0x0000000041300000 raw 0x0040000041300f47 rw-c--
2 0x0000000080000000 bad   -  0x0000000000000000 raw 0x0000000000000002
"""
STATS = "level tables leaves bytes\n1 1 0 4096\n0 2 3 8192\ntotal 3 3 12288\n"


def refused(file: str, text: str) -> DumpSyntaxError:
    with pytest.raises(DumpSyntaxError) as error:
        IO_PTDUMP.parse({file: text})
    return error.value


def test_the_examples_of_the_contract() -> None:
    texts = {"info": INFO, "page_table": f"{LINE}\n", "entries": ENTRIES, "stats": STATS}
    dump = IO_PTDUMP.parse(texts)
    assert dump.info == Info(
        "arm_64_lpae_s1", "unmanaged", (0, (1 << 48) - 1), (1 << 12, 1 << 21, 1 << 30), 4, 0x41000000
    )
    flags = ("SH_IS", "nG", "ATTR1")
    assert dump.ranges == (Range(0x1000000, 0x1003FFF, 0x41234000, 0, 4096, RWC, flags),)
    assert dump.entries is not None
    assert dump.entries[0] == Entry(3, 0, Kind.TABLE, None, 0x41000000, 0x41000003)
    leaf = Entry(0, 0x1000000, Kind.LEAF, 4096, 0x41300000, 0x40000041300F47, RWC, (*flags, "UXN", "AF"))
    assert dump.entries[1] == leaf
    assert [entry.kind for entry in dump.entries] == [Kind.TABLE, Kind.LEAF, Kind.LEAF, Kind.BAD]
    assert dump.stats == Stats((LevelStats(1, 1, 0, 4096), LevelStats(0, 2, 3, 8192)), LevelStats(-1, 3, 3, 12288))
    assert render(dump) == texts
    assert dump.texts == texts


def test_an_empty_table_and_files_that_were_not_read() -> None:
    dump = IO_PTDUMP.parse({"page_table": ""})
    assert dump.ranges == ()
    assert (dump.info, dump.entries, dump.stats) == (None, None, None)


def test_the_last_page_of_64_bits() -> None:
    line = "0xfffffffffffff000-0xffffffffffffffff 0x0000000041234000       4K 0       4K rwxc--"
    dump = IO_PTDUMP.parse({"page_table": f"{line}\n"})
    assert dump.ranges is not None
    assert dump.ranges[0].last == (1 << 64) - 1


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("0x0000000001000000-", "0x0000000001000000 - ", "RNG-2"),
        ("0x0000000001003fff", "0x0000000001003FFF", "RNG-2"),
        ("0x0000000001000000", "0x1000000", "RNG-2"),
        ("0x0000000041234000", "0x41234000", "RNG-4"),
        ("     16K", "  16384K", "RNG-4"),
        ("     16K", "16K", "RNG-4"),
        ("     16K", "     12K", "RNG-4"),
        ("      4K rw", "4K rw", "LVL-2"),
        ("      4K rw", "    4096 rw", "RNG-4"),
        (" 0 ", " x ", "LVL-1"),
        (" 0 ", " 00 ", "LVL-1"),
        ("rw-c--", "rw-c-", "PRT-1"),
        ("rw-c--", "wr-c--", "PRT-1"),
        ("rw-c--", "RW-C--", "PRT-1"),
        ("nG", "n,G", "PRT-3"),
        (" nG", "  nG", "RNG-2"),
        ("ATTR1", "ATTR1 ", "RNG-2"),
        (LINE, "", "RNG-2"),
        (LINE, "IOVA INFO DUMP FAIL", "RNG-2"),
    ],
)
def test_bad_page_table(old: str, new: str, rule: str) -> None:
    assert old in LINE
    error = refused("page_table", f"{LINE}\n{LINE.replace(old, new, 1)}\n")
    assert (error.rule, error.file, error.number) == (rule, "page_table", 2)
    assert error.line == LINE.replace(old, new, 1)
    assert error.why in str(error)


def test_a_file_that_is_cut() -> None:
    for file, text, rule in (("page_table", LINE, "RNG-2"), ("entries", ENTRIES, "ENT-1"), ("info", INFO, "INF-3")):
        assert refused(file, text.rstrip("\n")).rule == rule
    assert refused("stats", STATS.rstrip("\n")).rule == "ENT-2"
    assert refused("stats", "").rule == "ENT-2"
    assert refused("info", "").rule == "INF-1"


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("table -  0x", "table - 0x", "ENT-1"),
        ("leaf  4K", "leaf 4K", "ENT-1"),
        ("leaf  4K", "leaf  - ", "ENT-1"),
        ("table - ", "table 4K", "ENT-1"),
        ("leaf  4K", "leaf  four", "LVL-2"),
        ("512M ", "512M  ", "RNG-4"),
        ("raw 0x0000000041000003", "raw 0x41000003", "ENT-1"),
        ("raw 0x0040000041300f47 rw-c-- SH_IS", "raw 0x0040000041300f47 rw-c SH_IS", "PRT-1"),
        ("raw 0x0000000041000003", "raw 0x0000000041000003 rw-c--", "ENT-1"),
        ("bad   -", "evil  -", "ENT-1"),
    ],
)
def test_bad_entries(old: str, new: str, rule: str) -> None:
    assert old in ENTRIES
    assert refused("entries", ENTRIES.replace(old, new, 1)).rule == rule


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("arm_64_lpae_s1", "ARM", "INF-1"),
        ("unmanaged", "blocked", "INF-2"),
        ("page_sizes: 4K 2M 1G", "page_sizes: 4K 2048K 1G", "INF-2"),
        ("page_sizes: 4K 2M 1G", "page_sizes: 4K  2M 1G", "INF-2"),
        ("type: unmanaged\n", "", "INF-2"),
        ("levels: 4", "levels: four", "INF-3"),
        ("top: ", "top:", "INF-3"),
        ("format: arm_64_lpae_s1\ntype: unmanaged", "type: unmanaged\nformat: arm_64_lpae_s1", "INF-1"),
        ("top: 0x0000000041000000\n", "", "INF-3"),
    ],
)
def test_bad_info(old: str, new: str, rule: str) -> None:
    assert old in INFO
    assert refused("info", INFO.replace(old, new, 1)).rule == rule


def test_read_goes_on_after_an_error() -> None:
    dump, errors = IO_PTDUMP.read({"page_table": f"nonsense\n{LINE.upper()}\n{LINE}\n"})
    assert [error.number for error in errors] == [1, 2]
    assert dump.ranges is not None
    assert len(dump.ranges) == 1
    dump, errors = IO_PTDUMP.read({"page_table": f"{LINE.replace('fff', 'FFF')}\n"})
    assert [error.rule for error in errors] == ["RNG-2"]
    assert dump.ranges is not None
    assert dump.ranges[0].last == 0x1003FFF


def test_probe() -> None:
    assert [d.name for d in DIALECTS if d.probe({"domains", "arm_smmu_v3"})] == ["io_ptdump"]
    assert not IO_PTDUMP.probe({"io_page_tables"})
