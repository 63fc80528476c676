# SPDX-License-Identifier: GPL-2.0-only
"""The file lookup as text, and its paths as they follow from entries."""

from __future__ import annotations

from errno import EINVAL, EPERM

import pytest

from pytest_iommu.check.witnesses.lookup_file import LookupFile
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.core.protocol import Result
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import render_entry
from pytest_iommu.dialects.lookup import parse_lookup
from pytest_iommu.formats import get
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.expected import Expected
from pytest_iommu.oracle.lookups import path

K, M, G = 1 << 10, 1 << 20, 1 << 30
TEXT = """\
iova: 0x0000000000201234
2 0x0000000000000000 table -  0x0000000041000000 raw 0x0000000041000003
1 0x0000000000200000 table -  0x0000000041001000 raw 0x0000000041001003
0 0x0000000000201000 leaf  4K 0x0000000041300000 raw 0x0040000041300f47 rw-c-- SH_IS nG ATTR1
output: 0x0000000041300234
"""
HOLE = """\
iova: 0x0000000000400000
2 0x0000000000000000 table -  0x0000000041000000 raw 0x0000000041000003
1 0x0000000000400000 empty -  0x0000000000000000 raw 0x0000000000000000
output: -
"""
LEAF = TEXT.splitlines()[3]


def test_texts() -> None:
    found = parse_lookup(TEXT)
    assert (found.iova, found.output, [entry.level for entry in found.path]) == (0x201234, 0x41300234, [2, 1, 0])
    assert found.fault() is None
    hole = parse_lookup(HOLE)
    assert (hole.output, str(hole.path[-1].kind), hole.fault()) == (None, "empty", None)
    outside = parse_lookup("iova: 0x4000000000000000\noutput: -\n")
    assert (outside.path, outside.fault()) == ((), None)


@pytest.mark.parametrize(
    ("text", "rule", "number"),
    [
        ("", "LKP-1", 1),
        (TEXT[:-1], "LKP-1", 5),
        (TEXT.replace("iova: 0x0", "iova: 0x"), "LKP-1", 1),
        (TEXT.replace("output: ", "oa: "), "LKP-1", 5),
        (TEXT.replace("leaf  4K", "leaf  4k"), "LVL-2", 4),
        (TEXT.replace("1 0x", "1 0X"), "ENT-1", 3),
    ],
)
def test_malformed(text: str, rule: str, number: int) -> None:
    with pytest.raises(DumpSyntaxError) as found:
        parse_lookup(text)
    assert (found.value.rule, found.value.number) == (rule, number)


@pytest.mark.parametrize(
    ("text", "rule", "says"),
    [
        (TEXT.replace("1 0x0000000000200000 table", "0 0x0000000000200000 table"), "LKP-1", "levels 2, 0, 0"),
        (TEXT.replace("table -  0x0000000041001", "bad   -  0x0000000041001"), "LKP-2", "goes on below"),
        (TEXT.replace(f"{LEAF}\n", ""), "LKP-2", "ends at a table"),
        (HOLE.replace("raw 0x0000000000000000", "raw 0x0000000000000001"), "LKP-2", "calls empty what is not 0"),
        (TEXT.replace("0 0x0000000000201000", "0 0x0000000000202000"), "LKP-1", "a leaf of other IOVAs"),
        (TEXT.replace("41300234", "41300000"), "LKP-2", "output 0x41300000"),
        (HOLE.replace("output: -", "output: 0x0000000000000000"), "LKP-2", "output 0x0,"),
    ],
)
def test_what_contradicts_itself(text: str, rule: str, says: str) -> None:
    fault = parse_lookup(text).fault()
    assert fault is not None
    assert fault[0] == rule
    assert says in fault[1]


def table(name: str = "amdv1", **parameters: object) -> Expected:
    model = TableModel(get(name).configure(**parameters))
    model.map(64 * K, 0, 64 * K, Prot.from_letters("rw"))
    model.map(2 * M, 4 * M, 2 * M, Prot.from_letters("rw"))
    return model.snapshot()


def entries(expected: Expected) -> str:
    return "".join(f"{render_entry(entry)}\n" for entry in expected.entries)


def test_a_group_is_found_from_its_middle() -> None:
    expected = table()
    words = [line.split()[:4] for line in path(entries(expected), expected, 64 * K + 9 * 4 * K)]
    assert words[-1] == ["0", "0x0000000000010000", "leaf", "64K"]
    assert [word[0] for word in words] == [str(level) for level in range(expected.top, -1, -1)]


def test_a_hole_and_what_is_beyond() -> None:
    expected = table()
    (*_, last) = path(entries(expected), expected, 32 * K)
    assert last.split()[:3] == ["0", "0x0000000000008000", "empty"]
    assert path(entries(expected), expected, 1 << 60) == []


def test_the_upper_half() -> None:
    model = TableModel(get("x86_64").configure())
    high = (1 << 64) - 4 * K
    model.map(high, 0, 4 * K, Prot.from_letters("rw"))
    expected = model.snapshot()
    (*_, last) = path(entries(expected), expected, high + 5)
    assert last.split()[:3] == ["0", f"0x{high:016x}", "leaf"]


def answers(asked: LookupFile, expected: Expected, *, instead: dict[int, str] | None = None) -> list[Result]:
    """What a true kernel says, but for these IOVAs."""
    found = [Result(0)]
    for op in asked.ops[1:-1:2]:
        iova = int(bytes(op.data), 0)
        rows = path(entries(expected), expected, iova)
        leaf = next((row for row in expected.ranges if row.first <= iova <= row.last), None)
        output = "-" if leaf is None else f"0x{leaf.oa + iova - leaf.first:016x}"
        text = "".join(f"{row}\n" for row in (f"iova: 0x{iova:016x}", *rows, f"output: {output}"))
        text = (instead or {}).get(iova, text)
        found += [Result(len(op.data)), Result(len(text), text.encode())]
    return [*found, Result(0)]


def test_a_true_kernel() -> None:
    expected = table()
    asked = LookupFile("d", "lookup", expected)
    assert asked.check(answers(asked, expected), entries(expected), {}) == []
    assert len(asked.ops) > 2 + 2 * 4


def faults(text: str, rule: str, says: str) -> None:
    expected = table()
    asked = LookupFile("d", "lookup", expected)
    iova = int(bytes(asked.ops[1].data), 0)
    (wrong,) = asked.check(answers(asked, expected, instead={iova: text}), entries(expected), {})
    assert isinstance(wrong, CheckFailed)
    assert (wrong.rules, says in wrong.message) == ((rule,), True)


def test_wrong_answers() -> None:
    faults("iova: 0x0000000000000001\noutput: -\n", "LKP-3", "answers for 0x1")
    faults("output: -\n", "LKP-1", "not `iova:`")
    expected = table()
    iova = int(bytes(LookupFile("d", "lookup", expected).ops[1].data), 0)
    rows = path(entries(expected), expected, iova)
    cut = "".join(f"{row}\n" for row in (f"iova: 0x{iova:016x}", *rows[:-1], "output: -"))
    faults(cut, "LKP-2", "is not the path of entries")
    other = "".join(f"{row}\n" for row in (f"iova: 0x{iova:016x}", *[row.replace("41", "42") for row in rows]))
    faults(f"{other.replace(' raw 0x', ' raw 0xf', 1)[:-1]}\noutput: -\n", "ENT-1", "not `level IOVA")


def test_a_file_that_cannot_be_opened() -> None:
    asked = LookupFile("d", "lookup", table())
    (wrong,) = asked.check([Result(-EPERM), *(Result(-9) for _ in asked.ops[1:])], "", {})
    assert "opening lookup fails with EPERM" in wrong.message


def test_a_question_that_is_refused() -> None:
    asked = LookupFile("d", "lookup", table())
    (wrong,) = asked.check([Result(0), *(Result(-EINVAL) for _ in asked.ops[1:])], "", {})
    assert (wrong.rules, "fails with EINVAL" in wrong.message) == (("LKP-1",), True)
