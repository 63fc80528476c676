# SPDX-License-Identifier: GPL-2.0-only
"""Whether the lines of a read that raced with changes can be true (abi.md, CON-2 to CON-5).

Every address of a line is judged on its own: a line may be many items merged, each of them loaded at another time of
the line's window (CON-4 is by entry). Rules are named nearest to the cause first: how the lines stand to each other,
how a leaf was cut, what a line says that never was, and last what no line says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pytest_iommu.check.races.timeline import (
    FOREVER,
    TOP,
    Change,
    Epoch,
    History,
    Look,
    Segment,
    Window,
    look_of,
    row_of,
)
from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.oracle.expected import continues

__all__ = ["FOREVER", "Change", "History", "Line", "Window", "judge"]

#: a dumped line and its window: it says what was so at some time of it
Line = tuple[Range, Window]

SHOWN = 3
CHANGING = "memory changed during the read"
"""Why nobody can say whether the dump or the table is wrong."""
_EPOCHS_SHOWN = 12
#: the rules that a failure is of, nearest to the cause first; the first one files it
_RULES: dict[str, tuple[str, ...]] = {
    "CON-5": ("CON-5", "RNG-2"),
    "LVL-2": ("LVL-2", "CON-4"),
    "CON-4": ("CON-4",),
    "CON-3": ("CON-3", "CON-4"),
    "CON-2": ("CON-2",),
    "RNG-3": ("RNG-3", "CON-2"),
}
_COLUMNS = ("OA", "level", "leaf", "prot", "flags")


def judge(history: History, lines: Sequence[Line], span: Window) -> list[CheckFailed]:
    """All that is wrong with the lines of one read, one CheckFailed a rule, nearest to the cause first.

    ``lines`` are those of page_table as they came, each with its own window. ``span`` is the whole read, from the begin
    of its first read(2) to the end of the last: what did not change in it must be there (CON-2), what was mapped at no
    time of it must not be (CON-3).
    """
    return _Judge(history, span).verdict(lines, merged=True)


def judge_leaves(history: History, lines: Sequence[Line], span: Window) -> list[CheckFailed]:
    """The same for lines that are one leaf each, as entries has them, from the cursor on where it was cut."""
    return _Judge(history, span).verdict(lines, merged=False)


class _Judge:
    def __init__(self, history: History, span: Window) -> None:
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
                texts = [*texts, f"... and {more} more that break {rule}"]
            failures.append(CheckFailed("\n".join(texts), rules, verdict=Verdict.UNDECIDED, because=CHANGING))
        return failures

    def _in_order(self, row: Range, window: Window, reach: int) -> bool:
        """CON-5. False where a line is none that could be judged further."""
        page = self._history.page
        if row.last < row.first or row.last >= TOP:
            why = "last is before first"
        elif row.first % page or (row.last + 1) % page:
            why = "first or last is not at a page's edge"
        elif row.first <= reach:
            why = f"lines overlap or do not ascend: one before it reaches to 0x{reach:x}"
        else:
            return True
        self._fail("CON-5", why, row, window)
        return row.first <= row.last < TOP

    def _line(self, row: Range, window: Window) -> None:
        look = look_of(row)
        wrong: dict[str, Segment] = {}
        for segment in self._history.over(row.first, row.last):
            if not segment.may_be(look, window):
                wrong.setdefault(self._broken(segment), segment)
        if not wrong:
            self._cut(row, look, window)
            return
        # What never changed tells most about a line; what was nowhere mapped says least of where it came from.
        rule = next(rule for rule in ("CON-2", "CON-4", "CON-3") if rule in wrong)
        segment = wrong[rule]
        first, last = max(row.first, segment.first), min(row.last, segment.last)
        self._fail(rule, f"0x{first:x}-0x{last:x} {self._why(rule, segment, look, window)}", row, window, segment)

    def _broken(self, segment: Segment) -> str:
        """The rule that a line breaks which says of a segment what it was not."""
        steady = segment.steady(self._span)
        if steady is not None:
            return "CON-3" if steady.look is None else "CON-2"
        # None and something else, at least: it was mapped at some time
        return "CON-4"

    def _why(self, rule: str, segment: Segment, look: Look, window: Window) -> str:
        if rule == "CON-3":
            return "was mapped at no time of the read"
        if rule == "CON-2":
            steady = segment.steady(self._span)
            assert steady is not None
            assert steady.look is not None
            return f"did not change, and {' and '.join(_different(look, steady.look))} is not what it was"
        looks = [epoch.look for epoch in segment.during(window) if epoch.look is not None]
        if not looks:
            return "was not mapped at any time of the line's window"
        alone = [name for at, name in enumerate(_COLUMNS) if any(look[at] == other[at] for other in looks)]
        if len(alone) == len(_COLUMNS):
            return "was never all of this at once: its columns are of more than one load"
        never = [name for name in _COLUMNS if name not in alone]
        return f"had this {' and this '.join(never)} at no time of the line's window"

    def _cut(self, row: Range, look: Look, window: Window) -> None:
        """LVL-2: a leaf ends where it ends, and begins later only where the reader's cursor may have stood."""
        if (row.last + 1) % row.leaf:
            self._fail("LVL-2", "the line ends within a leaf", row, window, self._history.segment(row.last))
        if not row.first % row.leaf or self._cursor(row.first, look, window):
            return
        before = self._history.segment(row.first - 1)
        if _mapped_so(before.steady(self._span), look):
            return  # what comes before it is missing, and said to be (CON-2)
        why = "the line begins within a leaf, where no entry ended that the reader can have met before"
        self._fail("LVL-2", why, row, window, before)

    def _cursor(self, iova: int, look: Look, window: Window) -> bool:
        """Whether an entry, or nothing, may have ended right before ``iova``, and the leaf have come after that."""
        span = Window(self._span.begin, window.end)
        ended = False
        for epoch in self._history.segment(iova - 1).during(span):
            if epoch.look == look and epoch.end >= window.begin and ended:
                return True
            ended = ended or epoch.look is None or iova % epoch.look[2] == 0
        return False

    def _seams(self, lines: Sequence[Line]) -> None:
        """RNG-3, where nothing changed: a line does not end because a batch does."""
        for (before, _), (after, window) in pairwise(lines):
            if not continues(before, after):
                continue
            left, right = self._history.segment(before.last), self._history.segment(after.first)
            if left.steady(self._span) is not None and right.steady(self._span) is not None:
                why = f"it goes on where 0x{before.first:x}-0x{before.last:x} ends, and should be one line with it"
                self._fail("RNG-3", why, after, window, right)

    def _missing(self, lines: Sequence[Line]) -> None:
        """CON-2: what was mapped and did not change is in some line."""
        reach = 0
        for first, last in [*sorted((row.first, row.last) for row, _ in lines), (TOP, TOP)]:
            if reach < first:
                for segment in self._history.over(reach, first - 1):
                    self._gap(segment, max(reach, segment.first), min(first - 1, segment.last))
            reach = max(reach, last + 1)

    def _gap(self, segment: Segment, first: int, last: int) -> None:
        steady = segment.steady(self._span)
        # less than a page is a matter of how the bounds are written, CON-5
        if steady is None or steady.look is None or last + 1 - first < self._history.page:
            return
        why = f"0x{first:x}-0x{last:x} was mapped all the time, and is in no line"
        self._fail("CON-2", why, None, self._span, segment)

    def _fail(self, rule: str, why: str, row: Range | None, window: Window, segment: Segment | None = None) -> None:
        self._number[rule] = self._number.get(rule, 0) + 1
        texts = self._found.setdefault(rule, [])
        if len(texts) >= SHOWN:
            return
        text = [f"{rule}: {why}"]
        if row is not None:
            text.append(f"  line    {render_range(row)}")
            text.append(f"  window  {self._time(window.begin)} to {self._time(window.end)}")
        length = self._span.end - self._span.begin
        text.append(f"  read    from {self._span.begin} for {length}; times count from there")
        if segment is not None:
            text.append(f"  history of 0x{segment.first:x}-0x{segment.last:x} (* in the window)")
            text += [f"    {line}" for line in self._told(segment, window)]
        texts.append("\n".join(text))

    def _told(self, segment: Segment, window: Window) -> Iterator[str]:
        """The epochs around a window, one line each."""
        inside = segment.during(window)
        near = segment.during(Window(min(window.begin, self._span.begin), max(window.end, self._span.end)))
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


def _mapped_so(epoch: Epoch | None, look: Look) -> bool:
    return epoch is not None and epoch.look == look


def _different(one: Look, other: Look) -> list[str]:
    return [name for name, have, want in zip(_COLUMNS, one, other, strict=True) if have != want]
