# SPDX-License-Identifier: GPL-2.0-only
"""Differences between the expected and the dumped text, and their ranking.

A kernel fault shows in several places: a wrong output address, for example, also splits lines that should be one.
``Rank`` orders differences from cause to consequence, so that the first rule is the one that was broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """Lower values are closer to the cause."""

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
    BITS = 29
    ENTRY = 30
    TOP = 32
    MEMORY = 36
    FILES = 40


SILENT = "\0"
"""Replaces a line of a witness that cannot tell. None, in contrast, means that there is no line."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``rule`` is broken. ``expected`` and ``dumped`` are lines of ``file``, None if there is none.

    ``memory`` is the line derived from the guest's RAM. ``alone``: ``why`` compares the dumped line with other lines of
    the dump (it is duplicated or misplaced), so a line of memory beside it would be meaningless.
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
