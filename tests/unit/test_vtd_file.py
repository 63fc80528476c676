# SPDX-License-Identifier: GPL-2.0-only
"""VT-d's own dump of a device beside what is mapped: which rule comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from saved_tables import Saved

from pytest_iommu.check.witnesses.vtd_file import VtdFile
from pytest_iommu.core.protocol import Result


class Leads:
    """VT-d, whose entries lead to that top."""

    def __init__(self, top: int) -> None:
        self._top = top

    def table(self, sid: int) -> tuple[None, int]:
        return None, self._top


def broken(saved: Saved, text: str) -> list[tuple[str, ...]]:
    file = VtdFile("edu0", "d", "file", saved.vtd.expected)
    found = file.check([Result(len(text), text.encode())], cast(Any, Leads(saved.vtd.top)), {})
    return [(*one.rules, *one.related) for one in found]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def test_the_true_text(saved: Saved) -> None:
    assert broken(saved, saved.vtd_text()) == []


def test_rows_of_a_directory_at_the_addresses_of_another(saved: Saved) -> None:
    """Their items are right, and contradict the rows that belong there: it is the IOVA that is wrong."""
    text = saved.vtd_text().replace("0x0000000002000 |", "0x0000000001003 |")
    (rules,) = broken(saved, text)
    assert rules[0] == "RNG-1"
    assert "ENT-1" in rules


def test_an_item_of_another_row(saved: Saved) -> None:
    rows = saved.vtd_text().splitlines(keepends=True)
    rows[3] = rows[3].replace(rows[3].split("\t")[4], rows[5].split("\t")[4])
    (rules,) = broken(saved, "".join(rows))
    assert rules[0] == "ENT-1"
