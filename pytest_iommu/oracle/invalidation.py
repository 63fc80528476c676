# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED of the command queue: which invalidations a change of tables, STEs and CDs needs (IHI 0070, 3.17, 4.3, 4.4).

QEMU caches no walk and matches a range whatever its level hint says, so these commands are the only witness of what
hardware with a walk cache, or one that trusts the hint, would keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_iommu.formats.smmuv3_commands import BY_ADDRESS, SYNC, Command
from pytest_iommu.oracle.expected import Expected

ARM_LEVELS = 3
"""Arm's number of the level that holds the smallest pages; it counts down where generic_pt counts up."""
_STAGE1 = ("TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_NH_ASID", "TLBI_NH_ALL", "TLBI_S12_VMALL", "TLBI_NSNH_ALL")
_STAGE2 = ("TLBI_S2_IPA", "TLBI_S12_VMALL", "TLBI_NSNH_ALL")


@dataclass(frozen=True, slots=True)
class Tag:
    """What marks a domain's translations in the TLB: VMID, and the ASID at stage 1."""

    vmid: int
    asid: int | None = None

    def __str__(self) -> str:
        return f"VMID {self.vmid}" if self.asid is None else f"ASID {self.asid}"


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


def synced(commands: Sequence[Command]) -> Sequence[Command]:
    """Return the commands that are known to have completed: those before the last CMD_SYNC."""
    syncs = [number for number, one in enumerate(commands) if one.name == SYNC]
    return commands[: syncs[-1]] if syncs else ()


def of_tag(one: Command, tag: Tag) -> bool:
    """Whether a TLBI concerns the translations with this tag."""
    if one.name not in (_STAGE2 if tag.asid is None else _STAGE1):
        return False
    return (one.vmid is None or one.vmid == tag.vmid) and (one.asid is None or one.asid == tag.asid)


def empties(one: Command, tag: Tag) -> bool:
    """Whether a command leaves nothing of this tag in the TLB."""
    return of_tag(one, tag) and one.name not in BY_ADDRESS


def missing(commands: Sequence[Command], tag: Tag, lost: Gone) -> Iterator[str]:
    """Yield what may still be cached after these commands, a line each."""
    done = synced(commands)
    if any(empties(one, tag) for one in done):
        return
    by_address = [one for one in done if of_tag(one, tag)]
    late = any(of_tag(one, tag) for one in commands[len(done) :])
    why = "invalidated without a CMD_SYNC" if late else "not invalidated"
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


def stale_entry(commands: Sequence[Command], sid: int, ste: bool) -> str | None:
    """Say which command is missing after the STE (or the CD, SSID 0) of a stream has changed; None if it is there."""
    names = ("CFGI_STE", "CFGI_STE_RANGE") if ste else ("CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL")

    def concerns(one: Command) -> bool:
        return one.name in names and one.sids is not None and one.sids[0] <= sid <= one.sids[1] and not one.ssid

    if any(concerns(one) for one in synced(commands)):
        return None
    entry = "STE" if ste else "CD"
    how = "no CMD_SYNC follows its CMD_CFGI" if any(map(concerns, commands)) else f"no CMD_CFGI_{entry} follows"
    return f"the {entry} of stream {sid} has changed, and {how}"


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
