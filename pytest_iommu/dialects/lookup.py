# SPDX-License-Identifier: GPL-2.0-only
"""The file lookup: the entries that translate one IOVA (docs/abi.md, LKP-1 to LKP-3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from pytest_iommu.core.model import Entry, Kind
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import parse_entries, render_entry, split_lines

FILE = "lookup"
_IOVA = re.compile(r"iova: 0x([0-9a-f]{16})")
_OUTPUT = re.compile(r"output: (?:-|0x([0-9a-f]{16}))")


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was looked up, the entries that cover it from the top down, and its output address; None if it has none."""

    iova: int
    path: tuple[Entry, ...]
    output: int | None

    def fault(self) -> tuple[str, str] | None:
        """The rule and a sentence if it contradicts itself, which it must not in any race either."""
        path = self.path
        if any(upper.level != lower.level + 1 for upper, lower in pairwise(path)):
            return "LKP-1", f"has levels {', '.join(str(entry.level) for entry in path)}"
        inner = next((entry for entry in path[:-1] if entry.kind is not Kind.TABLE), None)
        if inner is not None:
            return "LKP-2", f"goes on below what is no table: {render_entry(inner)}"
        end = path[-1] if path else None
        if end is not None and end.kind is Kind.TABLE:
            return "LKP-2", f"ends at a table: {render_entry(end)}"
        if end is not None and end.kind is Kind.EMPTY and end.raw:
            return "LKP-2", f"calls empty what is not 0: {render_entry(end)}"
        wanted = None
        if end is not None and end.kind is Kind.LEAF:
            assert end.size is not None
            if not end.iova <= self.iova < end.iova + end.size:
                return "LKP-1", f"ends at a leaf of other IOVAs: {render_entry(end)}"
            wanted = end.oa + self.iova - end.iova
        if self.output != wanted:
            return "LKP-2", f"has the output {_text(self.output)}, by its last entry it is {_text(wanted)}"
        return None


def parse_lookup(text: str) -> Lookup:
    """Parse the answer to one IOVA. DumpSyntaxError, with the line, at the first fault: LKP-1, or that of the entry."""
    errors: list[DumpSyntaxError] = []
    lines = split_lines(FILE, "LKP-1", text, errors)
    if errors:
        raise errors[0]
    if len(lines) < 2:
        raise DumpSyntaxError("LKP-1", FILE, 1, "", "not `iova:`, entries, and `output:`")
    first, last = _IOVA.fullmatch(lines[0]), _OUTPUT.fullmatch(lines[-1])
    if first is None:
        raise DumpSyntaxError("LKP-1", FILE, 1, lines[0], "not `iova: 0x` and 16 digits")
    if last is None:
        raise DumpSyntaxError("LKP-1", FILE, len(lines), lines[-1], "not `output: -`, nor 0x and 16 digits")
    path = tuple(parse_entries("".join(f"{line}\n" for line in lines[1:-1]), errors))
    if errors:
        raise DumpSyntaxError(errors[0].rule, FILE, errors[0].number + 1, errors[0].line, errors[0].why)
    return Lookup(int(first[1], 16), path, None if last[1] is None else int(last[1], 16))


def _text(address: int | None) -> str:
    return "-" if address is None else f"0x{address:x}"
