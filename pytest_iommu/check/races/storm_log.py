# SPDX-License-Identifier: GPL-2.0-only
"""The test module's file `storm`: what its threads changed and when, as a history of the table.

Its text, and what the states of a cell are, is in kmod/iommu_ptdump_test/README.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pytest_iommu.check.races.history import Change, History, Window
from pytest_iommu.core.model import Prot, Range, TableConfig
from pytest_iommu.core.outcomes import SetupError

_HEAD = re.compile(
    r"storm (?P<name>\S+) iova=(?P<iova>0x[0-9a-f]+) cell=(?P<cell>0x[0-9a-f]+) gap=(?P<gap>0x[0-9a-f]+)"
    r" cells=(?P<cells>\d+) threads=(?P<threads>\d+) changes=(?P<changes>\d+) error=(?P<error>\d+)"
)
_STATE = re.compile(
    r"state (?P<number>\d+) pa=(?P<pa>0x[0-9a-f]+) size=(?P<size>0x[0-9a-f]+) leaf=(?P<leaf>0x[0-9a-f]+)"
    r" prot=(?P<prot>[rwxcmp]+)"
)


@dataclass(frozen=True, slots=True)
class State:
    """What a cell can be: ``size`` bytes from its first address on, in leaves of ``leaf``; ``pa`` is that of cell 0."""

    pa: int
    size: int
    leaf: int
    prot: Prot


@dataclass(frozen=True, slots=True)
class Done:
    """One call of the kernel, from ``begin`` to ``end`` (ns): ``cell`` is in ``state`` then, 0 is not mapped."""

    cell: int
    state: int
    begin: int
    end: int


@dataclass(frozen=True)
class StormLog:
    """A storm that is over. ``error`` is the errno that ended it early, or 0; ``done`` is in order of begin."""

    name: str
    iova: int
    cell: int
    gap: int
    cells: int
    threads: int
    error: int
    states: tuple[State, ...]
    done: tuple[Done, ...]

    def ranges(self, config: TableConfig, cell: int, state: int) -> tuple[Range, ...]:
        """The lines of page_table that a cell alone is in a state."""
        if state == 0:
            return ()
        there, away = self.iova + cell * self.gap, cell * self.cell
        return tuple(
            replace(row, first=row.first + there, last=row.last + there, oa=row.oa + away)
            for row in self._shapes(config)[state - 1]
        )

    def _shapes(self, config: TableConfig) -> Sequence[tuple[Range, ...]]:
        """Cell 0 in each state but the first, as if it were at address 0."""
        from pytest_iommu.oracle import TableModel

        shapes = []
        for state in self.states:
            model = TableModel(config)
            # Where the cell is decides nothing: it is aligned to its size.
            model.map(self.iova, state.pa, state.size, state.prot, state.leaf)
            rows = model.snapshot().ranges
            shapes.append(tuple(replace(row, first=row.first - self.iova, last=row.last - self.iova) for row in rows))
        return shapes

    def history(self, config: TableConfig, ranges_at_start: Sequence[Range]) -> History:
        """The table through the storm. SetupError where the log contradicts itself."""
        history = History(config, ranges_at_start)
        known = {
            (cell, state): self.ranges(config, cell, state)
            for cell, state in {(done.cell, done.state) for done in self.done}
        }
        for done in self.done:
            first = self.iova + done.cell * self.gap
            what = f"cell {done.cell} to state {done.state}"
            ranges = known[done.cell, done.state]
            history.add(Change(first, first + self.cell - 1, ranges, done.begin, done.end, what))
        try:
            assert history.segments
        except ValueError as error:
            raise SetupError(f"the storm's log cannot be: {error}") from None
        return history

    @cached_property
    def _begins(self) -> list[int]:
        return [done.begin for done in self.done]

    def during(self, window: Window) -> int:
        """How many changes began in that time."""
        return bisect_right(self._begins, window.end) - bisect_left(self._begins, window.begin)


def parse_storm(text: str) -> StormLog:
    """The file as a log. SetupError when it is none, or not whole."""
    lines = text.split("\n")
    head = _HEAD.fullmatch(lines[0])
    if head is None or lines.pop():
        raise SetupError(f"the test module's log of a storm is none, or cut: {text[:80]!r}")
    states = _states(lines[1:])
    rest = lines[1 + len(states) :]
    number = {key: int(head[key], 0) for key in ("iova", "cell", "gap", "cells", "threads", "error")}
    try:
        done = tuple(Done(*map(int, line.split())) for line in rest)
    except (TypeError, ValueError):
        raise SetupError("the test module's log of a storm has a line that is none") from None
    if len(done) != int(head["changes"]):
        raise SetupError(f"the test module's log has {len(done)} changes, and says {head['changes']}")
    if any(not (0 <= one.cell < number["cells"] and 0 <= one.state <= len(states)) for one in done):
        raise SetupError("the test module's log names a cell or a state that there is not")
    return StormLog(head["name"], states=states, done=done, **number)


def _states(lines: Iterable[str]) -> tuple[State, ...]:
    found: list[State] = []
    for line in lines:
        match = _STATE.fullmatch(line)
        if match is None:
            break
        if int(match["number"]) != len(found) + 1:
            raise SetupError(f"the test module's log has no state {len(found) + 1}: {line!r}")
        pa, size, leaf = (int(match[key], 16) for key in ("pa", "size", "leaf"))
        found.append(State(pa, size, leaf, Prot.from_letters(match["prot"])))
    return tuple(found)
