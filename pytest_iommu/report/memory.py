# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM beside EXPECTED and DUMPED: the third line of every difference, and what memory decides.

The texts of memory are those that a true dump would print; only their tables' addresses are nobody's expectation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pytest_iommu.oracle import Expected
from pytest_iommu.report.difference import Difference, Rank
from pytest_iommu.report.quick import as_expected

_RULES = {"page_table": "RNG-1", "entries": "ENT-1", "stats": "ENT-2", "info": "INF-3"}


def as_in_memory(texts: Mapping[str, str], memory: Mapping[str, str]) -> bool:
    """Whether the files that both have are the same; of info only the lines that memory knows."""
    return not any(_differ(name, texts[name], memory[name]) for name in memory if name in texts)


def _differ(name: str, text: str, memory: str) -> bool:
    return text != memory if name != "info" else not set(memory.splitlines()) <= set(text.splitlines())


def _key(file: str, line: str) -> str:
    """What a line is about: its first IOVA, for entries with level, IOVA and kind."""
    if file == "page_table":
        return line.partition("-")[0]
    return " ".join(line.split()[: 3 if file == "entries" else 1])


def _by_key(file: str, text: str) -> dict[str, str]:
    return {_key(file, line): line for line in text.splitlines()}


def memory_differences(texts: Mapping[str, str], memory: Mapping[str, str]) -> Iterator[Difference]:
    """Where a dump that is as expected is not what memory holds: tables' addresses above all."""
    for name, ram in memory.items():
        if name not in texts or not _differ(name, texts[name], ram):
            continue
        dumped, held = _by_key(name, texts[name]), _by_key(name, ram)
        keys = held if name == "info" else {**dumped, **held}
        rule = _RULES[name]
        rank = Rank.TOP if name == "info" else Rank.MEMORY
        for key in keys:
            if dumped.get(key) != held.get(key):
                yield Difference(
                    rule, rank, name, "not what is in memory", held.get(key), dumped.get(key), (), held.get(key)
                )
        if all(dumped.get(key) == held.get(key) for key in keys):
            yield Difference(rule, rank, name, "the lines of memory in another order, or twice")


def beside_memory(differences: Iterable[Difference], memory: Mapping[str, str]) -> Iterator[Difference]:
    """The differences, each with its line of memory."""
    held = {name: _by_key(name, text) for name, text in memory.items()}
    for one in differences:
        line = one.expected if one.expected is not None else one.dumped
        if one.file not in held or line is None:
            yield one
            continue
        yield replace(one, memory=held[one.file].get(_key(one.file, line)))


def conclusion(expected: Expected, texts: Mapping[str, str], memory: Mapping[str, str]) -> str:
    """Whom memory agrees with: the one sentence that says where to look for the fault."""
    if as_expected(expected, {name: text for name, text in memory.items() if name != "info"}):
        return "memory is as expected: what was mapped is right, the dump of it is wrong"
    if as_in_memory(texts, memory):
        return "memory is as dumped: the dump is true, what was mapped is not what was asked for"
    return "memory is neither as expected nor as dumped"
