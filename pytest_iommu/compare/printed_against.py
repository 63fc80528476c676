# SPDX-License-Identifier: GPL-2.0-only
"""A dump of another kernel against what is there: a page table in memory, or the one that a scenario expects.

Only what the text shows is compared: v1 has no output addresses, arm64's dumps merge by other rules than abi.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from pytest_iommu.compare.printed_rules import Finding
from pytest_iommu.core.model import Prot, Range, format_size
from pytest_iommu.core.printed import Row, Table

_SHOWN_FLAGS = ("SH_NS", "SH_OS", "SH_IS")
"""Flags that v1 has in common with abi.md."""


def against(table: Table, ranges: Sequence[Range], witness: str) -> list[Finding]:
    """Compare the rows of a table with ``ranges``, ascending; ``witness`` is what holds them, for the text."""
    found: list[Finding] = []
    starts = [one.first for one in ranges]
    reached = [one.first for one in ranges]
    for row in table.rows:
        if not row.mapped:
            if row.mapped is False:
                found += _hole(table, row, ranges, starts, witness)
            continue
        here, at = row.first, max(bisect_right(starts, row.first) - 1, 0)
        while here <= row.last:
            if at < len(ranges) and ranges[at].last < here:
                at += 1
                continue
            if at == len(ranges) or here < ranges[at].first:
                found.append(_unmapped(table, row, here, witness))
                if at == len(ranges):
                    break
                here = ranges[at].first
                continue
            one = ranges[at]
            found += _columns(table, row, here, one, witness)
            if reached[at] >= here:
                reached[at] = max(reached[at], min(row.last, one.last) + 1)
            here = one.last + 1
    if table.whole and not table.points and not any(row.mapped is None for row in table.rows):
        found += _missing(table, ranges, reached, witness)
    return found


def strangers(table: Table, ranges: Sequence[Range], witness: str) -> Iterator[Finding]:
    """Report the rows that begin where nothing is mapped, as against() does among other findings."""
    starts = [one.first for one in ranges]
    for row in table.rows:
        at = bisect_right(starts, row.first) - 1
        if at < 0 or ranges[at].last < row.first:
            yield _unmapped(table, row, row.first, witness)


def _unmapped(table: Table, row: Row, address: int, witness: str) -> Finding:
    return Finding("RNG-1", table.file, row.line, f"0x{address:x} is not mapped {witness}")


def _missing(table: Table, ranges: Sequence[Range], reached: Sequence[int], witness: str) -> Iterator[Finding]:
    """Report what no row shows. v1 as posted skips mappings of a single page (V1-3)."""
    for one, end in zip(ranges, reached, strict=True):
        if end > one.last:
            continue
        line = next((row.line for row in reversed(table.rows) if row.first <= end), table.line)
        single = table.leaves and one.size == one.leaf and not table.top
        # Without any row the text does not say its format.
        rule = "V1-3" if single and (table.format is None or table.format.startswith("arm")) else "RNG-1"
        what = f"0x{end:x}-0x{one.last:x} ({format_size(one.last + 1 - end)}) is mapped {witness}, but in no row"
        yield Finding(rule, table.file, line, what)


def _hole(table: Table, row: Row, ranges: Sequence[Range], starts: Sequence[int], witness: str) -> Iterator[Finding]:
    at = bisect_right(starts, row.last) - 1
    if at >= 0 and ranges[at].last >= row.first:
        why = f"0x{max(row.first, ranges[at].first):x} is mapped {witness}, but shown as a hole"
        yield Finding("RNG-1", table.file, row.line, why)


def _columns(table: Table, row: Row, here: int, one: Range, witness: str) -> Iterator[Finding]:
    """Compare the columns that the text shows, where row and range overlap from ``here`` on."""
    if row.oa is not None and row.oa + here - row.first != one.oa + here - one.first:
        why = f"OA of 0x{here:x} is 0x{row.oa + here - row.first:x}, 0x{one.oa + here - one.first:x} {witness}"
        yield Finding("RNG-4", table.file, row.line, why)
    if row.level is not None and row.level != one.level:
        yield Finding("LVL-1", table.file, row.line, f"level is {row.level}, {one.level} {witness}")
    if row.leaf is not None and row.leaf != one.leaf:
        why = f"leaf is {format_size(row.leaf)}, {format_size(one.leaf)} {witness}"
        yield Finding("LVL-2", table.file, row.line, why)
    if row.prot is not None:
        have, want = (_letters(prot, row.columns) for prot in (row.prot, one.prot))
        if have != want:
            yield Finding("PRT-1", table.file, row.line, f"prot is {have}, {want} {witness}")
        if row.raw and row.flags != one.flags:  # decoded from the item
            have, want = (" ".join(flags) or "none" for flags in (row.flags, one.flags))
            yield Finding("PRT-3", table.file, row.line, f"flags are {have}, {want} {witness}")
    elif table.leaves and any(flag in one.flags for flag in _SHOWN_FLAGS):
        shared = [flag for flag in row.flags if flag in _SHOWN_FLAGS]
        wanted = [flag for flag in one.flags if flag in _SHOWN_FLAGS]
        if len(shared) == 1 and shared != wanted:  # several are V1-1
            yield Finding("PRT-3", table.file, row.line, f"{shared[0]} is shown, {wanted[0]} {witness}")


def _letters(prot: Prot, columns: str) -> str:
    """Return the columns of ``prot`` that the text can show."""
    return "".join(shown for shown, letter in zip(str(prot), Prot.COLUMNS, strict=True) if letter in columns)
