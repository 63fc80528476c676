# SPDX-License-Identifier: GPL-2.0-only
"""Judge the text that a held reader returned: each line with the times at which it can have been loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from pytest_iommu import formats
from pytest_iommu.check.races.history import History, Interval, judge, judge_leaves
from pytest_iommu.compare.side_by_side import stacked
from pytest_iommu.core.model import Entry, Kind, Range, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.dialect import Dialect
from pytest_iommu.dialects.io_ptdump import render_entry
from pytest_iommu.oracle.expected import leaves

FILES = ("page_table", "entries", "stats")
When = Callable[[Range], Interval]


def judge_text(
    file: str, text: str, dialect: Dialect, history: History, when: When, span: Interval
) -> list[CheckFailed]:
    """Judge the text of one read: ``when`` returns the window of a line, ``span`` is the whole read.

    In entries, every line must match its raw item, and its leaves are judged like lines of page_table. In stats, the
    total must be the sum.
    """
    try:
        dump = dialect.parse({file: text})
    except DumpSyntaxError as error:
        return [unreadable(file, error)]
    if file == "entries":
        entries = dump.entries or ()
        found = _entries(entries, history.config)
        return found or judge_leaves(
            history, _timed(list(leaves(entries, formats.get(history.config.format))), when), span
        )
    if file == "page_table":
        return judge(history, _timed(dump.ranges or (), when), span)
    return []


def unreadable(file: str, error: DumpSyntaxError) -> CheckFailed:
    """Return a failure for a line that does not match the grammar."""
    return CheckFailed(f"{file}: {error}", (error.rule,), verdict=Verdict.DUMP)


def _timed(ranges: Iterable[Range], when: When) -> list[tuple[Range, Interval]]:
    return [(row, when(row)) for row in ranges]


def _entries(entries: Sequence[Entry], config: TableConfig) -> list[CheckFailed]:
    """Check the order of entries, and that every line is one load (CON-4): its columns match its raw item."""
    for before, after in pairwise(entries):
        if (before.iova, -before.level) >= (after.iova, -after.level):
            what = f"level {after.level} 0x{after.iova:x} follows level {before.level} 0x{before.iova:x}"
            return [CheckFailed(f"entries: {what}", ("CON-5",), verdict=Verdict.DUMP)]
    faults = (_fault(config, entry) for entry in entries)
    return next(([fault.told(fault.message)] for fault in faults if fault is not None), [])


@lru_cache(maxsize=1 << 16)
def _fault(config: TableConfig, entry: Entry) -> CheckFailed | None:
    """Return the fault of a line of entries by itself. A storm has the same few lines thousands of times."""
    decoded = formats.get(config.format).decode(config, entry.level, entry.raw)
    if decoded is None:
        what = f"entries: lists an empty item: {render_entry(entry)}"
        return CheckFailed(what, ("ENT-1",), verdict=Verdict.DUMP)
    if entry.kind is Kind.BAD:
        what = f"entries: lists a bad item in a table that nobody has corrupted: {render_entry(entry)}"
        return CheckFailed(what, ("CON-4",), verdict=Verdict.DUMP)
    if entry.kind is Kind.PART and decoded.kind is Kind.LEAF and entry.iova & (decoded.size - 1):
        return None
    cut = entry.iova & (decoded.size - 1) if decoded.size else 0
    leaf = decoded.kind is Kind.LEAF
    says = Entry(
        entry.level,
        entry.iova,
        decoded.kind,
        decoded.size if leaf else None,
        decoded.oa + cut,
        entry.raw,
        decoded.prot if leaf else None,
        decoded.flags + decoded.volatile,
    )
    if entry == says:
        return None
    what = f"level {entry.level} 0x{entry.iova:x} does not match its raw item"
    shown = "\n".join(stacked({"dumped": render_entry(entry), "decoded": render_entry(says)}))
    return CheckFailed(f"entries: {what}:\n{shown}", ("CON-4",), verdict=Verdict.DUMP)
