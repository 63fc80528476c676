# SPDX-License-Identifier: GPL-2.0-only
"""The corpus of tests/data/dialects: texts of other kernels, right and wrong.

``<dialect>/good/NAME`` gives no finding. ``<dialect>/bad/NAME`` gives what ``NAME.want`` says: the line, the rule and
words of the reason, and the good file in which the fault is mended.
"""

from __future__ import annotations

import re
import time
from itertools import permutations
from pathlib import Path

import pytest

from pytest_iommu.compare.printed_rules import Finding, findings
from pytest_iommu.core.model import Prot
from pytest_iommu.dialects import TEXTS, DumpSyntaxError, TextDialect
from pytest_iommu.dialects.carried import LONGEST

CORPUS = Path(__file__).parents[1] / "data" / "dialects"
DIALECTS = {one.name: one for one in TEXTS}
GOOD = sorted(path for path in CORPUS.glob("*/good/*"))
BAD = sorted(path for path in CORPUS.glob("*/bad/*") if path.suffix != ".want")
WANT = re.compile(r"(\d+) ([A-Z0-9]+-\d+): (.*)\nmended: (\S+)\n")


def text_of(path: Path) -> str:
    return path.read_bytes().decode()


def dialect_of(path: Path) -> TextDialect:
    return DIALECTS[path.parents[1].name]


def judged(dialect: TextDialect, text: str, name: str = "saved") -> list[Finding]:
    try:
        return findings(dialect.parse({name: text}))
    except DumpSyntaxError as error:
        return [Finding(error.rule, error.file, error.number, error.why)]


def label(path: Path) -> str:
    return f"{path.parents[1].name}/{path.name}"


def test_every_dialect_has_a_corpus() -> None:
    assert {path.parents[1].name for path in GOOD} == {path.parents[1].name for path in BAD} == set(DIALECTS)
    assert len(BAD) > 100


@pytest.mark.parametrize("path", GOOD, ids=label)
def test_a_good_text_gives_no_finding(path: Path) -> None:
    assert judged(dialect_of(path), text_of(path)) == []
    dump = dialect_of(path).parse({"saved": text_of(path)})
    assert dump.tables or dump.streams or dump.contexts, "nothing was read"


@pytest.mark.parametrize("path", BAD, ids=label)
def test_a_bad_text_gives_the_rule_and_the_line(path: Path) -> None:
    want = WANT.fullmatch(path.with_name(f"{path.name}.want").read_text())
    assert want is not None
    line, rule, why, mended = int(want[1]), want[2], want[3], want[4]
    found = judged(dialect_of(path), text_of(path))
    assert any(one.line == line and one.rule == rule and why in one.why for one in found), found
    assert found[0].rule == rule, found
    assert judged(dialect_of(path), text_of(path.parents[1] / "good" / mended)) == []


#: the two layouts of 2026 differ by their directories: what one prints of an entry is right in the other, too
SAME_TEXT = {"smmuv3_2026_05", "smmuv3_2026_03"}
PAIRS = [(one, other) for one, other in permutations(DIALECTS, 2) if {one, other} != SAME_TEXT]


@pytest.mark.parametrize(("name", "other"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
def test_a_text_given_to_the_parser_of_another_dialect_is_refused(name: str, other: str) -> None:
    texts = [path for path in GOOD if path.parents[1].name == name]
    assert texts
    for path in texts:
        with pytest.raises(DumpSyntaxError):
            DIALECTS[other].parse({"saved": text_of(path)})
        assert not DIALECTS[other].claims(text_of(path)), path


def test_all_pairs_are_tried() -> None:
    assert len(PAIRS) == len(TEXTS) * (len(TEXTS) - 1) - 2


@pytest.mark.parametrize("dialect", TEXTS, ids=lambda one: one.name)
def test_a_line_of_10_mb_is_an_error_and_fast(dialect: TextDialect) -> None:
    path = next(path for path in GOOD if path.parents[1].name == dialect.name)
    text = text_of(path)
    for long in ("0" * 10_000_000, "> " * 5_000_000):
        started = time.monotonic()
        (found,) = judged(dialect, text + long + "\n")
        assert len(found.why) < 1000
        assert found.line == text.count("\n") + 1 or dialect.name == "io_ptdump", found
        assert time.monotonic() - started < 20
    assert LONGEST < 10_000_000


def test_columns_are_decoded() -> None:
    def rows(name: str, file: str = "plain") -> list[tuple[object, ...]]:
        (table, *_) = DIALECTS[name].parse({"x": text_of(CORPUS / name / "good" / file)}).tables
        return [(one.first, one.last, one.oa, one.level, one.leaf, one.prot, one.flags) for one in table.rows]

    assert rows("vtd")[0] == (0x8CED0000, 0x8CED0FFF, 0x8CED0000, 0, 4096, Prot(True, True), ())
    assert rows("vtd")[-1][:5] == (0xC0000000, 0xFFFFFFFF, 0x1C0000000, 2, 1 << 30)
    assert rows("vtd", "first-stage")[1][5] == Prot(True, False, True, True)
    assert rows("vtd", "first-stage")[2][5] == Prot(True, True, False, True)
    assert rows("vtd", "two-blocks")[2][:5] == (0x8D802000, 0x8D802FFF, 0x8D802000, 0, 4096)
    assert (
        rows("vtd", "wrapped-at-tabs") == rows("vtd", "zeros-below-superpages") == rows("vtd", "quoted") == rows("vtd")
    )
    assert rows("io_page_tables")[2] == (
        *(0x100000000, 0x1001FFFFF, None, 1, 1 << 21, None),
        ("V", "AF", "SH_OS", "NS"),
    )
    assert rows("io_page_tables", "last-page-of-64-bits")[0][1] == (1 << 64) - 1
    assert rows("kvm_stage2")[2][3:] == (0, None, Prot(True, False, True), ("R", "X", "AF"))
    assert rows("kvm_stage2", "execute-never-of-two-bits")[2][5] == Prot(True, False, False)
    assert rows("ptdump_arm64")[0][3:] == (
        *(1, None, Prot(True, True, False, True, privileged=True)),
        ("RW", "NX", "SHD", "AF", "BLK", "UXN", "MEM/NORMAL-TAGGED"),
    )
    assert rows("smmuv3_2021", "pt_dump_s1")[1][:3] == (0xFFFF3000, 0xFFFF3000, 0x41001000)


def test_a_hole_a_mapping_and_a_silent_row_are_told_apart() -> None:
    (table,) = DIALECTS["kvm_stage2"].parse({"x": text_of(CORPUS / "kvm_stage2/good/published")}).tables
    assert [row.mapped for row in table.rows] == [True, None, True, None]


def test_an_empty_cd_is_a_stream_without_a_table() -> None:
    assert DIALECTS["smmuv3_2026_05"].parse({"8/cd": ""}).streams == ()
    with pytest.raises(DumpSyntaxError, match="the file is empty"):
        DIALECTS["smmuv3_2026_05"].parse({"8/ste": ""})


def test_the_top_of_a_table_is_that_of_its_entry() -> None:
    table = text_of(CORPUS / "vtd/good/plain").replace("0000:00:14.0 with pasid 0", "0000:00:02.0 with pasid 1")
    texts = {"dmar": text_of(CORPUS / "vtd/good/contexts"), "domain": table}
    (found,) = findings(DIALECTS["vtd"].parse(texts))
    assert (found.rule, found.file, found.line) == ("INF-3", "domain", 1)
    texts["domain"] = table.replace("@0x15f3d9000", "@0x105a87000")
    assert findings(DIALECTS["vtd"].parse(texts)) == []
