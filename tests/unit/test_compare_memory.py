# SPDX-License-Identifier: GPL-2.0-only
"""The third witness in a comparison: what memory decides, and the line that a difference shows of it."""

from __future__ import annotations

import buggy_kernel as kernel
import pytest

from pytest_iommu.compare.comparison import compare
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.formats import configure
from pytest_iommu.oracle import Expected, TableModel


def table() -> Expected:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x1000000, 0x41005000, 0x3000, Prot.from_letters("rw"))
    model.map(0x200000000, 0x80000000, 0x200000, Prot.from_letters("r"))
    return model.snapshot()


def of_memory(texts: dict[str, str]) -> dict[str, str]:
    """What a walk through memory gives: of info only the levels and the top."""
    info = "".join(f"{line}\n" for line in texts["info"].splitlines() if line.startswith(("levels:", "top:")))
    return texts | {"info": info}


def test_three_that_agree() -> None:
    expected = table()
    texts = kernel.texts(expected)
    assert compare(expected, texts, memory=of_memory(texts)).ok


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("file", "rule"), [("info", "INF-3"), ("entries", "TAB-6"), ("page_table", "TAB-1"), ("stats", "TAB-6")]
)
def test_a_dump_that_agrees_with_itself_but_not_with_memory(file: str, rule: str) -> None:
    expected = table()
    texts = kernel.texts(expected)
    memory = of_memory(texts)
    memory[file] = memory[file].replace("4", "7")
    comparison = compare(expected, texts, memory=memory)
    assert comparison.primary == rule
    assert (comparison.verdict, comparison.because) == (
        (Verdict.DUMP, "memory is as expected")
        if file == "info"
        else (Verdict.BOTH, "memory is neither as expected nor as dumped")
    )
    (said,) = comparison.text.splitlines()[:1]
    assert said == f"{rule}  {file}: differs from memory"
    assert "expected" not in comparison.text  # the dump is as expected


def test_a_table_elsewhere_is_seen_by_memory_alone() -> None:
    """No one can expect the address of a table: both words of the line may lie together."""
    expected = table()
    truth = kernel.texts(expected)
    line = next(line for line in truth["entries"].splitlines() if " table " in line)
    address = line.split()[4]
    moved = f"0x{int(address, 16) + 0x40000000:016x}"
    raw = f"0x{int(line.split()[6], 16) + 0x40000000:016x}"
    lie = line.replace(address, moved).replace(line.split()[6], raw)
    lies = truth | {"entries": truth["entries"].replace(line, lie)}
    assert compare(expected, lies).ok
    comparison = compare(expected, lies, memory=of_memory(truth))
    assert comparison.primary == "ENT-1"
    assert f"in RAM  {line}" in comparison.text
    assert comparison.verdict is Verdict.DUMP


def test_memory_decides_who_is_wrong() -> None:
    expected = table()
    truth = kernel.texts(expected)
    wrong = truth | {"page_table": changed(truth["page_table"], "0x0000000041005000", "0x0000000041007000")}
    found = compare(expected, wrong, memory=of_memory(truth))
    assert (found.verdict, found.because) == (Verdict.DUMP, "memory is as expected")
    assert "expected, in RAM  0x0000000001000000-0x0000000001002fff 0x0000000041005000" in found.text
    found = compare(expected, wrong, memory=of_memory(wrong))
    assert (found.verdict, found.because) == (Verdict.MAPPING, "memory is as dumped")
    assert "dumped, in RAM  0x0000000001000000-0x0000000001002fff 0x0000000041007000" in found.text
    other = truth | {"page_table": changed(truth["page_table"], "0x0000000041005000", "0x0000000041009000")}
    found = compare(expected, wrong, memory=of_memory(other))
    assert found.verdict is Verdict.BOTH
    found = compare(expected, wrong)
    assert (found.verdict, found.because) == (Verdict.UNDECIDED, "the guest's memory could not be read")


def test_a_line_that_memory_does_not_have() -> None:
    expected = table()
    truth = kernel.texts(expected)
    last = truth["page_table"].splitlines()[-1]
    more = truth["page_table"] + last.replace("0x0000000200", "0x0000000300") + "\n"
    said = compare(expected, truth | {"page_table": more}, memory=of_memory(truth)).text
    assert "expected, in RAM  (no line)" in said
