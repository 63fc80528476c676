# SPDX-License-Identifier: GPL-2.0-only
"""Render differences as text: each line of a dump once with all its faults; repetitions are folded into a count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_iommu.compare.difference import SILENT, Difference
from pytest_iommu.compare.side_by_side import INDENT, stacked

SHOWN = 4
"""How many kinds of difference a failure shows, with one example each."""
NAMED = 4
"""How many similar lines are listed by address."""
_VALUE = re.compile(r"\b0x[0-9a-f]+|(?<!\S)[r-][w-][x-][c-][m-][p-]|\b\d+[KMGTP]?\b")
_ADDRESS = re.compile(r"0x0*([0-9a-fA-F]+)")


@dataclass(slots=True)
class Block:
    """One line of a dump, or a missing one, with all sentences about it."""

    file: str
    expected: str | None
    dumped: str | None
    memory: str | None
    sentences: list[tuple[str, str]] = field(default_factory=list)

    def takes(self, one: Difference) -> bool:
        """Whether a difference concerns the same line."""
        if one.file != self.file or one.dumped != self.dumped:
            return False
        if one.dumped is None or one.dumped == SILENT:
            return one.expected == self.expected and one.dumped is None
        return one.expected == self.expected or SILENT in (one.expected, self.expected)

    def add(self, one: Difference) -> None:
        """Add a sentence, and lines that are still unknown."""
        if (one.rule, one.why) not in self.sentences:
            self.sentences.append((one.rule, one.why))
        self.expected = one.expected if self.expected == SILENT else self.expected
        self.memory = one.memory if self.memory == SILENT else self.memory

    @property
    def kind(self) -> tuple[object, ...]:
        """The key for folding: the sentences without their values, and the witnesses that have a line."""
        lines = self.witnesses().values()
        same = [lines_index(list(lines), line) for line in lines]
        return (self.file, *((rule, _VALUE.sub("#", why)) for rule, why in self.sentences), *self.witnesses(), *same)

    def witnesses(self) -> dict[str, str | None]:
        """The lines by the names of their witnesses; silent ones are left out."""
        lines = {"expected": self.expected, "dumped": self.dumped, "in RAM": self.memory}
        return {witness: line for witness, line in lines.items() if line != SILENT}

    @property
    def address(self) -> str:
        """The name of the block: the first address in its line, empty if there is none."""
        lines = (self.dumped, self.expected, self.memory)
        found = next((_ADDRESS.search(line) for line in lines if line and line != SILENT), None)
        return f"0x{found[1]}" if found and self.file in ("page_table", "entries") else ""

    def text(self) -> list[str]:
        """Return the sentences, then the lines."""
        return [*(f"{rule}  {self.file}: {why}" for rule, why in self.sentences), *stacked(self.witnesses())]


def lines_index(lines: Sequence[str | None], line: str | None) -> int:
    """Return the index of the first witness with this line; -1 for no line."""
    return -1 if line is None else lines.index(line)


def blocks(differences: Sequence[Difference]) -> list[Block]:
    """Group the differences by line, in order."""
    found: list[Block] = []
    by_line: dict[tuple[str, str | None], list[Block]] = {}
    for one in differences:
        key = (one.file, one.dumped if one.dumped not in (None, SILENT) else one.expected)
        block = next((block for block in by_line.get(key, ()) if block.takes(one)), None)
        if block is None:
            block = Block(one.file, one.expected, one.dumped, one.memory)
            found.append(block)
            by_line.setdefault(key, []).append(block)
        block.add(one)
    return found


def folded(differences: Sequence[Difference], shown: int = SHOWN) -> list[str]:
    """Return the text: of ``shown`` kinds the first line and the number of similar ones, then a count of the rest."""
    kinds: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks(differences):
        kinds.setdefault(block.kind, []).append(block)
    lines: list[str] = []
    for alike in list(kinds.values())[:shown]:
        lines += alike[0].text()
        if len(alike) > 1:
            lines.append(f"{INDENT}and {_more(alike[1:])}")
    rest = list(kinds.values())[shown:]
    if rest:
        number, several = sum(map(len, rest)), "s" if len(rest) > 1 else ""
        lines.append(f"... and {_counted(number, 'line')} with {len(rest)} other kind{several} of difference")
    return lines


def unfolded(differences: Sequence[Difference]) -> Iterator[str]:
    """Return everything, line by line, for a file."""
    for block in blocks(differences):
        yield from block.text()


def _more(alike: Sequence[Block]) -> str:
    named = [block.address for block in alike if block.address]
    text = f"{_counted(len(alike), 'more line')} like this"
    if not named:
        return text
    shown = ", ".join(named[:NAMED])
    return f"{text}: {shown}" + (f", ... {named[-1]}" if len(named) > NAMED else "")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
