# SPDX-License-Identifier: GPL-2.0-only
"""What all IOMMUs have in common as seen from memory: from a requester id to a page table, and what went wrong.

One file an architecture: stream_table.py, context_table.py, device_table.py and device_directory.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_iommu.core.model import Event, TableConfig
from pytest_iommu.core.protocol import Fault
from pytest_iommu.oracle.entry_words import Seen

TRANSLATION, PERMISSION = "F_TRANSLATION", "F_PERMISSION"
BLOCKED = "blocked"
"""What a transfer comes to where the device's entries let nothing through."""
#: A rule of docs/tables.md, and what breaks it.
Wrong = tuple[str, str]


BLOCKS, TRANSLATES, PASSES = "blocked", "translated", "passed"
"""What becomes of a requester's DMA by its entries: nothing goes through, a page table decides, everything does."""


class Command(Protocol):
    """A command that an IOMMU was given, as far as what it invalidates of translations and whether it waits.

    ``first`` to ``last`` are the only addresses concerned: all without ``first``; without ``last``, the leaf that holds
    ``first``. ``leaf``: items above the leaf may stay cached. ``ttl`` is a hint at the leaf's level, 0 for none.
    """

    @property
    def waits(self) -> bool:
        """Whether the commands before it have completed once it has, and software can tell."""

    @property
    def first(self) -> int | None: ...
    @property
    def last(self) -> int | None: ...
    @property
    def leaf(self) -> bool | None: ...
    @property
    def ttl(self) -> int: ...

    def of_tag(self, tag: Any) -> bool:
        """Whether it concerns translations with this tag, which is one of the same IOMMU's."""


class Commands(Protocol):
    """The commands that an IOMMU is given, read back from its queue; remembers how far it has been read."""

    def skip(self) -> None:
        """Forget the commands of before."""

    def new(self) -> Sequence[Any] | None:
        """Return the commands since the last call, oldest first. None if some of them are lost."""


@dataclass(frozen=True, slots=True)
class Cached:
    """What an IOMMU may have cached of a requester: its entries' words by name, and what marks its translations.

    ``tag`` is None where nothing is translated.
    """

    entries: Mapping[str, Sequence[int]]
    tag: Any = None


class Iommu(Protocol):
    """One IOMMU of a guest. Ids of requesters are a machine description's ``sid``: stream id, source id, device id.

    ``lost`` counts the times that events were lost. An event's address is exact to ``event_granule`` bytes.
    It does not tell each piece of a transfer and its direction where not ``exact``. ``silent`` are the outcomes that
    leave no event. DMA through leaves with one of the flags ``not_walked`` goes elsewhere, by a fault of QEMU.
    What is below the physical address ``untold`` looks as if it was refused. ``wait`` is the command that waits for
    those before it.
    """

    lost: int
    event_granule: int
    exact: bool
    silent: frozenset[str]
    not_walked: frozenset[str]
    untold: int
    wait: str
    unit: int

    @property
    def root(self) -> str:
        """What leads from a requester to its page table, in the words of the IOMMU's specification."""

    def at_one_time(self) -> AbstractContextManager[None]:
        """Read each register once in the block, in which nothing changes them."""

    def table(self, requester: int) -> tuple[TableConfig, int] | None:
        """Return configuration and top of a requester's page table, with its levels now; None if it has none."""

    def wrong(self, requester: int, config: TableConfig, top: int) -> Iterator[Wrong]:
        """Yield what is wrong in a requester's entries, which must lead to this table of that configuration."""

    def root_rule(self, config: TableConfig) -> str:
        """The rule that is broken where a requester's entries lead to another table, or to none."""

    def state(self, requester: int) -> str:
        """What becomes of the requester's DMA: BLOCKS, TRANSLATES or PASSES."""

    def wrong_without_table(self, requester: int, present: bool = True) -> Iterator[Wrong]:
        """Yield what is wrong in the entries of a requester that passes or is blocked; HW-5 if something is left.

        Not ``present``: the device has been unplugged.
        """

    def tag(self, requester: int) -> int | None:
        """Return the id that marks what is cached of the requester's table; None if it has none."""

    def commands(self) -> Commands:
        """Return a reader of the queue of commands that begins now."""

    def cached(self, requester: int) -> Cached | None:
        """Return what may be cached of a requester from now on; None if there is no place for its entries."""

    def stale(self, requester: int, old: Cached, new: Cached, commands: Sequence[Any]) -> Iterator[str]:
        """Yield what may still be cached of ``old`` after these commands, which came while it became ``new``."""

    def places(self, requester: int) -> Mapping[str, range]:
        """Return where a requester's entries are now, by name as in what is ``cached``: physical addresses."""

    def seen(self, name: str, words: Sequence[int]) -> Seen:
        """Return what counts in an entry of that name, which is read ``unit`` words at a time (entry_changes.py)."""

    def told(self, requester: int, commands: Sequence[Any]) -> bool:
        """Whether these commands end what is kept of any of a requester's entries, and have completed."""

    def events(self) -> tuple[Event, ...]:
        """Return what was reported since the last call (at first: since the report's setup), oldest first."""

    def names_of(self, event: str) -> tuple[str, ...]:
        """Return the names that may stand in a report of what is F_TRANSLATION or F_PERMISSION to an SMMUv3.

        Or of what is BLOCKED; none if that is not reported.
        """


def event_of(fault: Fault, name: str) -> Event:
    """Return an access that QEMU says was refused as an event of that name."""
    return Event(name, fault.requester, (), iova=fault.address, write=fault.write)
