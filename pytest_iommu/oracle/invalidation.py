# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED of the command queue: which invalidations a change of tables needs (for an SMMUv3 IHI 0070, 3.17, 4.4).

What a change of entries needs, such as STE and CD, is in the file of each IOMMU.

QEMU caches no walk and matches a range whatever its level hint says, so these commands are the only witness of what
hardware with a walk cache, or one that trusts the hint, would keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_iommu.oracle.expected import Expected
from pytest_iommu.oracle.iommu import Command

ARM_LEVELS = 3
"""Arm's number of the level that holds the smallest pages; it counts down where generic_pt counts up."""
Given = TypeVar("Given", bound=Command)


@dataclass(frozen=True, slots=True)
class Leaves:
    """Leaves of ``size`` bytes at one level that are gone: first and last address."""

    first: int
    last: int
    level: int
    size: int


@dataclass(frozen=True, slots=True)
class Gone:
    """What a change took out of a table: leaves, and tables by the first and last address that they covered."""

    leaves: tuple[Leaves, ...] = ()
    tables: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaves or self.tables)


def gone(before: Expected, after: Expected, first: int, last: int) -> Gone:
    """Return what is gone between two states of a table, from ``first`` to ``last`` all of its leaves."""
    leaves = tuple(
        Leaves(max(run.iova, first), min(run.last, last), run.level, run.leaf)
        for run in before.runs
        if run.iova <= last and first <= run.last
    )
    geometry = before.format.geometry(before.config)
    spans = [
        (number << shift, (number + 1 << shift) - 1)
        for level, numbers in before.tables.items()
        for shift in (geometry.item_lg2(level + 1),)
        for number in numbers - after.tables.get(level, frozenset())
    ]
    return Gone(leaves, tuple(sorted(spans)))


def synced(commands: Sequence[Given]) -> Sequence[Given]:
    """Return the commands that are known to have completed: those before the last one that waits."""
    waits = [number for number, one in enumerate(commands) if one.waits]
    return commands[: waits[-1]] if waits else ()


def empties(one: Command, tag: Any) -> bool:
    """Whether a command leaves nothing of this tag in the TLB."""
    return one.of_tag(tag) and one.first is None


def missing(commands: Sequence[Command], tag: Any, lost: Gone, wait: str) -> Iterator[str]:
    """Yield what may still be cached after these commands, a line each; ``wait`` names the one that waits."""
    done = synced(commands)
    if any(empties(one, tag) for one in done):
        return
    by_address = [one for one in done if one.of_tag(tag)]
    late = any(one.of_tag(tag) for one in commands[len(done) :])
    why = f"invalidated, but no {wait} follows" if late else "not invalidated"
    for leaves in lost.leaves:
        hint = ARM_LEVELS - leaves.level
        left = _uncovered(leaves, [one for one in by_address if one.ttl in (0, hint)])
        if left is None:
            continue
        wrong = _uncovered(leaves, by_address) is None
        for_level = f"only with a hint for leaves at another level than {hint}" if wrong else why
        yield f"0x{left[0]:x}-0x{left[1]:x} of {tag} is {for_level}"
    for first, last in lost.tables:
        if not any(one.leaf is False and _start(one) <= last and first <= _end(one) for one in by_address):
            yield f"the table for 0x{first:x}-0x{last:x} of {tag} is freed, but a cached walk to it is {why}"


def not_emptied(commands: Sequence[Command], tag: Any, wait: str) -> Iterator[str]:
    """Yield that translations with this tag are left though the table has gone, unless all of them are invalidated."""
    if any(empties(one, tag) for one in synced(commands)):
        return
    given = any(empties(one, tag) for one in commands)
    how = f"no {wait} follows the invalidation of its translations" if given else "its translations are not invalidated"
    yield f"{tag} has lost a device, and {how}"


def not_told(
    commands: Sequence[Given], concerns: Callable[[Given], bool], changed: str, command: str, wait: str
) -> Iterator[str]:
    """Yield that an IOMMU was not told that an entry has ``changed``: nothing that ``concerns`` it has completed."""
    if any(concerns(one) for one in synced(commands)):
        return
    how = f"no {wait} follows its {command}" if any(map(concerns, commands)) else f"no {command} follows"
    yield f"{changed} has changed, and {how}"


def _start(one: Command) -> int:
    return one.first or 0


def _end(one: Command) -> int:
    return _start(one) if one.last is None else one.last


def _uncovered(leaves: Leaves, commands: Sequence[Command]) -> tuple[int, int] | None:
    """Return the first addresses of the leaves that none of these commands names, None if all are named."""
    at = leaves.first
    for one in sorted(commands, key=_start):
        # without a range, one address names the leaf that holds it
        end = _start(one) | leaves.size - 1 if one.last is None else _end(one)
        if _start(one) > at or end < at:
            continue
        at = end + 1
        if at > leaves.last:
            return None
    return at, leaves.last
