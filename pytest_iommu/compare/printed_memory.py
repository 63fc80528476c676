# SPDX-License-Identifier: GPL-2.0-only
"""A dump of another kernel against memory: tables where hardware finds them, stream entries, flags of leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_iommu.compare.printed_against import against
from pytest_iommu.compare.printed_rules import Finding, config_of
from pytest_iommu.core.model import Cd, Kind, Ste, TableConfig
from pytest_iommu.core.printed import Stream, Table
from pytest_iommu.dialects import io_page_tables
from pytest_iommu.oracle.guest_memory import Walk, walk

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Memory
    from pytest_iommu.oracle.iommu import Iommu
    from pytest_iommu.oracle.stream_table import SmmuV3

_PCI = re.compile(r"(?:[0-9a-f]{4,8}:)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
WITNESS = "in memory"


def requester(name: str) -> int | None:
    """Return the requester id of a PCI function by its name, which is its stream id; None for any other device."""
    found = _PCI.fullmatch(name)
    return None if found is None else int(found[1], 16) << 8 | int(found[2], 16) << 3 | int(found[3])


def walked(table: Table, memory: Memory, iommu: Iommu | None) -> Walk | None:
    """Walk the table that hardware uses: at the top that the text has, or where the entries of its device lead.

    None if neither says where it is, as for a device that is not on the domain at the moment. OutsideMemory if the top
    is not in memory.
    """
    config = config_of(table)
    if config is not None and table.top is not None:
        return walk(memory, config, table.top, table.levels)
    found = _of_hardware(table, iommu)
    return None if found is None else walk(memory, *found)


def _of_hardware(table: Table, iommu: Iommu | None) -> tuple[TableConfig, int] | None:
    """Return the table that the entries of its device lead to; None if there is none, or if it is of a PASID."""
    sid = requester(table.name)
    return None if iommu is None or sid is None or table.pasid else iommu.table(sid)


def top_against(table: Table, iommu: Iommu | None) -> list[Finding]:
    """Compare the top that the text has with where the entries of its device lead."""
    found = _of_hardware(table, iommu)
    if found is None or table.top is None or found[1] == table.top:
        return []
    why = f"the top is 0x{table.top:x}, but the entries of {table.name} lead to 0x{found[1]:x} {WITNESS}"
    return [Finding("INF-3", table.file, table.line, why)]


def table_against(table: Table, found: Walk) -> list[Finding]:
    """Compare all that the rows of a table show with the walk of it."""
    if table.format is not None and table.format != found.config.format:
        return [Finding("LVL-1", table.file, table.line, f"format is {table.format}, {found.config.format} {WITNESS}")]
    return [*against(table, found.ranges, WITNESS), *_flags(table, found), *_points(table, found)]


def _points(table: Table, found: Walk) -> Iterator[Finding]:
    """Compare the addresses of rows that do not say their size with those of the leaves."""
    if not table.points:
        return
    leaves = {one.iova for one in found.entries if one.kind is Kind.LEAF}
    for row in table.rows:
        if row.first not in leaves:
            yield Finding("RNG-1", table.file, row.line, f"no leaf begins at 0x{row.first:x} {WITNESS}")
    if table.whole:
        for address in sorted(leaves - {row.first for row in table.rows}):
            why = f"a leaf begins at 0x{address:x} {WITNESS}, which is in no row"
            yield Finding("RNG-1", table.file, table.line, why)


def _flags(table: Table, found: Walk) -> Iterator[Finding]:
    """Compare the flags of v1's rows with the bits of the leaves."""
    if table.stage is None or not any(row.flags for row in table.rows):
        return
    raw = {one.iova: one.raw for one in found.entries if one.kind is Kind.LEAF}
    for row in table.rows:
        if row.first not in raw:
            continue
        wanted = io_page_tables.flags_of(raw[row.first], table.stage)
        if row.flags != wanted:
            why = f"flags are {' '.join(row.flags)}, {' '.join(wanted)} {WITNESS}"
            yield Finding("PRT-3", table.file, row.line, why)


def stream_against(stream: Stream, smmu: SmmuV3, sid: int) -> list[Finding]:
    """Compare the words of an STE or CD with those in memory."""
    entry = stream.entry
    held, name = (smmu.ste(sid), "STE") if isinstance(entry, Ste) else (smmu.cd(sid, entry.ssid), "CD")
    if held is None:
        if isinstance(entry, Cd) and not entry.valid:
            return []  # of the driver's table, which the stream does not use
        return [Finding("STE-2", stream.file, stream.line, f"stream {sid} has no {name} {WITNESS}")]
    return [
        Finding(
            "STE-2",
            stream.file,
            stream.lines.get(f"{name}[{at}]", stream.line),
            f"{name}[{at}] is 0x{have:016x}, 0x{want:016x} {WITNESS}",
        )
        for at, (have, want) in enumerate(zip(entry.words, held.words, strict=True))
        if have != want
    ]
