# SPDX-License-Identifier: GPL-2.0-only
"""HW-3: which table each ASID and VMID marks over a test, and whether an id is clean when another table gets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_iommu.formats.smmuv3_commands import Command, Tag
from pytest_iommu.oracle.invalidation import empties
from pytest_iommu.oracle.stream_model import Hardware


@dataclass(frozen=True, slots=True)
class User:
    """A stream whose translations have a tag: ``top`` is the table's address, ``name`` the domain's if it is ours."""

    sid: int
    top: int
    name: str = ""

    def same(self, other: User) -> bool:
        """Whether both are of one domain, as far as is known."""
        return self.top == other.top and (self.name == other.name or not (self.name and other.name))

    def __str__(self) -> str:
        return f"domain {self.name}" if self.name else f"the table at 0x{self.top:x} (stream {self.sid})"


Users = Mapping[Tag, Sequence[User]]


class Ids:
    """The ids of one SMMU. ``seen`` is told of each moment, with the commands that came since the one before."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._last: dict[Tag, User] = {}
        self._dirty: set[Tag] = set()
        self._using: Users = {}

    def idle(self, commands: Sequence[Command]) -> None:
        """Commands that came while the same domains were in use at the beginning and at the end."""
        for tag in [one for one in self._dirty if one not in self._using]:
            if _emptied(commands, tag, -1):
                self._dirty.discard(tag)

    def seen(self, now: Users, commands: Sequence[Command]) -> Iterator[str]:
        """Yield what is wrong with the ids in use now."""
        for tag, users in now.items():
            yield from self._alone(tag, users)
            before = self._last.get(tag)
            left = _left(commands, self._using.get(tag, ()))
            if before is None or before.same(users[0]) or tag not in self._dirty:
                continue
            if not _emptied(commands, tag, left):
                yield f"{tag} was that of {before}, is now that of {users[0]}, and was not invalidated in between"
        for tag in [one for one in self._dirty if one not in now]:
            if _emptied(commands, tag, _left(commands, self._using.get(tag, ()))):
                self._dirty.discard(tag)
        self._last.update((tag, users[0]) for tag, users in now.items())
        self._dirty.update(now)
        self._using = now

    def _alone(self, tag: Tag, users: Sequence[User]) -> Iterator[str]:
        first = users[0]
        other = next((one for one in users if one.top != first.top), None)
        if other is not None:
            yield f"{tag} is that of {first} and of {other} at the same time"
        if tag.asid is None and tag.vmid == 0:
            yield f"{first} has VMID 0, which is that of all streams without stage 2"
        value, bits = (tag.vmid, self._hardware.vmid_bits) if tag.asid is None else (tag.asid, self._hardware.asid_bits)
        if value >> bits:
            yield f"{tag} of {first} has more than {bits} bits"


def _left(commands: Sequence[Command], users: Sequence[User]) -> int:
    """Return the index of the command by which a stream of these began to leave: what counts comes later.

    The same stream may go on to other domains in the meantime, so the first of its commands is taken.
    """
    sids = {one.sid for one in users}
    return min(
        (
            number
            for number, one in enumerate(commands)
            if one.sids is not None and any(one.sids[0] <= sid <= one.sids[1] for sid in sids)
        ),
        default=-1,
    )


def _emptied(commands: Sequence[Command], tag: Tag, after: int) -> bool:
    """Whether the TLB was emptied of the tag, and that has completed, by commands behind index ``after``."""
    later = commands[after + 1 :]
    first = next((number for number, one in enumerate(later) if empties(one, tag)), None)
    return first is not None and any(one.waits for one in later[first:])
