# SPDX-License-Identifier: GPL-2.0-only
"""Show lines of several witnesses below each other: equal ones once, columns aligned, differences marked.

expected, in RAM  0x0000000000001000-0x0000000000001fff 0x0000000041000000       4K 0       4K rw---- SH_IS nG
dumped            0x0000000000001000-0x0000000000001fff 0x0000000041002000       4K 0       4K rw---- SH_IS
                                                                     ^                                      ^^
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

ANY = "(any)"
"""A column of an expected line that may have any value, `*` in the kselftest; it is never marked."""
NO_LINE = "(no line)"
INDENT = "    "
_CELL = re.compile(r"\s*\S+|\s+$")


def stacked(lines: Mapping[str, str | None], indent: str = INDENT) -> list[str]:
    """Show the lines by the names of their witnesses; None is a missing line."""
    names: dict[str | None, list[str]] = {}
    for witness, line in lines.items():
        names.setdefault(line, []).append(witness)
    labels = {line: ", ".join(witnesses) for line, witnesses in names.items()}
    width = max(map(len, labels.values()), default=0)
    there = [line for line in labels if line]
    table = _columns(there)
    shown = dict(zip(there, _padded(table), strict=True))
    found = []
    for line, label in labels.items():
        text = NO_LINE if line is None else shown.get(line, "(an empty line)")
        found.append(f"{indent}{label:<{width}}  {text}")
    marks = _marks(table).rstrip()
    return [*found, f"{indent}{'':<{width}}  {marks}"] if marks else found


def _cells(line: str) -> list[str]:
    """Split a line into words, each with the blanks before it; trailing blanks are a cell of their own."""
    return _CELL.findall(line)


def _columns(lines: Sequence[str]) -> list[list[str]]:
    """Return the cells of all lines, column by column; empty where a line has no such word."""
    rows = [_cells(line) for line in lines]
    table: list[list[str]] = [[cell] for cell in rows[0]] if rows else []
    for row in rows[1:]:
        table = _joined(table, row)
    return table


def _joined(table: list[list[str]], row: list[str]) -> list[list[str]]:
    """Add a line to the table. Words that it shares with an earlier line stay in the same column."""
    number = len(table[0]) if table else 1
    known = [next((cell for cell in column if cell), "") for column in table]
    if len(known) == len(row):
        return [[*column, cell] for column, cell in zip(table, row, strict=True)]
    made: list[list[str]] = []
    for what, begin, end, first, last in SequenceMatcher(None, known, row, autojunk=False).get_opcodes():
        old, new = table[begin:end], row[first:last]
        paired = min(len(old), len(new)) if what != "equal" else len(old)
        made += [[*column, cell] for column, cell in zip(old[:paired], new[:paired], strict=True)]
        made += [[*column, ""] for column in old[paired:]]
        made += [[""] * number + [cell] for cell in new[paired:]]
    return made


def _padded(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines with every column as wide as its widest cell."""
    rows = zip(*(_filled(column, " ") for column in table), strict=True)
    return ["".join("".join(cell) for cell in row).rstrip() for row in rows]


def _filled(column: Sequence[str], filler: str) -> list[list[str]]:
    """Pad the cells of a column to equal width; cells that differ only in leading blanks are aligned at their end."""
    width = max(map(len, column))
    spare = [[filler] * (width - len(cell)) for cell in column]
    if len({cell.lstrip() for cell in column}) == 1:
        return [[*more, *cell] for cell, more in zip(column, spare, strict=True)]
    return [[*cell, *more] for cell, more in zip(column, spare, strict=True)]


def _marks(table: Sequence[Sequence[str]]) -> str:
    """Return a line with a mark below every character that differs between lines."""
    marks = ""
    for column in table:
        width = max(map(len, column))
        if any(cell.strip() in (ANY, "*") for cell in column):
            marks += " " * width
            continue
        words = [cell.lstrip() for cell in column]
        if len(set(map(len, column))) > 1 and len(set(words)) > 1 and all(words):
            # Words of different length have no corresponding characters.
            blank = min(len(cell) - len(word) for cell, word in zip(column, words, strict=True))
            marks += " " * blank + "^" * (width - blank)
            continue
        # Superfluous blanks are visible only by their mark.
        filler = "" if len(set(words)) == 1 else " "
        letters = zip(*_filled(column, filler), strict=True)
        marks += "".join(" " if len(set(at)) == 1 else "^" for at in letters)
    return marks
