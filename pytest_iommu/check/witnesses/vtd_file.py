# SPDX-License-Identifier: GPL-2.0-only
"""The dump that mainline has: VT-d's domain_translation_struct, beside what is expected, memory, and our own dump.

It is a file of a device. On kernels without CONFIG_INTEL_IOMMU_DEBUGFS there is none, and nothing is judged.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.compare.printed_against import against, strangers
from pytest_iommu.compare.printed_memory import top_against
from pytest_iommu.compare.printed_rules import Finding, findings
from pytest_iommu.core.model import Entry, Kind
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.vtd import VTD
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS

if TYPE_CHECKING:
    from pytest_iommu.core.printed import Table
    from pytest_iommu.core.protocol import Op, Result
    from pytest_iommu.oracle import Expected
    from pytest_iommu.oracle.iommu import Iommu

SHOWN = 5
"""Maximum number of findings to show."""
NAME = "domain_translation_struct"
WITNESS = "as mapped"


def path_of(address: str) -> str:
    """Return the path of the file of the device with that PCI address, with or without a segment."""
    return f"{DEBUGFS}/intel/{address if address.count(':') > 1 else f'0000:{address}'}/{NAME}"


@dataclass(frozen=True, slots=True)
class VtdFile:
    """The file of one device on a domain."""

    device: str
    domain: str
    file: str
    expected: Expected

    @property
    def ops(self) -> Sequence[Op]:
        """What reads it."""
        return [ops.read_file(self.file)]

    def check(self, results: Sequence[Result], iommu: Iommu, files: dict[str, bytes]) -> list[CheckFailed]:
        """Judge the text, also by what our dump says of the domain in ``files``, by file name, if it is there."""
        (first,) = results
        if not first.ok:
            if first.value == -errno.ENOENT:
                return []
            what = f"reading {self.file} fails with {ops.errno_name(first.value)}"
            return [CheckFailed(what, ("LAY-1",), verdict=Verdict.DUMP, domains=(self.domain,))]
        files[f"{self.domain}.{self.device}.{NAME}.txt"] = first.data
        text = ops.text_of(first)
        dumped = files.get(f"{self.domain}.entries.txt", b"").decode(errors="replace")
        entries = IO_PTDUMP.read({"entries": dumped})[0].entries if dumped else None
        found = list(dict.fromkeys(self._findings(text, iommu, entries)))
        if not found:
            return []
        rules = tuple(dict.fromkeys(one.rule for one in found))
        lines = [f"  {one}" for one in found[:SHOWN]]
        lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        what = "\n".join([f"domain {self.domain}: VT-d's own dump of {self.device} is wrong:", *lines])
        return [CheckFailed(what, rules[:1], rules[1:], verdict=Verdict.DUMP, domains=(self.domain,))]

    def _findings(self, text: str, iommu: Iommu, entries: Sequence[Entry] | None) -> Iterator[Finding]:
        try:
            dump = VTD.parse({NAME: text}) if text else None
        except DumpSyntaxError as error:
            yield Finding(error.rule, NAME, error.number, f"{error.why}: {error.line!r}")
            return
        tables = dump.tables if dump is not None else ()
        if dump is None or len(tables) != 1:
            yield Finding("RNG-6", NAME, 1, f"{len(tables)} tables of a device that is on one domain")
            return
        table = tables[0]
        # A row at a wrong IOVA contradicts the rows that belong there, so this comes first.
        yield from strangers(table, self.expected.ranges, WITNESS)
        yield from findings(dump)
        yield from against(table, self.expected.ranges, WITNESS)
        yield from top_against(table, iommu)
        if table.rows and table.format != self.expected.config.format:
            yield Finding("ENT-1", NAME, table.line, f"items of {table.format}, not of {self.expected.config.format}")
        elif entries is not None:
            yield from unlike(table, entries)


def unlike(table: Table, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Compare the items of each row with those of the same path in our dump's entries of the same table."""
    by_level: dict[int, tuple[list[int], list[int]]] = {}
    for one in entries:
        if one.kind in (Kind.LEAF, Kind.TABLE):
            starts, raws = by_level.setdefault(one.level, ([], []))
            starts.append(one.iova)
            raws.append(one.raw)
    for row in table.rows:
        for level, item in zip(range((table.levels or 0) - 1, -1, -1), row.raw, strict=False):
            starts, raws = by_level.get(level, ([], []))
            at = bisect_right(starts, row.first) - 1
            if at < 0 or raws[at] != item:
                theirs = f"0x{raws[at]:016x}" if at >= 0 else "nothing"
                what = f"0x{row.first:x}: the item at level {level} is 0x{item:016x}, in entries {theirs}"
                yield Finding("ENT-1", table.file, row.line, what)
                break
