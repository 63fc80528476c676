# SPDX-License-Identifier: GPL-2.0-only
"""The reference's own files as saved texts: page_table, entries, info, stats, ste and cd (docs/abi.md)."""

from __future__ import annotations

import re

from pytest_iommu.core.printed import Row, Stream, Table
from pytest_iommu.dialects.carried import fault
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import parse_entries, parse_ranges
from pytest_iommu.dialects.io_ptdump_small import parse_info, parse_stats
from pytest_iommu.dialects.smmuv3_debugfs import CD_LINES, STE_LINES, parse_cd, parse_ste
from pytest_iommu.dialects.text_dialect import Found, TextDialect

_KINDS = {
    "page_table": re.compile(r"0x[0-9a-f]+-0x[0-9a-f]+ 0x"),
    "entries": re.compile(r"[0-9] 0x[0-9a-f]+ (?:table|leaf|part|bad)"),
    "info": re.compile(r"format: "),
    "stats": re.compile(r"level tables leaves bytes"),
    "ste": re.compile(r"STE for Stream ID "),
    "cd": re.compile(r"CD for Stream ID "),
}
_PARSERS = {"entries": parse_entries, "info": parse_info, "stats": parse_stats}


class IoPtdumpText(TextDialect):
    """A file with one of these names is taken for it, any other by how it begins; nothing is tolerated."""

    name = "io_ptdump"
    about = "this suite's reference, docs/abi.md"
    place = "domains/{domain}/{file}"
    files = tuple(_KINDS)
    heading = re.compile("|".join(pattern.pattern for pattern in _KINDS.values()))

    def claims(self, text: str) -> bool:
        """An STE or CD without a Domain line is one of the posted series."""
        return super().claims(text) and (" for Stream ID" not in text or "\n  Domain: " in text)

    def file(self, name: str, text: str, found: Found) -> None:
        base = name.rpartition("/")[2]
        kind = base if base in _KINDS else next((k for k, p in _KINDS.items() if p.match(text)), None)
        if kind is None:
            raise fault("RNG-2", name, 1, text.partition("\n")[0], f"no file of {', '.join(_KINDS)} begins like this")
        try:
            self._file(name, kind, text, found)
        except DumpSyntaxError as error:
            raise fault(error.rule, name, error.number, error.line, error.why) from None

    def _file(self, name: str, kind: str, text: str, found: Found) -> None:
        errors: list[DumpSyntaxError] = []
        if kind == "ste":
            found.streams.append(Stream(name, 1, parse_ste(text), _lines(STE_LINES, 1)))
        elif kind == "cd":
            starts = enumerate(parse_cd(text))
            found.streams += [
                Stream(name, 1 + at * len(CD_LINES), cd, _lines(CD_LINES, 1 + at * len(CD_LINES))) for at, cd in starts
            ]
        elif kind == "page_table":
            ranges = list(parse_ranges(text, errors))
            if not errors:
                rows = [
                    Row(at, one.first, one.last, one.oa, one.level, one.leaf, one.prot, "rwxcmp", one.flags)
                    for at, one in enumerate(ranges, 1)
                ]
                found.tables.append(Table(name, 1, name, tuple(rows)))
        else:
            _PARSERS[kind](text, errors)
        if errors:
            raise errors[0]


def _lines(grammar: tuple[tuple[str, str], ...], start: int) -> dict[str, int]:
    return {field: number for number, (field, _) in enumerate(grammar, start)}


IO_PTDUMP_TEXT = IoPtdumpText()
