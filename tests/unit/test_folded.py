# SPDX-License-Identifier: GPL-2.0-only
"""The text of differences: each line once, columns in line, what differs marked, what repeats counted."""

from __future__ import annotations

import buggy_kernel as kernel
import pytest

from pytest_iommu.compare.comparison import compare
from pytest_iommu.compare.difference import Difference, Rank
from pytest_iommu.compare.folded import folded
from pytest_iommu.compare.side_by_side import stacked
from pytest_iommu.core.model import Prot
from pytest_iommu.formats import configure
from pytest_iommu.oracle import Expected, TableModel

LINE = "0x0000000000001000-0x0000000000001fff 0x0000000041000000       4K 0       4K rw---- SH_OS nG ATTR0"


def marked(other: str) -> tuple[str, str]:
    """The other line, and what is marked in it: a character a mark, with the blanks between."""
    *_, shown, marks = stacked({"expected": LINE, "dumped": other})
    at = marks.index("^")
    return shown[len("    dumped    ") :], shown[at : len(marks)]


@pytest.mark.parametrize(
    ("old", "new", "marks"),
    [
        ("41000000", "41002000", "2"),
        ("1fff", "2000", "2000"),
        ("      4K 0", "    4097 0", "4097"),
        ("rw----", "r-----", "-"),
        (" 0 ", " 1 ", "1"),
        (" nG", " NG", "N"),
        ("SH_OS nG", "nG SH_OS", "nG    SH_OS"),
        (" ATTR0", " ATTR0 AF", "AF"),
        ("0x0000000041000000", "0x41000000", "0x41000000"),
    ],
)
def test_what_differs_is_marked(old: str, new: str, marks: str) -> None:
    assert LINE.count(old) == 1 or old == " 0 "
    assert marked(LINE.replace(old, new, 1))[1].rstrip() == marks


def test_words_that_both_have_stay_below_each_other() -> None:
    assert stacked({"expected": LINE, "dumped": LINE.replace("SH_OS ", ""), "in RAM": LINE}) == [
        f"    expected, in RAM  {LINE}",
        f"    dumped            {LINE.replace('SH_OS', '     ')}",
        "    " + " " * (LINE.index("SH_OS") + 18) + "^^^^^",
    ]


def test_blanks_are_marked_where_they_alone_differ() -> None:
    two = LINE.replace(" 0x", "  0x")
    assert stacked({"expected": LINE, "dumped": two})[-1] == " " * (14 + LINE.index(" 0x")) + "^"
    assert stacked({"expected": LINE, "dumped": f"{LINE} "})[-1] == " " * (14 + len(LINE)) + "^"


def test_three_that_all_differ() -> None:
    shown = stacked({"expected": LINE, "dumped": LINE.replace(" nG", ""), "in RAM": LINE.replace("rw-", "r--")})
    assert [line[4:12] for line in shown] == ["expected", "dumped  ", "in RAM  ", "        "]
    assert [shown[3].index("^"), shown[3].rindex("^")] == [14 + LINE.index("w-"), 15 + LINE.index("nG")]


def test_lines_that_are_not_there() -> None:
    assert stacked({"expected": LINE, "dumped": None, "in RAM": None}) == [
        f"    expected        {LINE}",
        "    dumped, in RAM  (no line)",
    ]
    assert stacked({"expected": None, "dumped": ""}) == ["    expected  (no line)", "    dumped    (an empty line)"]


def test_an_address_that_nobody_knows_is_not_marked() -> None:
    known = "3 0x0000000000000000 table -  0x0000000040010000 raw 0x0000000040010003"
    shown = stacked({"expected": known.replace("0x0000000040010000 raw", "(any) raw"), "dumped": f"{known[:-1]}1"})
    assert shown[-1].strip() == "^"


def table() -> Expected:
    model = TableModel(configure("amdv1"))
    for number in range(30):
        model.map(number << 13, 0x40000000, 0x1000, Prot.from_letters("rw"))
    return model.snapshot()


def test_what_repeats_is_counted() -> None:
    lines = compare(table(), {"page_table": ""}).text.splitlines()
    assert lines == [
        "RNG-1  page_table: 0x0-0xfff should be mapped but is in no line",
        f"    expected  {kernel.texts(table())['page_table'].splitlines()[0]}",
        "    dumped    (no line)",
        "    and 29 more lines like this: 0x2000, 0x4000, 0x6000, 0x8000, ... 0x3a000",
    ]


def test_a_line_is_shown_once_with_all_that_is_wrong_with_it() -> None:
    expected = table()
    texts = kernel.texts(expected)
    wrong = texts["page_table"].replace("rw----", "-w----", 1).replace("0x0000000040000000", "0x0000000040001000", 1)
    lines = compare(expected, texts | {"page_table": wrong}).text.splitlines()
    assert lines[:2] == [
        "PRT-1  page_table: prot is -w----, not rw----",
        "RNG-4  page_table: the OA of 0x0 is 0x40001000, not 0x40000000",
    ]
    assert [line.split()[0] for line in lines[2:4]] == ["expected", "dumped"]
    assert sum("0x0000000000000000-0x0000000000000fff" in line for line in lines) == 2


def test_a_long_text_is_cut_after_some_kinds() -> None:
    found = [Difference("RNG-1", Rank.PRESENCE, "page_table", f"{letter}!", LINE, None) for letter in "abcdef"]
    found[5] = Difference("RNG-1", Rank.PRESENCE, "page_table", "f!", f"{LINE} x", None)
    other = [Difference("ENT-1", Rank.ENTRY, "entries", f"{letter}!", None, f"{letter} 0x1") for letter in "abcdef"]
    lines = folded([*found, *other])
    assert [line for line in lines if line.startswith("RNG-1")] == [
        f"RNG-1  page_table: {letter}!" for letter in "abcdef"
    ]
    assert lines[-1] == "... and 4 lines with 4 other kinds of difference"


def test_the_examples_of_a_fault_in_every_line_fit_on_a_screen() -> None:
    expected = table()
    everywhere = kernel.texts(expected, show=lambda item, size: kernel.line(item, size).replace("rw", "-w"))
    assert len(compare(expected, everywhere).text.splitlines()) <= 15
