# SPDX-License-Identifier: GPL-2.0-only
"""What lines of a racing read are believed: all that a walker can have seen, and no lie."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from racing_world import AMD, ARM, BASE, OA, PAGE, RO, RW, G, K, M, mapped

from pytest_iommu.check.races.history import FOREVER, Change, History, Interval, judge, judge_leaves
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.formats import configure

T = 1 << 40


def page(iova: int, oa: int, prot: Prot = RW) -> Range:
    return mapped(ARM, iova, oa, PAGE, prot)


def changed(begin: int, end: int, first: int, size: int, *ranges: Range) -> Change:
    return Change(first, first + size - 1, ranges, begin, end, f"change at {begin}")


def verdict(
    history: History, rows: Sequence[Range], window: tuple[int, int] = (0, 100), span: tuple[int, int] = (0, 100)
) -> list[CheckFailed]:
    return judge(history, [(row, Interval(*window)) for row in rows], Interval(*span))


def rules(failures: Sequence[CheckFailed]) -> list[str]:
    return [failure.rules[0] for failure in failures]


# By hand: two sentinels, and between them a page that changes.

LEFT, CELL, RIGHT, GAP = (BASE + at * PAGE for at in (0, 4, 8, 12))
SENTINELS = (mapped(ARM, LEFT, OA, 4 * PAGE), mapped(ARM, RIGHT, OA + 16 * M, 4 * PAGE))
OLD, NEW = page(CELL, OA + M), page(CELL, OA + 2 * M, RO)


def by_hand() -> History:
    """The cell: OLD to 20..30, nothing to 40..50, NEW from there on."""
    history = History(ARM, (SENTINELS[0], OLD, SENTINELS[1]))
    history.add(changed(20, 30, CELL, PAGE))
    history.add(changed(40, 50, CELL, PAGE, NEW))
    return history


def between(*rows: Range) -> list[Range]:
    return [SENTINELS[0], *rows, SENTINELS[1]]


@pytest.mark.parametrize(
    ("rows", "window", "want"),
    [
        ([OLD], (0, 100), []),
        ([NEW], (0, 100), []),
        ([], (0, 100), []),
        ([OLD], (30, 35), []),  # to the very end of the change that took it away
        ([OLD], (31, 35), ["CON-4"]),
        ([NEW], (35, 40), []),
        ([NEW], (35, 39), ["CON-4"]),
        ([replace(OLD, prot=RO)], (0, 100), ["CON-4"]),
        ([replace(OLD, oa=NEW.oa)], (0, 100), ["CON-4"]),
        ([replace(OLD, oa=OA)], (0, 100), ["CON-4"]),
        ([replace(OLD, level=1)], (0, 100), ["CON-4"]),
        ([replace(OLD, flags=())], (0, 100), ["CON-4"]),
        ([replace(OLD, last=OLD.last + PAGE)], (0, 100), ["CON-3"]),
        ([replace(NEW, last=NEW.last + PAGE)], (0, 35), ["CON-4"]),
        ([OLD, OLD], (0, 100), ["CON-5"]),
        ([OLD, NEW], (0, 100), ["CON-5"]),
        ([replace(OLD, last=OLD.last - 1)], (0, 100), ["CON-5", "LVL-2"]),
        ([replace(OLD, first=CELL, last=CELL - 1)], (0, 100), ["CON-5"]),
    ],
)
def test_a_cell_between_two_sentinels(rows: list[Range], window: tuple[int, int], want: list[str]) -> None:
    assert rules(verdict(by_hand(), between(*rows), window)) == want


def test_sentinels_are_there_and_right() -> None:
    history, (left, right) = by_hand(), SENTINELS
    assert rules(verdict(history, [left])) == ["CON-2"]
    assert rules(verdict(history, [])) == ["CON-2"]
    assert rules(verdict(history, [left, replace(right, oa=OA)])) == ["CON-2"]
    assert rules(verdict(history, [left, replace(right, prot=RO)])) == ["CON-2"]
    assert rules(verdict(history, [left, replace(right, first=RIGHT + PAGE, oa=right.oa + PAGE)])) == ["CON-2"]
    assert rules(verdict(history, [left, replace(right, last=right.last - PAGE)])) == ["CON-2"]
    assert rules(verdict(history, [right, left])) == ["CON-5"]
    cut = RIGHT + 2 * PAGE
    halves = [replace(right, last=cut - 1), replace(right, first=cut, oa=right.oa + 2 * PAGE)]
    assert rules(verdict(history, [left, *halves])) == ["RNG-3"]
    leaves = [replace(right, first=RIGHT + at * PAGE, last=RIGHT + at * PAGE + PAGE - 1) for at in range(4)]
    leaves = [replace(leaf, oa=right.oa + leaf.first - RIGHT) for leaf in leaves]
    lines = [(leaf, Interval(0, 100)) for leaf in leaves]
    missing = judge_leaves(history, lines, Interval(0, 100))
    assert rules(missing) == ["CON-2"]
    assert f"0x{LEFT:x}-0x{left.last:x} was mapped all the time" in missing[0].message


def test_a_cell_that_does_not_change_during_a_read_is_a_sentinel_of_that_read() -> None:
    history = by_hand()
    assert rules(verdict(history, between(), (0, 19), (0, 19))) == ["CON-2"]
    assert rules(verdict(history, between(), (0, 20), (0, 20))) == []
    assert rules(verdict(history, between(), (51, 60), (51, 60))) == ["CON-2"]
    assert rules(verdict(history, between(NEW), (51, 60), (51, 60))) == []
    assert rules(verdict(history, between(OLD), (51, 60), (51, 60))) == ["CON-2"]
    assert rules(verdict(history, between(OLD), (31, 39), (31, 39))) == ["CON-3"]
    assert rules(verdict(history, [*between(), page(GAP, OA)])) == ["CON-3"]


def test_the_text_says_what_the_line_contradicts() -> None:
    (failure,) = verdict(by_hand(), between(replace(OLD, prot=RO)), (10, 60), (5, 100))
    text = failure.message
    assert "never had all these columns at once" in text
    assert "window  +5 to +55" in text
    assert "read    from 5 for 95" in text
    assert f"history of 0x{CELL:x}-0x{CELL + PAGE - 1:x}" in text
    told = [line.strip() for line in text.splitlines() if " to " in line and ": " in line]
    assert [line.partition(": ")[0] for line in told] == [
        "* the start to +25",
        "* +15 to +45",
        "* +35 to the end",
    ]
    assert told[1].endswith("nothing  change at 20")
    assert f"0x{CELL:016x}-0x{CELL + PAGE - 1:016x} 0x{NEW.oa:016x}" in told[2]
    (failure,) = verdict(by_hand(), between(OLD), (31, 35))
    assert "was not mapped at any time of the line's window" in failure.message
    (failure,) = verdict(by_hand(), between(replace(NEW, oa=OA)))
    assert "had this OA at no time" in failure.message


def test_many_violations_of_a_rule_are_counted() -> None:
    history = History(ARM, ())
    rows = [page(BASE + at * 2 * PAGE, OA) for at in range(50)]
    (failure,) = verdict(history, rows)
    assert failure.rules == ("CON-3", "CON-4")
    assert failure.message.count("was never mapped") == 3
    assert "and 47 more" in failure.message


# Where a leaf may be cut.

BLOCK = mapped(ARM, BASE, OA, 2 * M, leaf=2 * M)
REST = replace(BLOCK, first=BASE + 3 * PAGE, oa=OA + 3 * PAGE)


def cut_line(changes: Sequence[Change], start: Sequence[Range], row: Range, window: tuple[int, int]) -> list[str]:
    history = History(ARM, start)
    for change in changes:
        history.add(change)
    return rules(verdict(history, [row], window))


def test_a_block_is_cut_at_the_cursor_only() -> None:
    pages = mapped(ARM, BASE, OA + G, 3 * PAGE)
    unmapped, block = changed(20, 30, BASE, 2 * M), changed(40, 50, BASE, 2 * M, BLOCK)
    assert cut_line([block], (), REST, (0, 100)) == []
    assert cut_line([unmapped, block], [pages], REST, (0, 100)) == []
    # it was there before the read: nothing can have ended within it
    assert cut_line([], [BLOCK], REST, (0, 100)) == ["CON-2"]
    assert cut_line([changed(20, 30, BASE, 2 * M)], [BLOCK], REST, (0, 100)) == ["LVL-2"]
    # it went, and came back: the cursor may have passed while it was away, but not come back to what was before
    away = [changed(20, 30, BASE, 2 * M), block]
    assert cut_line(away, [BLOCK], REST, (0, 100)) == []
    assert cut_line(away, [BLOCK], REST, (0, 19)) == ["LVL-2"]
    # blocks end where they end
    short = replace(BLOCK, last=BASE + M - 1)
    assert cut_line([block], (), short, (0, 100)) == ["LVL-2"]
    # and a leaf larger than what stood there cannot be cut in the middle of that
    other = mapped(AMD, BASE, OA + G, 64 * K, leaf=64 * K)
    large = mapped(AMD, BASE, OA, 256 * K, leaf=256 * K)
    history = History(AMD, [other])
    history.add(changed(20, 20, BASE, 256 * K, large))
    inside = [replace(large, first=BASE + at, oa=OA + at) for at in (64 * K, 16 * K)]
    assert [rules(verdict(history, [row])) for row in inside] == [[], ["LVL-2"]]


def test_pages_of_several_times_are_one_line() -> None:
    """Each page is mapped before the one before it goes: never two at once, but all in one read."""
    history = History(ARM, ())
    for at in range(100):
        row = page(BASE + at * PAGE, OA + at * PAGE)
        history.add(changed(10 * at, 10 * at + 1, row.first, PAGE, row))
        history.add(changed(10 * at + 8, 10 * at + 9, row.first, PAGE))
    whole = mapped(ARM, BASE, OA, 100 * PAGE)
    assert verdict(history, [whole], (0, 2000), (0, 2000)) == []
    assert rules(verdict(history, [whole], (0, 900), (0, 2000))) == ["CON-4"]
    assert rules(verdict(history, [whole], (15, 2000), (0, 2000))) == ["CON-4"]


def test_ranges_of_a_tebibyte_cost_nothing() -> None:
    gigs = mapped(ARM, 0, 0, T, leaf=G)
    history = History(ARM, [gigs])
    hole = replace(gigs, last=512 * G - 1), replace(gigs, first=513 * G, oa=513 * G)
    history.add(Change(0, (1 << 64) - 1, hole, 50, 60, "whole table"))
    assert verdict(history, [gigs]) == []
    assert verdict(history, hole) == []
    assert rules(verdict(history, hole[:1])) == ["CON-2"]
    assert rules(verdict(history, hole, (0, 40), (0, 40))) == ["CON-2"]
    assert len(history.segments) == 4


def test_the_last_page_of_a_64_bit_space() -> None:
    config = configure("x86_64", levels=5)
    last = mapped(config, (1 << 64) - PAGE, OA, PAGE)
    history = History(config, [last])
    assert verdict(history, [last]) == []
    assert rules(verdict(history, [])) == ["CON-2"]
    history.add(changed(10, FOREVER, last.first, PAGE))
    assert verdict(history, []) == []
    assert rules(verdict(history, [replace(last, last=1 << 64)])) == ["CON-5"]


def test_changes_that_contradict_themselves() -> None:
    history = History(ARM, ())
    with pytest.raises(ValueError, match="ends before it begins"):
        history.add(changed(5, 4, BASE, PAGE))
    with pytest.raises(ValueError, match="outside its bounds"):
        history.add(changed(5, 6, BASE, PAGE, mapped(ARM, BASE, OA, 2 * PAGE)))
    history.add(changed(5, 9, CELL, PAGE, OLD))
    history.add(changed(8, 12, CELL, PAGE))
    with pytest.raises(ValueError, match="at the same time"):
        verdict(history, [])
    history = History(ARM, [OLD])
    history.add(changed(5, 9, CELL, PAGE, OLD))  # nothing changes
    history.add(changed(8, 12, CELL, PAGE))
    assert rules(verdict(history, [], (0, 7), (0, 7))) == ["CON-2"]


def test_a_long_storm_is_judged() -> None:
    """20000 changes of 200 cells, 400 reads of 200 lines."""
    chance = random.Random(1)
    cells = [BASE + cell * 4 * M for cell in range(200)]
    states = [
        (
            (),
            (mapped(ARM, first, OA, 2 * M, RW, PAGE),),
            (mapped(ARM, first, OA + G, 2 * M, RO, PAGE),),
            (mapped(ARM, first, OA, 2 * M, RW, 2 * M),),
            (mapped(ARM, first, OA + 2 * G, M, RO, PAGE),),
        )
        for first in cells
    ]
    history = History(ARM, [])
    now = [0] * len(cells)
    for number in range(20000):
        cell = number % len(cells)
        ranges = chance.choice(states[cell])
        begin = now[cell] + chance.randrange(100, 1000)
        now[cell] = begin + chance.randrange(50)
        history.add(Change(cells[cell], cells[cell] + 2 * M - 1, ranges, begin, now[cell]))
    lines = 0
    for number in range(400):
        window = Interval(number * 100, number * 100 + 2000)
        rows = []
        for first in cells:
            epochs = history.segment(first).during(window)
            look = chance.choice(epochs).look
            if look is not None:
                size = M if look[0] == OA + 2 * G - first else 2 * M
                rows.append((Range(first, first + size - 1, first + look[0], *look[1:]), window))
        assert not judge(history, rows, window)
        lines += len(rows)
    assert lines > 50000
