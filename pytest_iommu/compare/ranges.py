# SPDX-License-Identifier: GPL-2.0-only
"""Compare page_table with the expected one, line by line; each difference names the rule it breaks.

Dumped lines are matched with expected ones by their IOVAs, so that one fault is one difference: a line that ends a byte
late does not count as an extra IOVA.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_iommu.compare.difference import Difference, Rank
from pytest_iommu.core.model import Prot, Range, format_size
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.oracle import Expected
from pytest_iommu.oracle.expected import continues

FILE = "page_table"
EMPTY = "a line, but the table should be empty"


@dataclass(frozen=True, slots=True)
class Attributes:
    """The columns of a line that are decoded from its entries."""

    level: int
    leaf: int
    prot: Prot
    flags: tuple[str, ...]


def prot_rule(dumped: Prot, expected: Prot, requested: Prot | None) -> str:
    """Return PRT-2 if the dump shows the requested protection instead of the entry's, else PRT-1.

    Applies to r, w, x and p only: a dump never shows memory types as requested; PRT-1's table defines their columns.
    """
    if requested is None or (dumped.cacheable, dumped.device) != (expected.cacheable, expected.device):
        return "PRT-1"
    columns = zip(str(dumped), str(expected), str(requested), strict=True)
    return "PRT-2" if all(have == asked for have, want, asked in columns if have != want) else "PRT-1"


def flags_rule_text(dumped: Sequence[str], expected: Sequence[str]) -> str:
    """Describe the difference in flags."""
    lost = [word for word in expected if word not in dumped]
    extra = [word for word in dumped if word not in expected]
    if lost or extra:
        parts = [f"{' '.join(lost)} missing"] * bool(lost) + [f"{' '.join(extra)} should not be there"] * bool(extra)
        return f"flags: {', '.join(parts)}"
    return "flags are misordered or duplicated"


def _out_of_order(row: Range, before: Range) -> str:
    """Describe a line that begins at or before the end of the previous one."""
    if row == before:
        return "duplicate of the line above"
    if row.first <= before.first:
        return f"lines are not in ascending order: the one above begins at 0x{before.first:x}"
    return f"lines overlap: the one above ends at 0x{before.last:x}"


def _unlike(before: Range, after: Range) -> str:
    """Describe why two adjacent lines are not one."""
    names = [name for name in ("level", "leaf", "prot", "flags") if getattr(before, name) != getattr(after, name)]
    if before.oa + before.size != after.oa:
        names.insert(0, "OA")
    return f"differs in {' and '.join(names)}"


def _overlap(one: Range, other: Range) -> bool:
    return one.first <= other.last and other.first <= one.last


class RangeDiffer:
    """Return the differences between the expected and the dumped ranges."""

    def __init__(self, expected: Expected, dumped: Sequence[Range]) -> None:
        self._expected = expected
        self._want = expected.ranges
        self._have = dumped
        self._firsts = [row.first for row in self._want]
        self._page = min(expected.config.page_sizes)
        self._volatile = {flag.name for flag in expected.format.volatile}

    def differences(self) -> Iterator[Difference]:
        """Return all differences, in the order of the dump, missing lines last."""
        if not self._want and self._have:
            text = render_range(self._have[0])
            yield Difference("RNG-6", Rank.NOT_EMPTY, FILE, EMPTY, None, text, ("RNG-1",))
            return
        for index, row in enumerate(self._have):
            yield from self._bounds(index, row)
            yield from self._line(index, row)
        yield from self._missing()

    def _bounds(self, index: int, row: Range) -> Iterator[Difference]:
        """Check a line without knowing the mappings (RNG-2)."""
        near = self._near(row.first)
        shown = render_range(near) if near is not None else None
        if row.last < row.first or row.last >> 64:
            yield Difference("RNG-2", Rank.BOUNDS, FILE, "last is before first", shown, render_range(row))
        elif row.first % self._page or (row.last + 1) % self._page:
            why = "first or last is not page-aligned"
            yield Difference("RNG-2", Rank.BOUNDS, FILE, why, shown, render_range(row))
        if index and row.first <= self._have[index - 1].last:
            why = _out_of_order(row, self._have[index - 1])
            text = render_range(row)
            yield Difference("RNG-2", Rank.BOUNDS, FILE, why, dumped=text, also=("RNG-1",), alone=True)

    def _near(self, iova: int) -> Range | None:
        at = bisect_right(self._firsts, iova) - 1
        return self._want[at] if at >= 0 and self._want[at].last >= iova else None

    def _line(self, index: int, row: Range) -> Iterator[Difference]:
        want = self._near(row.first)
        if want is None:
            yield self._stray(row)
            return
        at = bisect_right(self._firsts, row.first) - 1
        covered = self._covered(at, row)
        yield from self._columns(row, want, covered)
        if row.last > want.last:
            yield from self._too_long(row, want, covered)
        elif row.last < want.last and index + 1 < len(self._have):
            after = self._have[index + 1]
            if continues(row, after) and after.first <= want.last:
                why = "this line and the next one continue each other and should be one line"
                yield Difference("RNG-3", Rank.MERGE, FILE, why, render_range(want), render_range(row))

    def _stray(self, row: Range) -> Difference:
        config = self._expected.config
        signed = self._want if config.features & {"sign_extend", "ttbr1"} else ()
        for want in signed:
            if want.first != row.first and (want.first ^ row.first) % (1 << config.ias) == 0:
                why = f"the upper bits of first differ from the IOVA, 0x{want.first:x}"
                return Difference("RNG-5", Rank.SIGN, FILE, why, render_range(want), render_range(row), ("RNG-1",))
        why = f"nothing should be mapped at 0x{row.first:x}"
        return Difference("RNG-1", Rank.PRESENCE, FILE, why, None, render_range(row))

    def _covered(self, at: int, row: Range) -> list[Range]:
        """Return the expected lines that overlap a dumped line, from number ``at`` on."""
        found = []
        while at < len(self._want) and self._want[at].first <= row.last:
            found.append(self._want[at])
            at += 1
        return found

    def _columns(self, row: Range, want: Range, covered: list[Range]) -> Iterator[Difference]:
        look = Attributes(row.level, row.leaf, row.prot, row.flags)
        # A line over several expected ones that looks like any of them has merged too much; its columns are right.
        alike = any(look == Attributes(w.level, w.leaf, w.prot, w.flags) for w in covered)
        shown = render_range(want), render_range(row)
        address = want.oa + row.first - want.first
        if row.oa != address:
            why = f"the OA of 0x{row.first:x} is 0x{row.oa:x}, not 0x{address:x}"
            yield Difference("RNG-4", Rank.ADDRESS, FILE, why, *shown)
        if alike:
            return
        if row.level != want.level:
            yield Difference("LVL-1", Rank.LEVEL, FILE, f"level is {row.level}, not {want.level}", *shown)
        if row.leaf != want.leaf:
            why = f"leaf is {format_size(row.leaf)}, not {format_size(want.leaf)}"
            yield Difference("LVL-2", Rank.LEAF, FILE, why, *shown)
        if row.prot != want.prot:
            rule = prot_rule(row.prot, want.prot, self._expected.requested(row.first))
            other = "PRT-1" if rule == "PRT-2" else "PRT-2"
            why = f"prot is {row.prot}, not {want.prot}"
            yield Difference(rule, Rank.PROT, FILE, why, *shown, (other,) if rule == "PRT-2" else ())
        if row.flags != want.flags:
            extra = set(row.flags) - set(want.flags)
            also = ("RNG-3",) if extra & self._volatile else ()
            yield Difference("PRT-3", Rank.FLAGS, FILE, flags_rule_text(row.flags, want.flags), *shown, also)

    def _too_long(self, row: Range, want: Range, covered: list[Range]) -> Iterator[Difference]:
        shown = render_range(want), render_range(row)
        if (row.last + 1) % self._page:
            return  # RNG-2, reported already
        hole = any(a.last + 1 != b.first for a, b in pairwise(covered))
        ends = any(row.last == later.last for later in covered[1:])
        if ends or self._sums_up(row, want):
            other = "lies behind a hole" if hole or not ends else _unlike(want, covered[1])
            why = f"extends beyond 0x{want.last:x} into what {other}"
            yield Difference("RNG-3", Rank.MERGE, FILE, why, *shown, ("RNG-1",) if hole or not ends else ())
        elif covered[-1].last >= row.last and not hole:
            why = f"extends beyond 0x{want.last:x} into part of the following mapping"
            yield Difference("RNG-3", Rank.MERGE, FILE, why, *shown)
        else:
            why = f"nothing should be mapped in part of 0x{want.last + 1:x}-0x{row.last:x}"
            yield Difference("RNG-1", Rank.PRESENCE, FILE, why, *shown)

    def _sums_up(self, row: Range, want: Range) -> bool:
        """Whether the line is as long as several expected ones together, despite the holes between them."""
        at = bisect_right(self._firsts, want.first) - 1
        total = want.last + 1 - row.first
        while total < row.size and at + 1 < len(self._want):
            at += 1
            total += self._want[at].size
        return total == row.size and at < len(self._want) and self._want[at] is not want

    def _missing(self) -> Iterator[Difference]:
        """Report mapped IOVAs that are in no line, beside a line of the same expected line if there is one."""
        rows = sorted(self._have, key=lambda row: (row.first, row.last))
        at, reach = 0, -1
        for want in self._want:
            here = want.first
            while here <= want.last:
                while at < len(rows) and rows[at].first <= here:
                    reach = max(reach, rows[at].last)
                    at += 1
                if reach >= here:
                    here = reach + 1
                    continue
                last = min(want.last, rows[at].first - 1) if at < len(rows) else want.last
                # less than a page concerns the form of the bounds: RNG-2
                if last + 1 - here >= self._page:
                    why = f"0x{here:x}-0x{last:x} should be mapped but is in no line"
                    near = [row for row in rows[max(at - 1, 0) : at + 1] if _overlap(row, want)]
                    text = render_range(near[0]) if near else None
                    yield Difference("RNG-1", Rank.PRESENCE, FILE, why, render_range(want), text)
                here = last + 1
