# SPDX-License-Identifier: GPL-2.0-only
"""Which commands a change of a table, an STE or a CD needs."""

from __future__ import annotations

import pytest
from synthetic_memory import SyntheticMemory

from pytest_iommu.core.model import Prot
from pytest_iommu.formats import configure
from pytest_iommu.formats.smmuv3_commands import Command, Tag
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.invalidation import Gone, Leaves, gone, missing
from pytest_iommu.oracle.iommu import Cached
from pytest_iommu.oracle.stream_table import SmmuV3

S1, S2 = Tag(0, 7), Tag(5)
SYNC = Command("SYNC")
PAGES = Gone((Leaves(0x1000, 0x3FFF, 0, 0x1000),))
BLOCK = Gone((Leaves(0x200000, 0x3FFFFF, 1, 0x200000),))
TABLE = Gone(PAGES.leaves, ((0, 0x1FFFFF),))


def va(first: int, last: int | None, asid: int = 7, leaf: bool = True, ttl: int = 0) -> Command:
    return Command("TLBI_NH_VA", None, None, asid, 0, first, last, leaf, ttl)


def ipa(first: int, last: int | None, vmid: int = 5, leaf: bool = True) -> Command:
    return Command("TLBI_S2_IPA", None, None, None, vmid, first, last, leaf)


@pytest.mark.parametrize(
    ("commands", "tag", "lost"),
    [
        ([va(0x1000, 0x3FFF), SYNC], S1, PAGES),
        ([va(0x2000, 0x3FFF), va(0x1000, 0x1FFF), SYNC], S1, PAGES),
        ([va(0, 0xFFFF, ttl=3), SYNC], S1, PAGES),
        ([va(0x1000, None), va(0x2000, None), va(0x3000, None), SYNC], S1, PAGES),
        ([va(0x200000, None), SYNC], S1, BLOCK),
        ([va(0x200000, 0x3FFFFF, ttl=2), SYNC], S1, BLOCK),
        ([va(0, 0x1FFFFF, leaf=False), SYNC], S1, TABLE),
        ([Command("TLBI_NH_ASID", asid=7, vmid=0), SYNC], S1, TABLE),
        ([Command("TLBI_NH_ALL", vmid=0), SYNC], S1, TABLE),
        ([Command("TLBI_NSNH_ALL"), SYNC], S2, TABLE),
        ([ipa(0x1000, 0x3FFF), Command("TLBI_NH_ALL", vmid=5), SYNC], S2, PAGES),
        ([Command("TLBI_S12_VMALL", vmid=5), SYNC], S2, TABLE),
        ([], S1, Gone()),
    ],
)
def test_enough(commands: list[Command], tag: Tag, lost: Gone) -> None:
    assert list(missing(commands, tag, lost, "CMD_SYNC")) == []


@pytest.mark.parametrize(
    ("commands", "tag", "lost", "said"),
    [
        ([], S1, PAGES, "0x1000-0x3fff of ASID 7 is not invalidated"),
        ([SYNC], S1, PAGES, "0x1000-0x3fff of ASID 7 is not invalidated"),
        ([va(0x1000, 0x3FFF)], S1, PAGES, "0x1000-0x3fff of ASID 7 is invalidated, but no CMD_SYNC follows"),
        ([SYNC, va(0x1000, 0x3FFF)], S1, PAGES, "0x1000-0x3fff of ASID 7 is invalidated, but no CMD_SYNC follows"),
        ([va(0x1000, 0x2FFF), SYNC], S1, PAGES, "0x3000-0x3fff of ASID 7 is not invalidated"),
        ([va(0x1000, 0x1FFF), va(0x3000, 0x3FFF), SYNC], S1, PAGES, "0x2000-0x3fff of ASID 7 is not invalidated"),
        ([va(0x1000, 0x3FFF, asid=6), SYNC], S1, PAGES, "0x1000-0x3fff of ASID 7 is not invalidated"),
        (
            [va(0x200000, 0x3FFFFF, ttl=3), SYNC],
            S1,
            BLOCK,
            "0x200000-0x3fffff of ASID 7 is only with a hint for leaves at another level than 2",
        ),
        ([Command("TLBI_NH_ASID", asid=6, vmid=0), SYNC], S1, PAGES, "0x1000-0x3fff of ASID 7 is not invalidated"),
        (
            [va(0x1000, 0x3FFF), SYNC],
            S1,
            TABLE,
            "the table for 0x0-0x1fffff of ASID 7 is freed, but a cached walk to it is not invalidated",
        ),
        ([Command("TLBI_NH_ALL", vmid=5), SYNC], S2, PAGES, "0x1000-0x3fff of VMID 5 is not invalidated"),
        ([ipa(0x1000, 0x3FFF, vmid=4), SYNC], S2, PAGES, "0x1000-0x3fff of VMID 5 is not invalidated"),
    ],
)
def test_not_enough(commands: list[Command], tag: Tag, lost: Gone, said: str) -> None:
    assert list(missing(commands, tag, lost, "CMD_SYNC")) == [said]


def test_what_an_unmap_takes_away() -> None:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x1FF000, 0x5C1FF000, 0x201000, Prot.from_letters("rw"))
    model.map(0x400000, 0x5C000000, 0x200000, Prot.from_letters("rw"), 0x1000)
    before = model.snapshot()
    model.unmap(0x1FF000, 0x401000)
    found = gone(before, model.snapshot(), 0x1FF000, 0x5FFFFF)
    assert found.leaves == (
        Leaves(0x1FF000, 0x1FFFFF, 0, 0x1000),
        Leaves(0x200000, 0x3FFFFF, 1, 0x200000),
        Leaves(0x400000, 0x5FFFFF, 0, 0x1000),
    )
    assert found.tables == ((0x400000, 0x5FFFFF),), "the table of the first page stays: it is not covered"


def test_part_of_a_run() -> None:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x1000, 0x5C000000, 0x5000, Prot.from_letters("rw"))
    before = model.snapshot()
    model.unmap(0x2000, 0x2000)
    assert gone(before, model.snapshot(), 0x2000, 0x3FFF) == Gone((Leaves(0x2000, 0x3FFF, 0, 0x1000),))


CFGI_STE, CFGI_CD = Command("CFGI_STE", (8, 8), leaf=True), Command("CFGI_CD", (8, 8), 0, leaf=True)


@pytest.mark.parametrize(
    ("commands", "ste", "said"),
    [
        ([CFGI_STE, SYNC], True, None),
        ([CFGI_STE, SYNC], False, None),
        ([CFGI_CD, SYNC], False, None),
        ([Command("CFGI_STE_RANGE", (0, 255)), SYNC], True, None),
        ([Command("CFGI_CD_ALL", (8, 8)), SYNC], False, None),
        ([CFGI_CD, SYNC], True, "the STE of stream 8 has changed, and no CMD_CFGI_STE follows"),
        ([CFGI_STE], True, "the STE of stream 8 has changed, and no CMD_SYNC follows its CMD_CFGI_STE"),
        ([Command("CFGI_STE", (16, 16)), SYNC], True, "the STE of stream 8 has changed, and no CMD_CFGI_STE follows"),
        ([Command("CFGI_CD", (8, 8), 1), SYNC], False, "the CD of stream 8 has changed, and no CMD_CFGI_CD follows"),
    ],
)
def test_entries(commands: list[Command], ste: bool, said: str | None) -> None:
    smmu = SmmuV3(SyntheticMemory(), 0)
    changed = "STE" if ste else "CD"
    old, new = ({"STE": (0,), "CD": (0,)} | {changed: words} for words in ((1,), (2,)))
    assert next(smmu.stale(8, Cached(old), Cached(new), commands), None) == said
    assert list(smmu.stale(8, Cached(old), Cached(old), commands)) == []
