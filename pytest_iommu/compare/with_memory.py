# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM beside EXPECTED and DUMPED: adds the third line to every difference, and decides the verdict.

The texts of memory are those that a true dump would print. Nothing else predicts their table addresses.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_iommu.compare.difference import SILENT, Difference, Rank
from pytest_iommu.compare.quick import as_expected
from pytest_iommu.compare.side_by_side import ANY
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.oracle import Expected

_ANYWHERE = re.compile(rf"(?P<head>\d 0x[0-9a-f]{{16}} table) -  {re.escape(ANY)} raw (?P<raw>0x[0-9a-f]{{16}})")
_TABLE = re.compile(r"(?P<head>\d 0x[0-9a-f]{16} table) -  (?P<address>0x[0-9a-f]{16}) raw (?P<raw>0x[0-9a-f]{16})")
_RULES = {"page_table": "RNG-1", "entries": "ENT-1", "stats": "ENT-2", "info": "INF-3"}


def as_in_memory(texts: Mapping[str, str], memory: Mapping[str, str]) -> bool:
    """Whether the files that both have are equal; of info only the lines that memory provides."""
    return not any(_differ(name, texts[name], memory[name]) for name in memory if name in texts)


def _differ(name: str, text: str, memory: str) -> bool:
    return text != memory if name != "info" else not set(memory.splitlines()) <= set(text.splitlines())


class _Held:
    """The lines of one file derived from memory, searchable by the line of another witness."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self.text = frozenset(text.splitlines())
        self._lines: dict[tuple[str, ...], str] = {}
        self._spans: list[tuple[int, int, str]] = []
        for line in text.splitlines():
            for key in _keys(file, line):
                self._lines.setdefault(key, line)
            if file == "page_table":
                first, last = (int(word, 16) for word in line.split()[0].split("-"))
                self._spans.append((first, last, line))

    def beside(self, line: str) -> str | None:
        """Return the line of memory at that place: None for nothing, SILENT if memory cannot tell."""
        found = next((self._lines[key] for key in _keys(self._file, line) if key in self._lines), None)
        if found is None and self._file == "page_table":
            return self._covering(line)
        return SILENT if found is None and self._file == "info" else found

    def _covering(self, line: str) -> str | None:
        """Return the line of memory that contains the first address of another, even if it begins before that."""
        try:
            first = int(line.split("-")[0], 16)
        except ValueError:
            return SILENT
        at = bisect_right(self._spans, first, key=lambda span: span[0]) - 1
        return self._spans[at][2] if at >= 0 and self._spans[at][1] >= first else None


def _keys(file: str, line: str) -> list[tuple[str, ...]]:
    """Return keys of a line's subject, closest first: first IOVA; for entries IOVA and kind, with or without level."""
    words = line.split()
    if file == "page_table":
        return [("first", line.partition("-")[0])]
    if file != "entries":
        return [("key", words[0])] if words else []
    if len(words) < 3:
        return []
    level, iova, kind = words[:3]
    return [("exact", level, iova, kind), ("kind", iova, kind), ("level", level, iova)]


def memory_differences(texts: Mapping[str, str], memory: Mapping[str, str]) -> Iterator[Difference]:
    """Report where a dump that is as expected does not match memory: above all, addresses of tables."""
    for name, ram in memory.items():
        if name not in texts or not _differ(name, texts[name], ram):
            continue
        rule = _RULES[name]
        rank = Rank.TOP if name == "info" else Rank.MEMORY
        dumped, held = ({_keys(name, line)[0]: line for line in text.splitlines()} for text in (texts[name], ram))
        keys = held if name == "info" else {**dumped, **held}
        for key in keys:
            have, want = dumped.get(key), held.get(key)
            if have != want:
                yield Difference(rule, rank, name, "differs from memory", dumped=have, memory=want)
        if all(dumped.get(key) == held.get(key) for key in keys):
            yield Difference(rule, rank, name, "the lines of memory in another order, or duplicated")


def beside_memory(differences: Iterable[Difference], memory: Mapping[str, str]) -> Iterator[Difference]:
    """Return the differences, each with its line of memory."""
    held = {name: _Held(name, text) for name, text in memory.items()}
    for one in differences:
        line = next((line for line in (one.expected, one.dumped) if line is not None and line != SILENT), None)
        if one.alone or line is None or one.file not in held:
            yield one
            continue
        lines = held[one.file]
        found = one.dumped if one.dumped in lines.text else lines.beside(line)
        expected = found if found is not None and _placed(one.expected, found) else one.expected
        yield replace(one, expected=expected, memory=found)


def _placed(expected: str | None, found: str) -> bool:
    """Whether a line of memory matches the expected line of a table, whose address is unknown in advance."""
    match = _ANYWHERE.fullmatch(expected or "")
    table = _TABLE.fullmatch(found)
    if match is None or table is None or match["head"] != table["head"]:
        return False
    return int(match["raw"], 16) | int(table["address"], 16) == int(table["raw"], 16)


def decide(
    expected: Expected, texts: Mapping[str, str], memory: Mapping[str, str], found: Sequence[Difference]
) -> tuple[Verdict, str]:
    """Return the verdict that memory decides, and how it is known."""
    as_asked = as_expected(expected, {name: text for name, text in memory.items() if name != "info"})
    as_dumped = as_in_memory(texts, memory) and not any(_beyond(one, memory) for one in found)
    if as_asked:
        return Verdict.DUMP, "memory is as expected"
    if as_dumped:
        return Verdict.MAPPING, "memory is as dumped"
    return Verdict.BOTH, "memory is neither as expected nor as dumped"


def _beyond(one: Difference, memory: Mapping[str, str]) -> bool:
    """Whether memory cannot tell the difference: the format's name, or the type of the domain."""
    if one.file != "info" or one.dumped is None or one.dumped == SILENT:
        return False
    return one.dumped.partition(":")[0] not in {line.partition(":")[0] for line in memory["info"].splitlines()}
