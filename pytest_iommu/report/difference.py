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


_UNREADABLE = (Rank.POINTER, Rank.UNREADABLE, Rank.SIZE_TEXT)


@dataclass(frozen=True, slots=True)
class Difference:
    """``rule`` is broken. ``expected`` and ``dumped`` are lines of ``file``, None where there is none.

    ``memory`` is the line that follows from the guest's RAM: None where there is none, empty where nobody looked.
    """

    rule: str
    rank: Rank
    file: str
    why: str
    expected: str | None = None
    dumped: str | None = None
    also: tuple[str, ...] = ()
    memory: str | None = ""

    def lines(self) -> list[str]:
        """The difference as it is shown."""
        shown = [f"{self.rule}  {self.file}: {self.why}"]
        if self.expected is None and self.dumped is None:
            return shown
        # A line that cannot be read has no other that it should have been.
        if self.expected is not None or self.rank not in _UNREADABLE:
            shown.append(f"       expected  {'(no line)' if self.expected is None else self.expected}")
        shown.append(f"       dumped    {'(no line)' if self.dumped is None else self.dumped}")
        if self.memory != "":
            shown.append(f"       in RAM    {'(no line)' if self.memory is None else self.memory}")
        return shown
