# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a parser is given, it returns a dump or a DumpSyntaxError with file and line, in linear time.

A short run; ``make fuzz`` gives the parsers 10^6 texts: PYTEST_IOMMU_FUZZ is their number over all parsers.
"""

from __future__ import annotations

import os
import time

import pytest

pytest.importorskip("hypothesis")

from fuzzing import CORPUS, mutations, texts
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from text_rows import ROWS, written

from pytest_iommu.compare.printed_rules import findings
from pytest_iommu.core.printed import PrintedDump
from pytest_iommu.dialects import TEXTS, DumpSyntaxError, TextDialect

NUMBER = int(os.environ.get("PYTEST_IOMMU_FUZZ", "0"))
BATCH = 200
"""Texts of one draw in a long run."""
LONG = 8_000
"""Rows of the shorter of two texts whose times are compared."""
QUICKLY = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def holds(dialect: TextDialect, text: str) -> bool:
    """Whether the parser returns a dump or an error that names a line; whatever else it raises goes on."""
    lines, error = text.count("\n") + 1, None
    dump = PrintedDump()
    try:
        dump = dialect.parse({"saved": text})
    except DumpSyntaxError as raised:
        error = raised
    dialect.claims(text)
    named = error is None or (error.file == "saved" and 1 <= error.number <= lines and len(str(error)) < 2000)
    return named and all(1 <= one.line <= lines for one in findings(dump))


@pytest.mark.parametrize("dialect", TEXTS, ids=lambda one: one.name)
def test_a_parser_returns_a_dump_or_names_a_line(dialect: TextDialect) -> None:
    @settings(QUICKLY, max_examples=30, derandomize=True)
    @given(texts())
    def run(text: str) -> None:
        assert holds(dialect, text)

    run()


@pytest.mark.parametrize("dialect", TEXTS, ids=lambda one: one.name)
def test_many_texts(dialect: TextDialect) -> None:
    """The long run of ``make fuzz``; without that, one batch."""
    wanted = -(-NUMBER // len(TEXTS) // BATCH) if NUMBER else 1
    done = [0]

    @settings(QUICKLY, max_examples=wanted, derandomize=not NUMBER)
    @given(st.integers(0, (1 << 64) - 1))
    def run(seed: int) -> None:
        for text in mutations(seed, BATCH, dialect.name):
            note(text)
            assert holds(dialect, text)
            done[0] += 1

    run()
    assert done[0] >= wanted * BATCH
    print(f"{dialect.name}: {done[0]} texts")


@pytest.mark.parametrize("name", ROWS)
def test_time_is_linear_in_the_rows(name: str) -> None:
    dialect = next(one for one in TEXTS if one.name == name)

    def best(rows: int) -> float:
        whole = written(name, rows)
        times = []
        for _ in range(3):
            started = time.process_time()
            assert findings(dialect.parse({"page_table": whole})) == []
            times.append(time.process_time() - started)
        return min(times)

    short, long = best(LONG // 4), best(LONG)
    # four times the rows: 4 if linear, 16 if quadratic
    assert long < 9 * short


def test_the_corpus_is_what_is_mutated() -> None:
    assert CORPUS.is_dir()
