# SPDX-License-Identifier: GPL-2.0-only
"""The engine of arm64's page-table dump (arch/arm64/mm/ptdump.c), which also prints KVM's stage 2.

    ---[ <name of an area> ]---
    0x<first>-0x<end>   <size %9lu><unit> <level>[ <attributes>]

``end`` is exclusive, 0 at the end of 64 bits. Neighbours with the same attributes are one row, so a row may be many
leaves; output addresses are not shown. Each attribute has its column. A hole has none, and some kernels print neither
level nor attributes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pytest_iommu.core.model import SUFFIXES, Prot
from pytest_iommu.core.printed import Row, Table
from pytest_iommu.dialects.carried import LEFT_OUT, carried, fault
from pytest_iommu.dialects.text_dialect import Found, TextDialect

RULE = "RNG-2"
_UNITS = SUFFIXES | {"E": 1 << 60}
_MARKER = re.compile(r"---\[ ([ -~]{1,80}) \]---")
_ROW = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16})   ( {0,8}[1-9][0-9]{0,8})([KMGTPE])(?: ([A-Z0-9]+)(.*))?")


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the attributes of a row say."""

    valid: bool
    block: bool
    prot: Prot
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """What differs between the two dumps: levels by name, and ``columns``, alternatives of attributes in order."""

    levels: Mapping[str, int]
    columns: tuple[re.Pattern[str], ...]
    prot: str
    decode: Callable[[tuple[str, ...]], Prot]


def columns(*alternatives: str) -> re.Pattern[str]:
    """Return a pattern of attributes, each after a blank; ``a|b`` are the texts of one."""
    return re.compile("".join(f" ({one})" for one in alternatives) + " *")


class Ptdump(TextDialect):
    """Common base; ``words`` differ, and ``marker`` says which areas belong to the dialect."""

    words: Words
    table = ""

    def marker(self, name: str) -> bool:
        """Whether the dialect has an area of that name."""
        raise NotImplementedError

    def file(self, name: str, text: str, found: Found) -> None:
        lines = carried(RULE, name, text)
        rows: list[Row] = []
        whole, known = True, False
        match_row = _ROW.fullmatch
        for number, line in enumerate(lines, 1):
            match = match_row(line)
            if match is not None:
                row = self._row(name, number, line, match)
                known = known or row.mapped is not None
                rows.append(row)
                continue
            area = _MARKER.fullmatch(line)
            if area is not None:
                if not self.marker(area[1]):
                    raise fault(RULE, name, number, line, f"{self.table} have no such area")
                known = True
            elif line == LEFT_OUT:
                whole = False
            elif line:
                why = "not `0xFIRST-0xEND   SIZE LEVEL attributes`"
                raise fault(RULE, name, number, line, why)
        if not known:
            number = next(number for number, line in enumerate(lines, 1) if line)
            raise fault(RULE, name, number, lines[number - 1], f"nothing says that these are {self.table}")
        found.tables.append(Table(name, 1, self.table, tuple(rows), whole=whole, format=self.format, by_columns=True))

    format: str | None = None

    def _row(self, name: str, number: int, line: str, match: re.Match[str]) -> Row:
        first_text, end_text, size_text, unit, level_text, rest = match.groups()
        first, end = int(first_text, 16), int(end_text, 16) or 1 << 64
        if len(size_text) != 9:
            raise fault("RNG-4", name, number, line, "size is not right-aligned in 9 columns")
        row = Row(number, first, end - 1, size=int(size_text) * _UNITS[unit], mapped=None)
        if level_text is None:
            return row
        level = self.words.levels.get(level_text)
        if level is None:
            raise fault("LVL-1", name, number, line, f"unknown level {level_text}")
        if not rest:
            return row._replace(level=level, mapped=False)
        found = self._attributes(rest)
        if found is None:
            raise fault("PRT-3", name, number, line, "attributes are not in their columns")
        flags = found.flags
        return row._replace(level=level, mapped=found.valid, prot=found.prot, columns=self.words.prot, flags=flags)

    def _attributes(self, text: str) -> Attributes | None:
        return _decode(self.words.columns, self.words.decode, text)


@lru_cache(maxsize=1024)
def _decode(
    patterns: tuple[re.Pattern[str], ...], prot: Callable[[tuple[str, ...]], Prot], text: str
) -> Attributes | None:
    """Return what a row's attributes say; None if they are not in their columns. Blanks at the end may be missing."""
    padded = text.ljust(64)
    match = next((match for pattern in patterns if (match := pattern.fullmatch(padded))), None)
    if match is None:
        return None
    shown = tuple(word for word in match.groups() if word is not None)
    flags = tuple(word.strip() for word in shown if word.strip())
    return Attributes(shown[0] == " ", "BLK" in flags, prot(shown), flags)
