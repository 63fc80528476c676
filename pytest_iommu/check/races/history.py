# SPDX-License-Identifier: GPL-2.0-only
"""Check the lines of a read that raced with changes (docs/abi.md, CON-2 to CON-5).

Every address of a line is judged on its own: a line may merge many items, each loaded at a different time of the line's
window (CON-4 holds per entry). The rule closest to the cause is named first: order of the lines, then split leaves,
then lines that were never true, and last missing lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pytest_iommu.check.races.timeline import (
    FOREVER,
    TOP,
    Change,
    Columns,
    Epoch,
    History,
    Interval,
    Segment,
    look_of,
    row_of,
)
from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.oracle.expected import continues

__all__ = ["FOREVER", "Change", "History", "Interval", "Line", "judge"]

#: a dumped line and its window: the line must have been true at some time of it
Line = tuple[Range, Interval]

SHOWN = 3
CHANGING = "memory changed during the read"
"""The reason why neither the dump nor the table can be blamed."""
_EPOCHS_SHOWN = 12
#: rules of a failure, closest to the cause first; the first one classifies it
_RULES: dict[str, tuple[str, ...]] = {
    "CON-5": ("CON-5", "RNG-2"),
    "LVL-2": ("LVL-2", "CON-4"),
    "CON-4": ("CON-4",),
    "CON-3": ("CON-3", "CON-4"),
    "CON-2": ("CON-2",),
    "RNG-3": ("RNG-3", "CON-2"),
}
_COLUMNS = ("OA", "level", "leaf", "prot", "flags")


def judge(history: History, lines: Sequence[Line], span: Interval) -> list[CheckFailed]:
    """Return everything that is wrong with the lines of one read: one CheckFailed per rule, closest to the cause first.

    ``lines`` are the lines of page_table in order, each with its own window. ``span`` is the whole read, from the begin
    of its first read(2) to the end of its last. Mappings that did not change during it must be listed (CON-2).
    Addresses that were never mapped during it must not be (CON-3).
    """
    return _Judge(history, span).verdict(lines, merged=True)


def judge_leaves(history: History, lines: Sequence[Line], span: Interval) -> list[CheckFailed]:
    """The same for lines of one leaf each, as in entries; a leaf cut by the reader's cursor begins at the cursor."""
    return _Judge(history, span).verdict(lines, merged=False)


class _Judge:
    def __init__(self, history: History, span: Interval) -> None:
        self._history = history
        self._span = span
        self._found: dict[str, list[str]] = {}
        self._number: dict[str, int] = {}

    def verdict(self, lines: Sequence[Line], merged: bool) -> list[CheckFailed]:
        reach = -1
        for row, window in lines:
            if self._in_order(row, window, reach):
                self._line(row, window)
            reach = max(reach, row.last)
        if merged:
            self._seams(lines)
        self._missing(lines)
        failures = []
        for rule, rules in _RULES.items():
            if rule not in self._found:
                continue
            texts, more = self._found[rule], self._number[rule] - len(self._found[rule])
            if more:
                texts = [*texts, f"... and {more} more violations of {rule}"]
            failures.append(CheckFailed("\n".join(texts), rules, verdict=Verdict.UNDECIDED, because=CHANGING))
        return failures

    def _in_order(self, row: Range, window: Interval, reach: int) -> bool:
        """Check CON-5. False if the line is malformed and cannot be judged further."""
        page = self._history.page
        if row.last < row.first or row.last >= TOP:
            why = "last is before first"
        elif row.first % page or (row.last + 1) % page:
            why = "first or last is not page-aligned"
        elif row.first <= reach:
            why = f"lines overlap or are not in ascending order: an earlier one ends at 0x{reach:x}"
        else:
            return True
        self._fail("CON-5", why, row, window)
        return row.first <= row.last < TOP

    def _line(self, row: Range, window: Interval) -> None:
        look = look_of(row)
        wrong: dict[str, Segment] = {}
        for segment in self._history.over(row.first, row.last):
            if not segment.may_be(look, window):
                wrong.setdefault(self._broken(segment), segment)
        if not wrong:
            self._cut(row, look, window)
            return
        # Addresses that never changed say most about a line; addresses never mapped say least about its origin.
        rule = next(rule for rule in ("CON-2", "CON-4", "CON-3") if rule in wrong)
        segment = wrong[rule]
        first, last = max(row.first, segment.first), min(row.last, segment.last)
        self._fail(rule, f"0x{first:x}-0x{last:x} {self._why(rule, segment, look, window)}", row, window, segment)

    def _broken(self, segment: Segment) -> str:
        """Return the rule that a line breaks by disagreeing with a segment."""
        steady = segment.steady(self._span)
        if steady is not None:
            return "CON-3" if steady.look is None else "CON-2"
        # None and at least one other state: it was mapped at some time.
        return "CON-4"

    def _why(self, rule: str, segment: Segment, look: Columns, window: Interval) -> str:
        if rule == "CON-3":
            return "was never mapped during the read"
        if rule == "CON-2":
            steady = segment.steady(self._span)
            assert steady is not None
            assert steady.look is not None
            return f"did not change, but the line has another {' and '.join(_different(look, steady.look))}"
        looks = [epoch.look for epoch in segment.during(window) if epoch.look is not None]
        if not looks:
            return "was not mapped at any time of the line's window"
        alone = [name for at, name in enumerate(_COLUMNS) if any(look[at] == other[at] for other in looks)]
        if len(alone) == len(_COLUMNS):
            return "never had all these columns at once: they come from more than one load"
        never = [name for name in _COLUMNS if name not in alone]
        return f"had this {' and this '.join(never)} at no time of the line's window"

    def _cut(self, row: Range, look: Columns, window: Interval) -> None:
        """Check LVL-2: a line ends with its leaf; it begins inside one only where the reader's cursor can have been."""
        if (row.last + 1) % row.leaf:
            self._fail("LVL-2", "the line ends inside a leaf", row, window, self._history.segment(row.last))
        if not row.first % row.leaf or self._cursor(row.first, look, window):
            return
        before = self._history.segment(row.first - 1)
        if _mapped_so(before.steady(self._span), look):
            return  # the preceding part is missing, which is reported under CON-2
        why = "the line begins inside a leaf, where no entry ended that the reader can have met before"
        self._fail("LVL-2", why, row, window, before)

    def _cursor(self, iova: int, look: Columns, window: Interval) -> bool:
        """Whether an entry or a hole can have ended right before ``iova``, with the leaf appearing after that."""
        span = Interval(self._span.begin, window.end)
        ended = False
        for epoch in self._history.segment(iova - 1).during(span):
            if epoch.look == look and epoch.end >= window.begin and ended:
                return True
            ended = ended or epoch.look is None or iova % epoch.look[2] == 0
        return False

    def _seams(self, lines: Sequence[Line]) -> None:
        """Check RNG-3 where nothing changed: a line must not end just because a batch ends."""
        for (before, _), (after, window) in pairwise(lines):
            if not continues(before, after):
                continue
            left, right = self._history.segment(before.last), self._history.segment(after.first)
            if left.steady(self._span) is not None and right.steady(self._span) is not None:
                why = f"continues 0x{before.first:x}-0x{before.last:x}, so both should be one line"
                self._fail("RNG-3", why, after, window, right)

    def _missing(self, lines: Sequence[Line]) -> None:
        """Check CON-2: every mapping that did not change is listed in some line."""
        reach = 0
        for first, last in [*sorted((row.first, row.last) for row, _ in lines), (TOP, TOP)]:
            if reach < first:
                for segment in self._history.over(reach, first - 1):
                    self._gap(segment, max(reach, segment.first), min(first - 1, segment.last))
            reach = max(reach, last + 1)

    def _gap(self, segment: Segment, first: int, last: int) -> None:
        steady = segment.steady(self._span)
        # less than a page concerns the form of the bounds: CON-5
        if steady is None or steady.look is None or last + 1 - first < self._history.page:
            return
        why = f"0x{first:x}-0x{last:x} was mapped all the time but is in no line"
        self._fail("CON-2", why, None, self._span, segment)

    def _fail(self, rule: str, why: str, row: Range | None, window: Interval, segment: Segment | None = None) -> None:
        self._number[rule] = self._number.get(rule, 0) + 1
        texts = self._found.setdefault(rule, [])
        if len(texts) >= SHOWN:
            return
        text = [f"{rule}: {why}"]
        if row is not None:
            text.append(f"  line    {render_range(row)}")
            text.append(f"  window  {self._time(window.begin)} to {self._time(window.end)}")
        length = self._span.end - self._span.begin
        text.append(f"  read    from {self._span.begin} for {length}; times are relative to its begin")
        if segment is not None:
            text.append(f"  history of 0x{segment.first:x}-0x{segment.last:x} (* in the window)")
            text += [f"    {line}" for line in self._described(segment, window)]
        texts.append("\n".join(text))

    def _described(self, segment: Segment, window: Interval) -> Iterator[str]:
        """Return the epochs around a window, one line each."""
        inside = segment.during(window)
        near = segment.during(Interval(min(window.begin, self._span.begin), max(window.end, self._span.end)))
        at = segment.epochs.index(near[0])
        shown = segment.epochs[max(at - 1, 0) : at + len(near) + 1]
        if len(shown) > _EPOCHS_SHOWN:
            middle = segment.epochs.index(inside[0]) - max(at - 1, 0)
            begin = max(0, min(middle - 2, len(shown) - _EPOCHS_SHOWN))
            yield f"({len(segment.epochs)} in all)"
            shown = shown[begin : begin + _EPOCHS_SHOWN]
        for epoch in shown:
            mark = "*" if epoch in inside else " "
            what = f"  {epoch.what}" if epoch.what else ""
            state = "nothing" if epoch.look is None else render_range(row_of(epoch.look, segment.first, segment.last))
            yield f"{mark} {self._time(epoch.begin)} to {self._time(epoch.end)}: {state}{what}"

    def _time(self, time: int) -> str:
        if abs(time) >= FOREVER:
            return "the end" if time > 0 else "the start"
        return f"{time - self._span.begin:+d}"


def _mapped_so(epoch: Epoch | None, look: Columns) -> bool:
    return epoch is not None and epoch.look == look


def _different(one: Columns, other: Columns) -> list[str]:
    return [name for name, have, want in zip(_COLUMNS, one, other, strict=True) if have != want]
