# SPDX-License-Identifier: GPL-2.0-only
"""Rows under a line of column names, whole, wrapped or printed as two blocks.

Mail wraps a row at a tab: the rest of it is on a line of its own. Documents print a wide table in blocks, one below the
other, each under its part of the column names; the rows of all blocks have the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.dialects.carried import LEFT_OUT, fault

GridRow = tuple[int, str, list[str]]
"""Number of its line, what begins it, its other words."""


class Grid:
    """The rows of one table with the given columns; the first column is what begins a row."""

    def __init__(self, rule: str, file: str, columns: Sequence[str]) -> None:
        self.rows: list[GridRow] = []
        self.whole = True
        self._rule, self._file, self._columns = rule, file, columns
        self._named = 0
        self._next: int | None = None

    @property
    def headed(self) -> bool:
        """Whether all columns have been named, or those of the first block."""
        return self._named > 0

    def names(self, number: int, line: str) -> bool:
        """Take a line of column names; False if it is none. DumpSyntaxError if they are others than must follow."""
        words = line.split()
        if not words or words[0] not in self._columns:
            return False
        if words != list(self._columns[self._named : self._named + len(words)]):
            raise fault(self._rule, self._file, number, line, f"expected the columns {' '.join(self._columns)}")
        self._named += len(words)
        if self.rows:
            self._end_block(number)
            self._next = 0
        return True

    def row(self, number: int, line: str, key: str, words: list[str]) -> None:
        """Take the beginning of a row. DumpSyntaxError if it has no heading, or too many words."""
        if self._next is not None or not self._named:
            why = "a row below the columns of another block" if self._named else "a row without column names above it"
            raise fault(self._rule, self._file, number, line, why)
        self.rows.append((number, key, words))
        self._limit(number, line, words)

    def rest(self, number: int, line: str, words: list[str]) -> None:
        """Take a line that continues a row: the last one, or the next one of a block."""
        at = len(self.rows) - 1 if self._next is None else self._next
        if not 0 <= at < len(self.rows):
            raise fault(self._rule, self._file, number, line, "the rest of a row, but there is no row")
        self.rows[at][2].extend(words)
        self._limit(number, line, self.rows[at][2])
        if self._next is not None:
            self._next += 1

    def left_out(self, line: str) -> bool:
        """Take a line that stands for others; False if it is none."""
        if line.strip() != LEFT_OUT:
            return False
        self.whole = False
        return True

    def end(self, number: int) -> None:
        """The table ends before that line. DumpSyntaxError if its blocks differ in length."""
        self._end_block(number)
        if self._named < len(self._columns):
            why = f"the columns {' '.join(self._columns[self._named :])} are missing"
            raise fault(self._rule, self._file, max(1, number - 1), "", why)

    def _end_block(self, number: int) -> None:
        if self._next is not None and self._next != len(self.rows):
            why = f"{self._next} rows in this block, but {len(self.rows)} in the one above"
            raise fault(self._rule, self._file, max(1, number - 1), "", why)

    def _limit(self, number: int, line: str, words: list[str]) -> None:
        if len(words) >= self._named:
            raise fault(self._rule, self._file, number, line, f"more than {self._named} columns")
