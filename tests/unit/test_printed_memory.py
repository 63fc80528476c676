# SPDX-License-Identifier: GPL-2.0-only
"""What another kernel prints, against the memory that its hardware walks: v1's rows, VT-d's, and stream entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from saved_tables import SMMU, Saved

from pytest_iommu.compare.printed_memory import requester, stream_against, table_against, top_against, walked
from pytest_iommu.compare.printed_rules import Finding
from pytest_iommu.core.model import Kind
from pytest_iommu.dialects.io_page_tables import IO_PAGE_TABLES, flags_of
from pytest_iommu.dialects.smmuv3_2021 import SMMUV3_2021
from pytest_iommu.dialects.vtd import VTD
from pytest_iommu.oracle.stream_table import SmmuV3

DEVICE = "0000:00:01.0"
"""The function of stream 8."""


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def of_v1(saved: Saved, text: str) -> list[Finding]:
    (table,) = IO_PAGE_TABLES.parse({"io_page_tables": text}).tables
    found = walked(table, saved.memory, SmmuV3(saved.memory, SMMU))
    assert found is not None
    return table_against(table, found)


def test_the_rows_of_v1_are_those_of_the_table_that_the_stream_leads_to(saved: Saved) -> None:
    text = saved.v1_text(DEVICE)
    assert text.count(" lvl 3 ") == 4
    assert of_v1(saved, text) == []


@pytest.mark.parametrize(
    ("row", "old", "new", "rule", "why"),
    [
        (4, "SH_IS", "     ", "PRT-3", "flags are V XN AF, V XN AF SH_IS in memory"),
        (5, " XN ", "    ", "PRT-3", "flags are V AF SH_IS, V XN AF SH_IS in memory"),
        (6, "1002000 - 1003000", "1003000 - 1004000", "RNG-1", "0x1003000 is not mapped in memory"),
        (7, "2000000 - 2001000    lvl 3", "2000000 - 2200000    lvl 2", "LVL-1", "level is 1, 0 in memory"),
    ],
)
def test_a_row_that_differs_is_found(saved: Saved, row: int, old: str, new: str, rule: str, why: str) -> None:
    lines = saved.v1_text(DEVICE).splitlines(keepends=True)
    assert old in lines[row]
    lines[row] = lines[row].replace(old, new)
    found = of_v1(saved, "".join(lines))
    assert any(one.rule == rule and one.line == row + 1 and why in one.why for one in found), found


def test_a_page_that_is_alone_and_not_shown_is_v1_3(saved: Saved) -> None:
    lines = saved.v1_text(DEVICE).splitlines(keepends=True)
    (one,) = of_v1(saved, "".join(lines[:7] + lines[8:]))
    assert (one.rule, "0x2000000-0x2000fff (4K) is mapped in memory" in one.why) == ("V1-3", True)
    (one,) = of_v1(saved, "".join(lines[:4] + lines[5:]))
    assert one.rule == "RNG-1"
    assert [one.rule for one in of_v1(saved, "".join(lines[:4] + lines[8:]))] == ["RNG-1", "V1-3"]


def test_a_domain_whose_device_is_elsewhere_is_not_found(saved: Saved) -> None:
    for device in ("0000:00:03.0", "platform-device"):
        (table,) = IO_PAGE_TABLES.parse({"x": saved.v1_text(device)}).tables
        assert walked(table, saved.memory, SmmuV3(saved.memory, SMMU)) is None


def test_each_row_of_2021_is_a_leaf_and_each_leaf_a_row(saved: Saved) -> None:
    heading = f"SMMUv3 dump page table for device {DEVICE}, stage 1, ssid 0x0:\n"
    (table,) = SMMUV3_2021.parse({"x": heading}).tables
    found = walked(table, saved.memory, SmmuV3(saved.memory, SMMU))
    assert found is not None
    rows = [f"va: {one.iova:x} -> pa: {one.oa:x}\n" for one in found.entries if one.kind is Kind.LEAF]
    assert len(rows) == 4

    def rules(*rows: str) -> list[str]:
        (table,) = SMMUV3_2021.parse({"x": "".join((heading, *rows))}).tables
        return [one.rule for one in table_against(table, found)]

    assert rules(*rows) == []
    assert rules(*rows[1:]) == ["RNG-1"]
    assert rules(*rows[1:], "[...]\n") == []
    assert rules("va: 1000 -> pa: 1000\n", *rows) == ["RNG-1", "RNG-1"]
    assert rules(rows[0].replace("pa: ", "pa: 1"), *rows[1:]) == ["RNG-4"]


@pytest.mark.parametrize(("word", "wrong"), [(0, []), (1 << 31, ["STE-2"])])
def test_a_descriptor_that_its_stream_does_not_lead_to_must_be_invalid(
    saved: Saved, word: int, wrong: list[str]
) -> None:
    """The files of 2021 show the driver's table, whatever the stream table entry says."""
    words = "".join(f"0x{one:016x}\n" for one in (word, *([0] * 7)))
    text = f"SMMUv3 CD values for device: 0000:00:03.0, ssid: 0x0\n{words}"
    (stream,) = SMMUV3_2021.parse({"x": text}).streams
    smmu = SmmuV3(saved.memory, SMMU)
    assert smmu.cd(24) is None
    assert [one.rule for one in stream_against(stream, smmu, 24)] == wrong


def test_vtd_says_where_its_table_is(saved: Saved) -> None:
    (table,) = VTD.parse({"x": saved.vtd_text()}).tables
    found = walked(table, saved.memory, None)
    assert found is not None
    assert table_against(table, found) == []
    assert top_against(table, None) == []
    last = saved.vtd_text().rstrip("\n").rpartition("0x")[2]
    (table,) = VTD.parse({"x": saved.vtd_text().replace(last, f"{int(last, 16) + 4096:016x}")}).tables
    assert [one.rule for one in table_against(table, found)] == ["RNG-4"]


class Leads:
    """An IOMMU whose entries all lead to one table."""

    def __init__(self, top: int) -> None:
        self.top = top

    def table(self, requester: int) -> object:
        return None, self.top


def test_the_top_that_vtd_says_is_where_the_entries_of_the_device_lead(saved: Saved) -> None:
    (table,) = VTD.parse({"x": saved.vtd_text()}).tables
    assert top_against(table, cast(Any, Leads(saved.vtd.top))) == []
    (one,) = top_against(table, cast(Any, Leads(saved.arm.top)))
    assert (one.rule, one.line) == ("INF-3", 1)
    assert top_against(replace(table, pasid=1), cast(Any, Leads(saved.arm.top))) == []


@pytest.mark.parametrize(
    ("raw", "stage", "flags"),
    [
        (0x0060000041000F43, 1, "V XN AF SH_IS"),
        (0x0008000041000E63, 1, "V DBM AF SH_OS NS"),
        (0x0040000041000463, 1, "V AF SH_NS NS"),  # one of the two bits of XN
        (0x00000000410007FF, 2, "V AF SH_IS"),  # MemAttr 1111
        (0x8000000041000400, 1, "AF SH_NS"),  # NSTable is a bit of tables
    ],
)
def test_flags_of_a_leaf(raw: int, stage: int, flags: str) -> None:
    assert " ".join(flags_of(raw, stage)) == flags


def test_names_of_pci_functions() -> None:
    assert requester("0000:02:1f.7") == 0x2FF
    assert requester("00:01.0") == 8
    assert requester("9050000.iommu") is None
