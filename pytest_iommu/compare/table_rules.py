# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED against IN RAM: the kernel's own page table, under the rules of docs/tables.md.

The texts of memory are those that a true dump would print, so the comparison is that of a dump; only the rules differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_iommu.compare.difference import SILENT, Difference, Rank

_BOUNDS = re.compile(r"(?P<first>0x[0-9a-f]+)-(?P<last>0x[0-9a-f]+)")
_RULE_OF_RANK = {
    Rank.NOT_EMPTY: "TAB-4",
    Rank.LEVEL: "TAB-3",
    Rank.LEAF: "TAB-3",
    Rank.PROT: "TAB-2",
    Rank.FLAGS: "TAB-2",
    Rank.BITS: "TAB-2",
    Rank.ENTRY: "TAB-6",
}
"""Of all other ranks it is TAB-1."""


def table_rule(one: Difference, unmapped: bool) -> str:
    """The rule of the page table that a difference breaks; ``unmapped``: something has been unmapped before."""
    if one.rank is Rank.MEMORY:
        return "TAB-1" if one.file == "page_table" else "TAB-6"
    if one.rank in (Rank.PRESENCE, Rank.BOUNDS):
        return "TAB-4" if unmapped and _too_much(one) else "TAB-1"
    if one.rank is Rank.ENTRY and unmapped and _rest_of_a_group(one):
        return "TAB-4"
    return _RULE_OF_RANK.get(one.rank, "TAB-1")


OF_THE_TEXT = (Rank.POINTER, Rank.UNREADABLE, Rank.SIZE_TEXT)
"""Faults that only a text can have: memory has neither grammar nor columns."""


def _in_memory(one: Difference) -> bool:
    """Whether memory can have this fault. The words of info are the dump's own, but for what follows from the table."""
    return one.rank not in OF_THE_TEXT and one.file != "info"


def of_the_table(differences: Iterable[Difference], unmapped: bool, both: bool = False) -> tuple[Difference, ...]:
    """The differences under the rules of the page table.

    The dump tells the truth, so it breaks none of its own rules; with ``both`` it is wrong too, and they stand beside.
    """

    def renamed(one: Difference) -> Difference:
        also = (one.rule, *one.also) if both else ()
        return replace(one, rule=table_rule(one, unmapped), also=also) if _in_memory(one) else one

    return tuple(map(renamed, differences))


def in_memory_only(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """The differences of memory's own texts, shown as memory's lines and not as a dump's."""
    return tuple(replace(one, dumped=SILENT, memory=one.dumped) for one in differences)


def of_tables(memory: Mapping[str, str]) -> dict[str, str]:
    """The files of memory that say what is in the tables; stats follow from entries, and info is the dump's own."""
    return {name: text for name, text in memory.items() if name in ("page_table", "entries")}


def _held(one: Difference) -> str | None:
    """What the table holds: memory's line, or the dump's where memory says nothing."""
    return one.memory if one.memory not in (None, SILENT) else one.dumped


def _rest_of_a_group(one: Difference) -> bool:
    """Whether an item is left of a group whose first item is gone: hardware translates by it, the walk does not."""
    held = _held(one)
    return one.expected in (None, SILENT) and held is not None and held.split()[2:3] in (["bad"], ["part"])


def _too_much(one: Difference) -> bool:
    """Whether something translates that should not: a line that is not expected, or reaches farther."""
    held = _held(one)
    if one.expected in (None, SILENT) or held in (None, SILENT):
        return one.expected in (None, SILENT)
    want, have = (_BOUNDS.match(str(line)) for line in (one.expected, held))
    if want is None or have is None:
        return False
    return int(have["first"], 16) < int(want["first"], 16) or int(have["last"], 16) > int(want["last"], 16)
