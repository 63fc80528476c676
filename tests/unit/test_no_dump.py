# SPDX-License-Identifier: GPL-2.0-only
"""A kernel without a dump: its page table in memory is judged, under the rules of docs/tables.md."""

from __future__ import annotations

import buggy_kernel as kernel
import pytest

from pytest_iommu import formats
from pytest_iommu.check.reading import Where, check_job, ignore_comparison
from pytest_iommu.compare.comparison import compare
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.protocol import Result
from pytest_iommu.core.rules import DUMP, TABLES, of_dump
from pytest_iommu.dialects import NO_DUMP
from pytest_iommu.oracle import TableModel
from pytest_iommu.scenario import Check

CONFIG = formats.configure("arm_64_lpae_s1", granule=4096, ias=48, oas=44)
RW, RO = Prot.from_letters("rw"), Prot.from_letters("r")


def table(*mappings: tuple[int, int, int, Prot]) -> TableModel:
    model = TableModel(CONFIG)
    for iova, oa, size, prot in mappings:
        model.map(iova, oa, size, prot)
    return model


ASKED = table((0x1000, 0x41000000, 0x2000, RW), (0x200000, 0x42000000, 0x200000, RW)).snapshot()


@pytest.mark.parametrize(
    ("held", "unmapped", "rule"),
    [
        (((0x1000, 0x41001000, 0x2000, RW), (0x200000, 0x42000000, 0x200000, RW)), False, "TAB-1"),
        (((0x1000, 0x41000000, 0x2000, RO), (0x200000, 0x42000000, 0x200000, RW)), False, "TAB-2"),
        (((0x1000, 0x41000000, 0x2000, RW),), False, "TAB-1"),
        (((0x1000, 0x41000000, 0x1000, RW), (0x200000, 0x42000000, 0x200000, RW)), False, "TAB-1"),
        (((0x1000, 0x41000000, 0x2000, RW), (0x200000, 0x42000000, 0x400000, RW)), True, "TAB-4"),
        (((0x1000, 0x41000000, 0x2000, RW), (0x200000, 0x42000000, 0x400000, RW)), False, "TAB-1"),
    ],
)
def test_a_wrong_table_breaks_its_own_rule(
    held: tuple[tuple[int, int, int, Prot], ...], unmapped: bool, rule: str
) -> None:
    memory = kernel.texts(table(*held).snapshot())
    found = compare(ASKED, {}, NO_DUMP, memory, unmapped)
    assert found.primary == rule
    assert found.verdict is Verdict.MAPPING
    assert set(found.rules) <= set(TABLES)
    assert "in RAM" in found.text
    assert "dumped" not in found.text


def test_blocks_that_were_split_are_seen() -> None:
    split = table((0x1000, 0x41000000, 0x2000, RW))
    split.map(0x200000, 0x42000000, 0x200000, RW, 4096)
    found = compare(ASKED, {}, NO_DUMP, kernel.texts(split.snapshot()))
    assert found.primary == "TAB-3"


def test_an_empty_table_that_was_left_is_seen() -> None:
    left = table((0x1000, 0x41000000, 0x2000, RW), (0x200000, 0x42000000, 0x200000, RW), (1 << 40, 0, 0x1000, RW))
    memory = kernel.texts(left.snapshot())
    lines = {
        name: [line for line in text.splitlines() if "0x0000010000000000" not in line or " table " in line]
        for name, text in memory.items()
        if name in ("page_table", "entries")
    }
    memory |= {name: "".join(f"{line}\n" for line in rows) for name, rows in lines.items()}
    assert compare(ASKED, {}, NO_DUMP, memory, unmapped=True).primary == "TAB-6"


def test_a_table_that_is_right_passes() -> None:
    assert compare(ASKED, {}, NO_DUMP, kernel.texts(ASKED)).ok
    assert compare(ASKED, {}, NO_DUMP, None).ok  # a guest whose memory cannot be read: the runner skips it


def test_the_words_of_info_break_the_rules_of_the_dump() -> None:
    """Also where the table is wrong as well: memory has no format's name."""
    held = kernel.texts(table((0x1000, 0x41001000, 0x2000, RW), (0x200000, 0x42000000, 0x200000, RW)).snapshot())
    lies = held | {"info": held["info"].replace("unmanaged", "dma")}
    info = "".join(f"{line}\n" for line in held["info"].splitlines() if line.startswith(("levels:", "top:")))
    found = compare(ASKED, lies, memory=held | {"info": info})
    assert found.verdict is Verdict.BOTH
    assert {one.rule for one in found.differences if one.file == "info"} == {"INF-2"}
    assert found.primary == "TAB-1"


def test_a_table_that_is_not_found_is_not_passed() -> None:
    """A domain without a known top has nothing that could be compared."""
    check = Check("d", ASKED, 0)
    job = check_job(check, Where({"d": "-"}, NO_DUMP), ignore_comparison)
    with pytest.raises(pytest.skip.Exception, match="no dump, and the page table of domain d is not found in memory"):
        job.judge([Result(0, b"")] * len(job.ops), {})


def test_every_rule_is_of_the_tables_or_of_the_dump() -> None:
    assert not set(TABLES) & set(DUMP)
    assert of_dump("RNG-1")
    assert not of_dump("TAB-1")
    assert not of_dump("a-rule-of-a-plugin")
