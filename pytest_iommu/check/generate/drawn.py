# SPDX-License-Identifier: GPL-2.0-only
"""What is drawn: actions as small numbers, none of which can be wrong. resolve.py says what they are in a table.

Every number's 0 is its simplest value, and numbers are taken modulo what there is to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass

#: items before, in and after a batch (64 entries) and the most that one looks at (512 items, a whole table of 4K)
COUNTS = (1, 2, 3, 58, 59, 60, 61, 62, 63, 64, 65, 126, 127, 128, 129, 511, 512, 513)
SLOTS = (0, 1, 2, 62, 63, 64, 65, 509, 510, 511, 512, 513)
MULTIPLES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33)
PROTS = ("rw", "r", "w", "rx", "rwx", "rwc", "rxc", "rwm", "rp", "rwxcmp")
PLACES = ("at", "ends at", "over", "page before", "page after")
OUTPUTS = ("same offset", "page further", "same as before", "end of output", "half of it")
#: pages more than a whole number of leaves, and the gaps between repetitions in IOVA and OA
ODD = ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 7, 0), (0, 0, 2), (0, 0, -1), (0, 1, 1), (0, 0, 2))
PORTIONS = ("all", "first", "last", "middle", "with neighbours")
FAULTS = ("over", "hole", "part", "outside")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a mapping leads to: ``output`` of OUTPUTS, ``prot`` of PROTS."""

    output: int = 0
    prot: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    """Map ``multiple`` times a page size near an anchor of the table.

    ``next`` puts it behind the last mapping instead. With ``forced`` leaves have that page size. ``count`` repeats it;
    ``odd``, of ODD, is what makes size and repetitions uneven.
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
    target: Target


@dataclass(frozen=True, slots=True)
class Unmap:
    """Unmap a portion of one of the live mappings, ``leaves`` of it; with ``single`` leaf by leaf."""

    which: int
    portion: int
    leaves: int
    single: bool


@dataclass(frozen=True, slots=True)
class Remap:
    """Map a portion of one of the live mappings anew, all else as with Unmap."""

    which: int
    portion: int
    leaves: int
    target: Target


@dataclass(frozen=True, slots=True)
class Refused:
    """Something of FAULTS that must be refused and change nothing, near one of the live mappings."""

    fault: int
    which: int


Action = Map | Unmap | Remap | Refused | None
"""None does nothing: what any action can be made to be."""
