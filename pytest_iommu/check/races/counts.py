# SPDX-License-Identifier: GPL-2.0-only
"""Check the stats file of a table that changes: each count must lie within the bounds that the history allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_iommu import formats
from pytest_iommu.check.races.history import CHANGING
from pytest_iommu.check.races.lines import unreadable
from pytest_iommu.check.races.timeline import History, Interval, Segment
from pytest_iommu.core.outcomes import CheckFailed, Verdict

if TYPE_CHECKING:
    from pytest_iommu.dialects import Dialect

Counts = dict[int, Fraction]


def judge_stats(text: str, dialect: Dialect, history: History, span: Interval) -> list[CheckFailed]:
    """Check the counts against the history (CON-2, CON-3), and the sums.

    Leaves that did not change must be counted. The rest may be counted only as often as the reader can have met them.
    """
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
            what = f"{row.leaves} leaves at level {row.level}, expected {low:g} to {high:g} for this read"
            rule = "CON-2" if row.leaves < low else "CON-3"
            shown = f"stats: {what}:\n{text}"
            return [CheckFailed(shown, (rule, "ENT-2"), verdict=Verdict.UNDECIDED, because=CHANGING)]
        if row.bytes != row.tables * geometry.table_bytes(row.level, rows[0].level):
            what = f"{row.bytes} bytes do not match {row.tables} tables at level {row.level}"
            return [CheckFailed(f"stats: {what}:\n{text}", ("ENT-2",), verdict=Verdict.DUMP)]
    return []


def bounds(segments: Iterable[Segment], span: Interval) -> tuple[Counts, Counts]:
    """Return the minimum and maximum number of leaves of a level that a reader can have counted in that time.

    The minimum counts the leaves that did not change. A leaf spread over several segments counts in fractions. A leaf
    that the reader can have met split counts whole, but each of its parts can have been met only once.
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
