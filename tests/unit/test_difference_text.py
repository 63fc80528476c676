# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a difference must be true of the lines that are shown beside it.

A fault of every kind is put into a dump's text, with a memory that is as expected, one that is as dumped, and none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import buggy_kernel as kernel
import pytest
import test_compare as faults

from pytest_iommu.compare.comparison import compare, expected_texts
from pytest_iommu.compare.difference import SILENT, Difference
from pytest_iommu.compare.table_rules import OF_THE_TEXT
from pytest_iommu.core import rules as known_rules
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.formats import configure
from pytest_iommu.oracle import Expected, TableModel

RW, R = Prot.from_letters("rw"), Prot.from_letters("r")


def table() -> Expected:
    """Three pages that merge, one with another prot, a hole, a page, a block."""
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x1000, 0x41000000, 0x3000, RW)
    model.map(0x4000, 0x41003000, 0x1000, R)
    model.map(0x8000, 0x42000000, 0x1000, RW)
    model.map(0x200000, 0x80000000, 0x200000, RW)
    model.map(0x40000000, 0x43000000, 0x1000, RW)
    return model.snapshot()


EXPECTED = table()
TRUTH = kernel.texts(EXPECTED)
#: the lines of page_table and entries, by their first IOVA
LINES = {int(line[:18], 16): line for line in TRUTH["page_table"].splitlines()}
TABLES = [line for line in TRUTH["entries"].splitlines() if " table " in line]
LEAVES = {int(line[2:20], 16): line for line in TRUTH["entries"].splitlines() if " leaf " in line}


@dataclass(frozen=True)
class Fault:
    """``change`` is done to a file's text. ``why`` is the sentence; the other two are the lines beside it."""

    file: str
    change: Callable[[str], str]
    rule: str
    why: str
    expected: str | None = SILENT
    dumped: str | None = SILENT


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def line(file: str, old: str, new: str, rule: str, why: str, expected: str | None = "as it was") -> Fault:
    """A fault in one line: ``old`` becomes ``new``, either may be empty for a line that is not there."""
    change = replaced(f"{old}\n" if old else TRUTH[file], f"{new}\n" if new else "")
    return Fault(file, change, rule, why, old if expected == "as it was" else expected, new or None)


def with_words(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1
    return text.replace(old, new, 1)


def page(first: int, old: str, new: str, rule: str, why: str, expected: str | None = "as it was") -> Fault:
    return line("page_table", LINES[first], with_words(LINES[first], old, new), rule, why, expected)


def leaf(first: int, old: str, new: str, rule: str, why: str, expected: str | None = "as it was") -> Fault:
    return line("entries", LEAVES[first], with_words(LEAVES[first], old, new), rule, why, expected)


MERGED = "0x0000000000001000-0x0000000000004fff 0x0000000041000000      16K 0       4K rw---- SH_OS nG ATTR0 PXN UXN"
BEHIND = "0x0000000000004000-0x0000000000005fff 0x0000000041003000       8K 0       4K r----- SH_OS nG ATTR0 PXN UXN"
BEYOND = "0x0000000000004000-0x0000000000006fff 0x0000000041003000      12K 0       4K r----- SH_OS nG ATTR0 PXN UXN"
PIECES = (
    "0x0000000000001000-0x0000000000001fff 0x0000000041000000       4K 0       4K rw---- SH_OS nG ATTR0 PXN UXN",
    "0x0000000000002000-0x0000000000003fff 0x0000000041001000       8K 0       4K rw---- SH_OS nG ATTR0 PXN UXN",
)
PART = "0x0000000000001000-0x0000000000002fff 0x0000000041000000       8K 0       4K rw---- SH_OS nG ATTR0 PXN UXN"
TOO_MANY = with_words(LINES[0x8000], "0x0000000000008000-0x0000000000008fff", "0x0000000000009000-0x0000000000009fff")
STRAY = with_words(LEAVES[0x8000], "0x0000000000008000", "0x0000000000009000")
OUTSIDE = with_words(with_words(TABLES[0], TABLES[0].split()[4], "0x0000000000000000"), TABLES[0][-8:], "00000003")

FAULTS = {
    "OA of a line": page(
        0x8000, "0x0000000042000000", "0x0000000042001000", "RNG-4", "the OA of 0x8000 is 0x42001000, not 0x42000000"
    ),
    "OA of an entry": leaf(
        0x8000, " 0x0000000042000000 ", " 0x0000000042001000 ", "RNG-4", "OA is 0x42001000, not 0x42000000"
    ),
    "level of a line": page(0x8000, " 0       4K", " 1       4K", "LVL-1", "level is 1, not 0"),
    "level of a leaf": leaf(0x8000, "0 0x", "1 0x", "LVL-1", "level is 1, not 0"),
    "leaf of a line": page(0x8000, " 0       4K", " 0       2M", "LVL-2", "leaf is 2M, not 4K"),
    "leaf of an entry": leaf(0x8000, "leaf  4K", "leaf  2M", "LVL-2", "leaf size is 2M, not 4K"),
    "prot of a line": page(0x8000, "rw----", "r-----", "PRT-1", "prot is r-----, not rw----"),
    "prot of an entry": leaf(0x8000, "rw----", "r-----", "PRT-1", "prot is r-----, not rw----"),
    "a flag lost": page(0x8000, " nG", "", "PRT-3", "flags: nG missing"),
    "a flag too many": page(0x8000, " nG", " nG nH", "PRT-3", "flags: nH should not be there"),
    "flags in another order": page(0x8000, "SH_OS nG", "nG SH_OS", "PRT-3", "flags are misordered or duplicated"),
    "a flag of an entry lost": leaf(0x8000, " AF", "", "PRT-3", "flags: AF missing"),
    "last at no edge": page(0x8000, "8fff", "9000", "RNG-2", "first or last is not page-aligned"),
    "size against the bounds": page(
        0x8000, "8fff", "9000", "RNG-4", "line 3: size is not 4097, which first and last give"
    ),
    "last before first": page(0x8000, "-0x0000000000008fff", "-0x0000000000007fff", "RNG-2", "last is before first"),
    "size": page(0x1000, "     12K", "     16K", "RNG-4", "line 1: size is not 12K, which first and last give"),
    "size on the left": page(
        0x1000, "     12K", "12K     ", "RNG-2", "line 1: wrong separation or alignment of columns"
    ),
    "leaf in another unit": page(
        0x200000, "      2M rw", "   2048K rw", "RNG-4", "line 4: leaf is not 2M, in the largest unit"
    ),
    "leaf of an entry in another unit": leaf(
        0x200000, "leaf  2M", "leaf  2048K", "RNG-4", "line 9: leaf size is not 2M, in the largest unit"
    ),
    "first of a line in upper case": page(
        0x8000,
        "0x0000000000008fff",
        "0X0000000000008fff",
        "RNG-2",
        "line 3: last is not 0x and 16 lower-case hex digits",
    ),
    "prot of five columns": leaf(0x8000, "rw----", "rw---", "PRT-1", "line 8: prot is not six columns rwxcmp"),
    "no end": Fault(
        "page_table",
        lambda text: text[:-1],
        "RNG-2",
        "line 5: the last line has no newline: the file is truncated",
        SILENT,
        LINES[0x40000000],
    ),
    "a line lost": line("page_table", LINES[0x8000], "", "RNG-1", "0x8000-0x8fff should be mapped but is in no line"),
    "a part of a line lost": line(
        "page_table", LINES[0x1000], PART, "RNG-1", "0x3000-0x3fff should be mapped but is in no line"
    ),
    "a line too many": Fault(
        "page_table",
        replaced(LINES[0x8000], f"{LINES[0x8000]}\n{TOO_MANY}"),
        "RNG-1",
        "nothing should be mapped at 0x9000",
        None,
        TOO_MANY,
    ),
    "a line too long": line(
        "page_table", LINES[0x4000], BEYOND, "RNG-1", "nothing should be mapped in part of 0x5000-0x6fff"
    ),
    "a line as long as the next one more": line(
        "page_table", LINES[0x4000], BEHIND, "RNG-3", "extends beyond 0x4fff into what lies behind a hole"
    ),
    "a line twice": Fault(
        "page_table",
        replaced(LINES[0x8000], f"{LINES[0x8000]}\n{LINES[0x8000]}"),
        "RNG-2",
        "duplicate of the line above",
        SILENT,
        LINES[0x8000],
    ),
    "lines exchanged": Fault(
        "page_table",
        replaced(f"{LINES[0x4000]}\n{LINES[0x8000]}", f"{LINES[0x8000]}\n{LINES[0x4000]}"),
        "RNG-2",
        "lines are not in ascending order: the one above begins at 0x8000",
        SILENT,
        LINES[0x4000],
    ),
    "lines overlap": Fault(
        "page_table",
        replaced(LINES[0x1000], MERGED),
        "RNG-2",
        "lines overlap: the one above ends at 0x4fff",
        SILENT,
        LINES[0x4000],
    ),
    "two lines made one": Fault(
        "page_table",
        replaced(f"{LINES[0x1000]}\n{LINES[0x4000]}", MERGED),
        "RNG-3",
        "extends beyond 0x3fff into what differs in prot",
        LINES[0x1000],
        MERGED,
    ),
    "a line in two": Fault(
        "page_table",
        replaced(LINES[0x1000], "\n".join(PIECES)),
        "RNG-3",
        "this line and the next one continue each other and should be one line",
        LINES[0x1000],
        PIECES[0],
    ),
    "page_table against entries": Fault(
        "page_table",
        replaced(f"{LINES[0x8000]}\n", ""),
        "ENT-2",
        "page_table does not match the merged leaves of entries",
    ),
    "a kernel pointer": leaf(
        0x8000,
        " 0x0000000042000000 ",
        " 0xffff800042000000 ",
        "LAY-6",
        "0xffff800042000000 looks like a kernel pointer",
        SILENT,
    ),
    "an entry lost": line("entries", LEAVES[0x8000], "", "ENT-1", "an entry is missing"),
    "an entry too many": Fault(
        "entries",
        replaced(LEAVES[0x8000], f"{LEAVES[0x8000]}\n{STRAY}"),
        "ENT-1",
        "this entry should not be there",
        None,
        STRAY,
    ),
    "an entry twice": Fault(
        "entries",
        replaced(LEAVES[0x8000], f"{LEAVES[0x8000]}\n{LEAVES[0x8000]}"),
        "ENT-1",
        "a second entry for this level and IOVA",
        SILENT,
        LEAVES[0x8000],
    ),
    "entries exchanged": Fault(
        "entries",
        replaced(f"{LEAVES[0x4000]}\n{LEAVES[0x8000]}", f"{LEAVES[0x8000]}\n{LEAVES[0x4000]}"),
        "ENT-1",
        "after level 0 0x8000: not depth first and ascending, tables before entries",
        SILENT,
        LEAVES[0x4000],
    ),
    "raw of a leaf": leaf(
        0x8000, "raw 0x0060000042000", "raw 0x0000000042000", "ENT-1", "raw is 0x42000e43, not 0x60000042000e43"
    ),
    "level of a table": line("entries", TABLES[3], f"3{TABLES[3][1:]}", "LVL-1", "level is 3, not 2"),
    "raw of a table": line(
        "entries",
        TABLES[0],
        TABLES[0][:-1] + "1",
        "ENT-1",
        "raw is 0x40010001, but a table item for that address is 0x40010003",
    ),
    "address of a table": line(
        "entries",
        TABLES[0],
        with_words(TABLES[0], "0x0000000040010000", "0x0000000050010000"),
        "ENT-1",
        "the address is 0x50010000, but the one in raw is 0x40010000",
    ),
    "a table at 0": line("entries", TABLES[0], OUTSIDE, "ENT-1", "a table at address 0", SILENT),
    "two tables at one address": Fault(
        "entries", replaced(TABLES[1][23:], TABLES[0][23:]), "ENT-1", "2 table items point to 0x40010000"
    ),
    "stats against entries": line(
        "stats", "0 2 6 8192", "0 2 7 8192", "ENT-2", "does not match the sums of the dumped entries"
    ),
    "a line of stats lost": line("stats", "3 1 0 4096", "", "ENT-2", "the line of level 3 is missing"),
    "a line of stats too many": Fault(
        "stats",
        replaced("3 1", "4 1 0 4096\n3 1"),
        "ENT-2",
        "does not match the sums of the dumped entries",
        None,
        "4 1 0 4096",
    ),
    "no stats": Fault("stats", lambda text: "", "ENT-2", "line 1: the file is truncated"),
    "format": line("info", "format: arm_64_lpae_s1", "format: arm_64_lpae_s2", "INF-1", "format is wrong"),
    "type": line("info", "type: unmanaged", "type: dma", "INF-2", "type is wrong"),
    "levels": line("info", "levels: 4", "levels: 3", "INF-3", "levels is wrong"),
    "top at no edge": line(
        "info",
        "top: 0x0000000040000000",
        "top: 0x0000000040000008",
        "INF-3",
        "no table can be at 0x40000008: a top is aligned to 4096 bytes and not at 0",
        SILENT,
    ),
    "top of a lower table": line(
        "info",
        "top: 0x0000000040000000",
        "top: 0x0000000040010000",
        "INF-3",
        "top has the address of a lower table in entries",
        SILENT,
    ),
    "a key lost": Fault(
        "info",
        replaced("type: unmanaged\n", ""),
        "INF-2",
        "line 2: expected type here",
        SILENT,
        "aperture: 0x0000000000000000-0x0000ffffffffffff",
    ),
    "the last key lost": Fault("info", lambda text: text[: text.index("top")], "INF-3", "line 5: top is missing"),
    "page sizes in another unit": line(
        "info",
        "page_sizes: 4K 2M 1G",
        "page_sizes: 4K 2048K 1G",
        "INF-2",
        "line 4: sizes are not in the largest unit",
        SILENT,
    ),
}


def of_memory(texts: dict[str, str]) -> dict[str, str]:
    """What a walk through memory gives: of info only the levels and the top."""
    known = [line for line in texts["info"].splitlines() if line.startswith(("levels:", "top:"))]
    return texts | {"info": "".join(f"{line}\n" for line in known)}


def shown(found: Difference) -> tuple[str, str | None, str | None]:
    return found.why, found.expected, found.dumped


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("memory", ["unseen", "as expected", "as dumped"])
def test_a_fault_is_told_as_it_is(name: str, memory: str) -> None:
    fault = FAULTS[name]
    texts = TRUTH | {fault.file: fault.change(TRUTH[fault.file])}
    seen = {"unseen": None, "as expected": of_memory(TRUTH), "as dumped": of_memory(texts)}[memory]
    comparison = compare(EXPECTED, texts, memory=seen)
    rules = {fault.rule} if memory != "as dumped" else {fault.rule, *known_rules.TABLES}
    told = [shown(one) for one in comparison.differences if one.rule in rules and one.file == fault.file]
    assert (fault.why, fault.expected, fault.dumped) in told


SEEDED = {f"{name} (all lines)": kernel.texts(EXPECTED, fault) for name, (_, fault) in faults.WALK_FAULTS.items()}
SEEDED |= {f"{name} (printed)": kernel.texts(EXPECTED, show=show) for name, (_, show) in faults.PRINT_FAULTS.items()}
SEEDED |= {f"{name} (merged)": kernel.texts(EXPECTED, join=join) for name, join in faults.MERGE_FAULTS.items()}
SEEDED |= {name: TRUTH | {fault.file: fault.change(TRUTH[fault.file])} for name, fault in FAULTS.items()}


@pytest.mark.parametrize("name", [name for name, texts in SEEDED.items() if texts != TRUTH])
def test_no_line_is_made_up(name: str) -> None:
    """Whatever the fault: a line is in the text of the witness that it is shown of, and two that differ do differ."""
    texts = SEEDED[name]
    wanted = {file: set(text.splitlines()) for file, text in (TRUTH | expected_texts(EXPECTED)).items()}
    for file, text in TRUTH.items():
        wanted[file] |= set(text.splitlines())
    for seen in (None, of_memory(TRUTH), of_memory(texts)):
        comparison = compare(EXPECTED, texts, memory=seen)
        assert comparison.differences
        for one in comparison.differences:
            assert "memory" not in one.why, one
            assert one.dumped in (None, SILENT) or one.dumped in texts[one.file].split("\n"), one
            assert one.expected in (None, SILENT) or one.expected in wanted[one.file] or " table " in one.expected, one
            assert one.expected == SILENT or one.expected != one.dumped, one
            if seen is None:
                assert one.memory == SILENT, one
                continue
            held = seen[one.file].splitlines()
            assert one.memory in (None, SILENT) or one.memory in held, one
            assert one.alone or one.memory == one.dumped or one.dumped not in held, one
            if one.memory is None:  # then nothing is there, not even a part of a longer line
                (line,) = {one.expected, one.dumped} - {None, SILENT} if one.expected is None else {one.expected}
                assert line not in held, one


@pytest.mark.parametrize("name", [name for name, texts in SEEDED.items() if texts != TRUTH])
def test_the_verdict_is_by_memory(name: str) -> None:
    texts = SEEDED[name]
    unseen, right, wrong = (
        compare(EXPECTED, texts, memory=seen) for seen in (None, of_memory(TRUTH), of_memory(texts))
    )
    assert (unseen.verdict, unseen.because) in (
        (Verdict.UNDECIDED, "the guest's memory could not be read"),
        (Verdict.DUMP, "whatever memory holds"),
    )
    assert (right.verdict, right.because) == (Verdict.DUMP, "memory is as expected")
    if any(texts[file] != TRUTH[file] for file in ("page_table", "entries", "stats")):
        assert wrong.verdict in (Verdict.MAPPING, Verdict.BOTH)
    assert unseen.rules == right.rules
    # What is wrong in memory breaks rules of the page table; a text that has no grammar breaks its own all the same.
    text_only = {one.rule for one in wrong.differences if one.rank in OF_THE_TEXT or one.file == "info"}
    first = {one.rule for one in wrong.differences}
    assert first <= {*known_rules.TABLES, *text_only}
    assert wrong.verdict is not Verdict.MAPPING or not set(wrong.rules) - {*known_rules.TABLES, *text_only}


def test_a_line_of_memory_is_found_by_what_it_holds() -> None:
    """Memory has the pages merged that the dump should have apart: then it is not without a line."""
    texts = TRUTH | {"page_table": TRUTH["page_table"].replace("r-----", "-w----")}
    memory = of_memory(TRUTH | {"page_table": TRUTH["page_table"].replace(f"{LINES[0x1000]}\n{LINES[0x4000]}", MERGED)})
    (found,) = {one.memory for one in compare(EXPECTED, texts, memory=memory).differences if one.rule == "TAB-2"}
    assert found == MERGED


def test_a_line_is_shown_as_it_was_written() -> None:
    """Also where it is read though it is not written as it should be."""
    wrong = LINES[0x8000].replace("0x0000000042000000", "0x0000000042001000").replace("0x0", "0X0")
    found = compare(EXPECTED, TRUTH | {"page_table": TRUTH["page_table"].replace(LINES[0x8000], wrong)}).differences
    assert {one.dumped for one in found if one.rule == "RNG-4"} == {wrong}


def test_what_memory_cannot_tell_is_left_out() -> None:
    texts = TRUTH | {"info": TRUTH["info"].replace("unmanaged", "dma")}
    (found,) = compare(EXPECTED, texts, memory=of_memory(TRUTH)).differences
    assert found.memory == SILENT
    wrong = TRUTH | {"entries": TRUTH["entries"].replace("42000e43", "42000ec3")}
    assert compare(EXPECTED, wrong | {"info": texts["info"]}, memory=of_memory(wrong)).verdict is Verdict.BOTH
    assert compare(EXPECTED, wrong, memory=of_memory(wrong)).verdict is Verdict.MAPPING


@pytest.mark.parametrize("order", [1, -1])
def test_lines_with_the_same_first_are_not_mixed_up(order: int) -> None:
    """A line is shown as the kernel wrote it, also where another one begins at the same address."""
    wrong = LINES[0x8000].replace("0x0000000042000000", "0x0000000042001000")
    both = "\n".join([wrong, LINES[0x8000]][::order])
    texts = TRUTH | {"page_table": TRUTH["page_table"].replace(LINES[0x8000], both)}
    found = compare(EXPECTED, texts).differences
    assert [one.dumped for one in found if one.rule == "RNG-4"] == [wrong]
