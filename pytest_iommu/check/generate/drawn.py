# SPDX-License-Identifier: GPL-2.0-only
"""Drawn actions as small numbers, all of them valid. resolve.py gives them a meaning in a table.

0 is the simplest value of every number. Numbers are taken modulo the number of choices.
"""

from __future__ import annotations

from dataclasses import dataclass

#: items around the size of a batch (64 entries), and the most that are useful (512 items, a whole table of 4K)
COUNTS = (1, 2, 3, 58, 59, 60, 61, 62, 63, 64, 65, 126, 127, 128, 129, 511, 512, 513)
SLOTS = (0, 1, 2, 62, 63, 64, 65, 509, 510, 511, 512, 513)
MULTIPLES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33)
PROTS = ("rw", "r", "w", "rx", "rwx", "rwc", "rxc", "rwm", "rp", "rwxcmp")
PLACES = ("at", "ends at", "over", "page before", "page after")
OUTPUTS = ("same offset", "page further", "same as before", "end of output", "half of it")
#: pages added to a whole number of leaves, and the gaps between repetitions in IOVA and OA
ODD = ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 7, 0), (0, 0, 2), (0, 0, -1), (0, 1, 1), (0, 0, 2))
PORTIONS = ("all", "first", "last", "middle", "with neighbours")
FAULTS = ("over", "hole", "part", "outside")


@dataclass(frozen=True, slots=True)
class Destination:
    """The target of a mapping: ``output`` indexes OUTPUTS, ``prot`` indexes PROTS."""

    output: int = 0
    prot: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    """Map ``multiple`` times a page size near an anchor of the table.

    ``next`` puts it after the last mapping instead. ``forced`` uses that page size for all leaves. ``count`` repeats
    the mapping. ``odd``, an index of ODD, makes size and gaps uneven.
    """

    anchor: int
    place: int
    slot: int
    next: bool
    size: int
    multiple: int
    forced: bool
    count: int
    odd: int
    target: Destination


@dataclass(frozen=True, slots=True)
class Unmap:
    """Unmap ``leaves`` leaves of a live mapping; ``single`` does so leaf by leaf."""

    which: int
    portion: int
    leaves: int
    single: bool


@dataclass(frozen=True, slots=True)
class Remap:
    """Unmap part of a live mapping and map it again; otherwise like Unmap."""

    which: int
    portion: int
    leaves: int
    target: Destination


@dataclass(frozen=True, slots=True)
class Refused:
    """An invalid command of FAULTS near a live mapping: it must be refused and change nothing."""

    fault: int
    which: int


Action = Map | Unmap | Remap | Refused | None
"""None is no action; every action can shrink to it."""
