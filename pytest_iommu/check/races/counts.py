# SPDX-License-Identifier: GPL-2.0-only
"""The file stats, read while the table changes: between what there was at least and what there was at most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_iommu import formats
from pytest_iommu.check.races.history import CHANGING
from pytest_iommu.check.races.lines import unreadable
from pytest_iommu.check.races.timeline import History, Segment, Window
from pytest_iommu.core.outcomes import CheckFailed, Verdict

if TYPE_CHECKING:
    from pytest_iommu.dialects import Dialect

Counts = dict[int, Fraction]


def judge_stats(text: str, dialect: Dialect, history: History, span: Window) -> list[CheckFailed]:
    """What did not change must be counted, and no more than what can have been met (CON-2, CON-3); sums are sums."""
    dump, errors = dialect.read({"stats": text})
    if errors or dump.stats is None:
        return [unreadable("stats", error) for error in errors]
    least, most = bounds(history.segments, span)
    rows = dump.stats.levels
    total = dump.stats.total
    sums = tuple(sum(getattr(row, name) for row in rows) for name in ("tables", "leaves", "bytes"))
    if sums != (total.tables, total.leaves, total.bytes):
        what = f"stats: the total is not the sum of the levels, {sums}:\n{text}"
        return [CheckFailed(what, ("ENT-2",), verdict=Verdict.DUMP)]
    geometry = formats.get(history.config.format).geometry(history.config)
    for row in rows:
        if row.leaves < least.get(row.level, 0) or row.leaves > most.get(row.level, 0):
            low, high = (float(counts.get(row.level, 0)) for counts in (least, most))
            what = f"{row.leaves} leaves at level {row.level}, there were {low:g} to {high:g} during the read"
            rule = "CON-2" if row.leaves < low else "CON-3"
            shown = f"stats: {what}:\n{text}"
            return [CheckFailed(shown, (rule, "ENT-2"), verdict=Verdict.UNDECIDED, because=CHANGING)]
        if row.bytes != row.tables * geometry.table_bytes(row.level, rows[0].level):
            what = f"{row.bytes} bytes are not {row.tables} tables at level {row.level}"
            return [CheckFailed(f"stats: {what}:\n{text}", ("ENT-2",), verdict=Verdict.DUMP)]
    return []


def bounds(segments: Iterable[Segment], span: Window) -> tuple[Counts, Counts]:
    """How many leaves a level at least did not change in that time, and how many at most can have been met.

    A leaf that ends up in several segments counts in parts. One that a reader meets cut counts whole, but each of its
    parts can have been met but once.
    """
    least: Counts = defaultdict(Fraction)
    most: Counts = defaultdict(Fraction)
    for segment in segments:
        seen: Counts = {}
        for epoch in segment.during(span):
            if epoch.look is None:
                continue
            _, level, leaf, _, _ = epoch.look
            number = Fraction(segment.last - segment.first + 1, leaf)
            seen[level] = max(seen.get(level, Fraction(0)), number)
        for level, number in seen.items():
            most[level] += number
            if segment.steady(span) is not None:
                least[level] += number
    return least, most
