# SPDX-License-Identifier: GPL-2.0-only
"""Parse the test module's file `storm`, which says what its threads changed and when, as a history of the table.

kmod/iommu_ptdump_test/README describes the format and the states of a cell.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pytest_iommu.check.races.history import Change, History, Interval
from pytest_iommu.core.model import Prot, Range, TableConfig
from pytest_iommu.core.outcomes import SetupError

_HEAD = re.compile(
    r"storm (?P<name>\S+) iova=(?P<iova>0x[0-9a-f]+) cell=(?P<cell>0x[0-9a-f]+) gap=(?P<gap>0x[0-9a-f]+)"
    r" round=(?P<round>0x[0-9a-f]+) cells=(?P<cells>\d+) threads=(?P<threads>\d+)"
    r" changes=(?P<changes>\d+) error=(?P<error>\d+)"
)
_STATE = re.compile(
    r"state (?P<number>\d+) pa=(?P<pa>0x[0-9a-f]+) size=(?P<size>0x[0-9a-f]+) leaf=(?P<leaf>0x[0-9a-f]+)"
    r" prot=(?P<prot>[rwxcmp]+)"
)


@dataclass(frozen=True, slots=True)
class State:
    """A state of a cell: ``size`` bytes from its first address, in leaves of ``leaf``; ``pa`` is that of cell 0."""

    pa: int
    size: int
    leaf: int
    prot: Prot


@dataclass(frozen=True, slots=True)
class CellChange:
    """One call of the kernel, from ``begin`` to ``end`` (ns), which puts ``cell`` into ``state`` (0: not mapped)."""

    cell: int
    state: int
    begin: int
    end: int


@dataclass(frozen=True)
class StormLog:
    """The log of a storm. ``error`` is the errno that ended it early, or 0; ``done`` is sorted by begin."""

    name: str
    iova: int
    cell: int
    gap: int
    round: int
    cells: int
    threads: int
    error: int
    states: tuple[State, ...]
    done: tuple[CellChange, ...]

    def place(self, cell: int) -> int:
        """Return the first address of a cell."""
        if not self.round:
            return self.iova + cell * self.gap
        number, index = divmod(cell, self.threads)
        return self.iova + number * self.round + index * self.gap

    @property
    def overlaps(self) -> int:
        """How many changes began during a change by another thread."""
        ends = [0] * self.threads
        found = 0
        for one in self.done:
            thread = one.cell % self.threads
            found += any(end > one.begin for other, end in enumerate(ends) if other != thread)
            ends[thread] = max(ends[thread], one.end)
        return found

    def ranges(self, config: TableConfig, cell: int, state: int) -> tuple[Range, ...]:
        """Return the lines of page_table for a single cell in a state."""
        if state == 0:
            return ()
        there, away = self.place(cell), cell * self.cell
        return tuple(
            replace(row, first=row.first + there, last=row.last + there, oa=row.oa + away)
            for row in self._shapes(config)[state - 1]
        )

    def _shapes(self, config: TableConfig) -> Sequence[tuple[Range, ...]]:
        """Return the lines of cell 0 in each mapped state, as if it were at address 0."""
        from pytest_iommu.oracle import TableModel

        shapes = []
        for state in self.states:
            model = TableModel(config)
            # The address of the cell does not matter: the cell is aligned to its size.
            model.map(self.iova, state.pa, state.size, state.prot, state.leaf)
            rows = model.snapshot().ranges
            shapes.append(tuple(replace(row, first=row.first - self.iova, last=row.last - self.iova) for row in rows))
        return shapes

    def history(self, config: TableConfig, ranges_at_start: Sequence[Range]) -> History:
        """Return the history of the table during the storm. SetupError if the log contradicts itself."""
        history = History(config, ranges_at_start)
        known = {
            (cell, state): self.ranges(config, cell, state)
            for cell, state in {(done.cell, done.state) for done in self.done}
        }
        for done in self.done:
            first = self.place(done.cell)
            what = f"cell {done.cell} to state {done.state}"
            ranges = known[done.cell, done.state]
            history.add(Change(first, first + self.cell - 1, ranges, done.begin, done.end, what))
        try:
            assert history.segments
        except ValueError as error:
            raise SetupError(f"the storm log contradicts itself: {error}") from None
        return history

    @cached_property
    def _begins(self) -> list[int]:
        return [done.begin for done in self.done]

    def during(self, window: Interval) -> int:
        """Return how many changes began in that time."""
        return bisect_right(self._begins, window.end) - bisect_left(self._begins, window.begin)


def parse_storm(text: str) -> StormLog:
    """Parse the file. SetupError if it is invalid or truncated."""
    lines = text.split("\n")
    head = _HEAD.fullmatch(lines[0])
    if head is None or lines.pop():
        raise SetupError(f"the storm log is invalid or truncated: {text[:80]!r}")
    states = _states(lines[1:])
    rest = lines[1 + len(states) :]
    number = {key: int(head[key], 0) for key in ("iova", "cell", "gap", "round", "cells", "threads", "error")}
    try:
        done = tuple(CellChange(*map(int, line.split())) for line in rest)
    except (TypeError, ValueError):
        raise SetupError("malformed line in the storm log") from None
    if len(done) != int(head["changes"]):
        raise SetupError(f"the storm log has {len(done)} changes, but its first line says {head['changes']}")
    if any(not (0 <= one.cell < number["cells"] and 0 <= one.state <= len(states)) for one in done):
        raise SetupError("the storm log names an unknown cell or state")
    return StormLog(head["name"], states=states, done=done, **number)


def _states(lines: Iterable[str]) -> tuple[State, ...]:
    found: list[State] = []
    for line in lines:
        match = _STATE.fullmatch(line)
        if match is None:
            break
        if int(match["number"]) != len(found) + 1:
            raise SetupError(f"the storm log should define state {len(found) + 1} here: {line!r}")
        pa, size, leaf = (int(match[key], 16) for key in ("pa", "size", "leaf"))
        found.append(State(pa, size, leaf, Prot.from_letters(match["prot"])))
    return tuple(found)
