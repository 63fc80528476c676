# SPDX-License-Identifier: GPL-2.0-only
"""Which rule of the page table an entry breaks that should not be there."""

from __future__ import annotations

import pytest

from pytest_iommu.compare.difference import SILENT, Difference, Rank
from pytest_iommu.compare.table_rules import table_rule

REST = "0 0x0000000031238000 bad   -  0x0000000912377000 raw 0x7000000912377e01"
PART = REST.replace("bad ", "part")
TABLE = "1 0x0000000031200000 table -  0x0000000045670000 raw 0x0000000045670003"


@pytest.mark.parametrize(
    ("line", "unmapped", "rule"),
    [(REST, True, "TAB-4"), (PART, True, "TAB-4"), (REST, False, "TAB-6"), (TABLE, True, "TAB-6")],
)
def test_what_an_unmap_leaves(line: str, unmapped: bool, rule: str) -> None:
    """Items of a group whose first one is gone still translate; a table that stays does not."""
    one = Difference("ENT-1", Rank.ENTRY, "entries", "this entry should not be there", None, SILENT, memory=line)
    assert table_rule(one, unmapped) == rule


def test_bits_of_an_item_that_points_to_a_table() -> None:
    """Its address is right: it is pointed to once, but what is below it is limited."""
    why = "raw is not that of a table item"
    one = Difference("ENT-1", Rank.BITS, "entries", why, f"{TABLE[:-1]}7", SILENT, memory=TABLE)
    assert table_rule(one, False) == "TAB-2"
