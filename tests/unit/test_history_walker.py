# SPDX-License-Identifier: GPL-2.0-only
"""At random: a walker that reads items at any time says nothing false, and a lie is told from what it says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from racing_world import BASE, OA, PAGE, G, World, mapped, world

from pytest_iommu.check.races.history import Interval, Line, judge, judge_leaves


def test_a_walker_never_lies() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    raced = 0

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @hypothesis.given(hypothesis.strategies.integers(0, 1 << 32))
    def tried(seed: int) -> None:
        nonlocal raced
        chance = random.Random(seed)
        one = world(chance)
        for _ in range(6):
            begin = chance.randint(0, one.end)
            items, lines, span = one.read(begin, chance.choice([1, 2, 8]), chance.choice([1, 5, 40]))
            failures = judge(one.history, lines, span)
            assert not failures, f"seed {seed}:\n{failures[0].message}"
            windows = [(leaf, Interval(span.begin, span.end)) for leaf in items]
            assert not judge_leaves(one.history, windows, span), f"seed {seed}"
            raced += any(span.begin <= change.end <= span.end for change in one.history.changes)

    tried()
    assert raced > 150


def stale(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """What a cell was once, and not any more since before the read."""
    for cell in range(one.cells):
        for state in range(1, 5):
            rows = one.rows(cell, state)
            overlap = [row for row, _ in lines if row.first <= rows[0].last and row.last >= rows[0].first]
            if overlap or any(
                segment.may_be((row.oa - row.first, row.level, row.leaf, row.prot, row.flags), span)
                for row in rows
                for segment in one.history.over(row.first, row.last)
            ):
                continue
            return sorted([*lines, (rows[0], span)], key=lambda line: line[0].first)
    return None


def lost(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """A line that is not there, of what did not change."""
    steady = [line for line in lines if one.history.segment(line[0].first).steady(span)]
    gone = one.chance.choice(steady) if steady else None
    return [line for line in lines if line is not gone]


def stray(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """A page far from all."""
    return [*lines, (mapped(one.config, BASE + G, OA, PAGE), span)]


def torn(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """The OA of one state with the prot of another."""
    for at, (row, window) in enumerate(lines):
        looks = [epoch.look for epoch in one.history.segment(row.first).during(window) if epoch.look is not None]
        mixed = [look for look in looks if look[0] != row.oa - row.first and look[3] != row.prot]
        if mixed:
            return [*lines[:at], (replace(row, prot=mixed[0][3]), window), *lines[at + 1 :]]
    return None


def twice(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """The cursor goes back."""
    at = one.chance.randrange(len(lines))
    return [*lines[: at + 1], *lines[at:]]


def short(one: World, lines: list[Line], span: Interval) -> list[Line] | None:
    """A group that ends too early, in what changes."""
    for at, (row, window) in enumerate(lines):
        if row.leaf > PAGE and row.size > PAGE:
            return [*lines[:at], (replace(row, last=row.last - PAGE), window), *lines[at + 1 :]]
    return None


@pytest.mark.parametrize(
    ("lie", "want"),
    [
        (stale, {"CON-3", "CON-4", "CON-2"}),
        (lost, {"CON-2"}),
        (stray, {"CON-3"}),
        (torn, {"CON-4"}),
        (twice, {"CON-5"}),
        (short, {"LVL-2"}),
    ],
)
def test_every_lie_is_named(lie: Callable[[World, list[Line], Interval], list[Line] | None], want: set[str]) -> None:
    told = 0
    for seed in range(120):
        chance = random.Random(seed)
        one = world(chance)
        _, lines, span = one.read(chance.randint(0, one.end), chance.choice([2, 8]), 5)
        changed_lines = lie(one, lines, span)
        if changed_lines is None:
            continue
        failures = judge(one.history, changed_lines, span)
        assert failures, f"seed {seed}: {lie.__doc__} is believed"
        assert failures[0].rules[0] in want, f"seed {seed}:\n{failures[0].message}"
        told += 1
    assert told > 10, f"only {told} lies"
