# SPDX-License-Identifier: GPL-2.0-only
"""One difference between what was expected and what was dumped, and how differences are weighed.

A fault in a kernel shows in several places: a wrong output address also parts lines that should be one. ``Rank`` orders
differences from cause to consequence, so that the rule named first is the one that was broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """Lower is nearer to the cause."""

    POINTER = 0
    NOT_EMPTY = 2
    UNREADABLE = 4
    FORMAT = 6
    SIGN = 8
    LEVEL = 10
    LEAF = 12
    PROT = 14
    FLAGS = 16
    ADDRESS = 18
    BOUNDS = 20
    SIZE_TEXT = 22
    MERGE = 24
    PRESENCE = 26
    INFO = 28
    ENTRY = 30
    TOP = 32
    MEMORY = 36
    FILES = 40


SILENT = "\0"
"""In the place of a line: this witness has nothing to say here. That is not the same as None, no line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``rule`` is broken. ``expected`` and ``dumped`` are lines of ``file``: None where there is none.

    ``memory`` is the line that follows from the guest's RAM. ``alone``: ``why`` is about the dumped line and others of
    the dump (it is there twice, it is in the wrong place), so a line of memory beside it would say nothing.
    """

    rule: str
    rank: Rank
    file: str
    why: str
    expected: str | None = SILENT
    dumped: str | None = SILENT
    also: tuple[str, ...] = ()
    memory: str | None = SILENT
    alone: bool = False
