# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a parser is given, it returns a dump or a DumpSyntaxError with file and line, in linear time.

A short run; ``make fuzz`` gives 10^6 texts to each parser's turn: PYTEST_IOMMU_FUZZ is their number over all parsers.
"""

from __future__ import annotations

import os
import time

import pytest

pytest.importorskip("hypothesis")

from fuzzing import CORPUS, texts
from hypothesis import HealthCheck, given, settings

from pytest_iommu.compare.printed_rules import findings
from pytest_iommu.core.printed import PrintedDump
from pytest_iommu.dialects import TEXTS, DumpSyntaxError, TextDialect

NUMBER = int(os.environ.get("PYTEST_IOMMU_FUZZ", "0"))
LONG = 8_000
"""Rows of the shorter of two texts whose times are compared."""
#: a text of each dialect: its heading, a row for a number, its end
ROWS = {
    "io_ptdump": (
        "",
        lambda n: f"0x{n << 13:016x}-0x{(n << 13) + 4095:016x} 0x{n << 12:016x}       4K 0       4K rw----\n",
        "",
    ),
    "vtd": (
        "Device 0000:00:02.0 @0x1000\nIOVA_PFN\tPML5E\tPML4E\tPDPE\tPDE\tPTE\n",
        lambda n: (
            f"0x{n:013x} |\t0x{0:016x}\t0x{0x2003:016x}\t0x{0x3003 + (n >> 18 << 12):016x}"
            f"\t0x{0x100000003 + (n >> 9 << 12):016x}\t0x{(n << 12) + 3:016x}\n"
        ),
        "",
    ),
    "io_page_tables": (
        "-- domain 1 --\n- group 1\n  - x\n---[ RANGE START ]---\n",
        lambda n: f"{n << 12:x} - {n + 1 << 12:x}    lvl 3  stage ARM_64_LPAE_S1 V        AF             SH_IS\n",
        "---[ RANGE END   ]---\n",
    ),
    "smmuv3_2021": (
        "SMMUv3 dump page table for device x, stage 1, ssid 0x0:\n",
        lambda n: f"va: {n << 12:x} -> pa: {n << 12:x}\n",
        "",
    ),
    "ptdump_arm64": ("---[ x ]---\n", lambda n: f"0x{n << 12:016x}-0x{n + 1 << 12:016x}           4K PTE\n", ""),
    "kvm_stage2": ("---[ Guest IPA ]---\n", lambda n: f"0x{n << 12:016x}-0x{n + 1 << 12:016x}           4K 3\n", ""),
}


@pytest.mark.parametrize("dialect", TEXTS, ids=lambda one: one.name)
def test_a_parser_returns_a_dump_or_names_a_line(dialect: TextDialect) -> None:
    @settings(
        max_examples=max(NUMBER // len(TEXTS), 1) if NUMBER else 30,
        deadline=None,
        derandomize=not NUMBER,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(texts())
    def run(text: str) -> None:
        lines, error = text.count("\n") + 1, None
        dump = PrintedDump()
        try:
            dump = dialect.parse({"saved": text})
        except DumpSyntaxError as raised:
            error = raised
        assert error is None or (error.file == "saved" and 1 <= error.number <= lines and len(str(error)) < 2000)
        assert all(1 <= one.line <= lines for one in findings(dump))
        dialect.claims(text)

    run()


@pytest.mark.parametrize("name", ROWS)
def test_time_is_linear_in_the_rows(name: str) -> None:
    dialect = next(one for one in TEXTS if one.name == name)
    head, row, tail = ROWS[name]

    def best(rows: int) -> float:
        text = head + "".join(map(row, range(rows))) + tail
        times = []
        for _ in range(3):
            started = time.process_time()
            assert findings(dialect.parse({"page_table": text})) == []
            times.append(time.process_time() - started)
        return min(times)

    short, long = best(LONG // 4), best(LONG)
    # four times the rows: 4 if linear, 16 if quadratic
    assert long < 9 * short


def test_the_corpus_is_what_is_mutated() -> None:
    assert CORPUS.is_dir()
