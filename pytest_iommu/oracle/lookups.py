# SPDX-License-Identifier: GPL-2.0-only
"""The addresses at which iova_to_phys() and the file lookup are asked (TAB-7, LKP), and what they must answer.

First, middle and last byte of every range, and the bytes beside it where nothing is mapped. The middle is inside a
page, so that the offset in the page counts as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from pytest_iommu.core.model import Entry, Kind, Range, format_size
from pytest_iommu.dialects.io_ptdump import render_entry
from pytest_iommu.oracle.expected import Expected

HOLE = 0
"""The answer where nothing is mapped."""
RANGES = 8
"""Maximum number of ranges that are sampled: the first, the last, and some evenly between them."""
_INSIDE = 0x5A5
"""An offset inside every page."""
_LAST = (1 << 64) - 2
"""The last address that is asked for: io-pgtable-arm answers garbage at the one behind it (docs/findings.md)."""


def addresses(expected: Expected) -> list[int]:
    """Return the IOVAs to ask for, ascending and inside the aperture: at most five for each sampled range."""
    first, last = expected.format.aperture(expected.config)
    found = {iova for row in _sampled(expected.ranges) for iova in _of_range(row) if 0 <= iova < 1 << 64}
    found = {min(iova, _LAST) for iova in found}
    upper = bool(expected.ranges) and expected.ranges[-1].last > last
    if not expected.ranges:
        found = {first, first + _INSIDE, min(last, _LAST)}
    return sorted(iova for iova in found if first <= iova <= last or (upper and iova >= _lowest_upper(expected)))


def answer(ranges: Sequence[Range], iova: int) -> int:
    """Return the output address of an IOVA according to the lines of page_table."""
    at = bisect_right(ranges, iova, key=lambda row: row.first) - 1
    if at < 0 or ranges[at].last < iova:
        return HOLE
    return ranges[at].oa + iova - ranges[at].first


def path(entries: str, expected: Expected, iova: int) -> list[str]:
    """Return the lines of entries that cover an IOVA, from the top down, and what ends them if that is not among them.

    ``entries`` is the text of that file; nothing of it is parsed but what is looked for.
    """
    config, geometry, found = expected.config, expected.format.geometry(expected.config), list[str]()
    folded = {"sign_extend", "ttbr1"} & expected.config.features
    if not folded and iova >> geometry.covers_lg2(expected.top, expected.top):
        return found
    for level in range(expected.top, -1, -1):
        span = 1 << geometry.item_lg2(level)
        leaves = [size for size in config.page_sizes if geometry.level_of(size) == level]
        # A group begins at its first item; what is smaller than that is an item of its own.
        for size in sorted({span, *leaves}):
            line = _line(entries, level, iova & -size)
            if line is not None and (size == span or f" {format_size(size)} " in line):
                break
        else:
            return [*found, render_entry(Entry(level, iova & -span, Kind.EMPTY, None, 0, 0))]
        found.append(line)
        if line.split()[2] != Kind.TABLE:
            break
    return found


def _line(entries: str, level: int, iova: int) -> str | None:
    words = f"{level} 0x{iova:016x} "
    at = 0 if entries.startswith(words) else entries.find(f"\n{words}") + 1
    return entries[at : entries.index("\n", at)] if at or entries.startswith(words) else None


def _sampled(ranges: Sequence[Range]) -> Iterator[Range]:
    count = len(ranges)
    if count <= RANGES:
        yield from ranges
    else:
        yield from (ranges[at * (count - 1) // (RANGES - 1)] for at in range(RANGES))


def _of_range(row: Range) -> Iterator[int]:
    yield from (row.first - 1, row.first, row.last, row.last + 1)
    yield row.first + row.size // 2 + (_INSIDE if row.size > 2 * _INSIDE else 0)


def _lowest_upper(expected: Expected) -> int:
    """The first IOVA of the upper half of a table that extends the sign."""
    return (1 << 64) - (1 << expected.config.ias - 1)
