# SPDX-License-Identifier: GPL-2.0-only
"""What a dump of another kernel can be judged by without a witness: its rows, and the words beside its columns.

The rules are those of abi.md where they mean the same; V1-1 to V1-4 are of docs/io_page_tables.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.core.model import Cd, Kind, Ste, TableConfig, format_size, readable
from pytest_iommu.core.printed import Context, PrintedDump, Row, Stream, Table
from pytest_iommu.dialects import vtd
from pytest_iommu.formats import smmuv3
from pytest_iommu.formats.arm_lpae import GRANULES
from pytest_iommu.formats.base import bits, lg2

NO_DOMAINS = "the text has no Domain lines"
PAGE = 4096
_VTD_ADDRESS = bits(51, 12)
_FIRST_STAGE, _PRESENT = 1, bits(0)
_STE_FIELDS = {
    "valid": "Valid",
    "config": "Config",
    "s1_context_ptr": "S1ContextPtr",
    "s2ttb": "S2TTB",
    "without": "Domain",
}
_CD_FIELDS = {
    "valid": "Valid",
    "asid": "ASID",
    "t0sz": "T0SZ",
    "tg0": "TG0",
    "ips": "IPS",
    "epd0": "EPD0",
    "ttb0": "TTB0",
    "mair": "MAIR",
    "without": "Domain",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``rule`` is broken by that line of that file."""

    rule: str
    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.why}"


def config_of(table: Table) -> TableConfig | None:
    """Return the configuration of a VT-d table, which its rows determine; None for any other."""
    if table.format not in ("vtdss", "x86_64") or table.levels is None:
        return None
    return vtd.config_of(table.format, table.levels)


def findings(dump: PrintedDump) -> list[Finding]:
    """Return what is wrong in a dump by itself, in the order of the files."""
    found: list[Finding] = []
    for table in dump.tables:
        found += _pointer(table)
        found += _rows(table)
        found += _sizes(table)
        found += _flags(table)
        found += _items(table)
    for stream in dump.streams:
        found += _stream(stream)
    found += _contexts(dump)
    found += _headings(dump)
    return found


def unsaid(dump: PrintedDump) -> list[str]:
    """Return what could not be judged because the text does not show it, a few words each."""
    silent = sum(row.mapped is None for table in dump.tables for row in table.rows)
    parts = [f"{silent} rows have neither level nor attributes"] * bool(silent)
    parts += ["rows were left out"] * any(not table.whole for table in dump.tables)
    entries = [one for one in dump.streams if "Valid" in one.lines]
    parts += [NO_DOMAINS] * any("Domain" not in one.lines for one in entries)
    return parts


def _pointer(table: Table) -> Iterator[Finding]:
    if table.pointer:
        yield Finding("V1-4", table.file, table.line, f"the domain is shown as a pointer, {table.pointer}")


def _rows(table: Table) -> Iterator[Finding]:
    """Check the bounds of each row, and the order of all."""
    end, above = -1, 0
    for row in table.rows:
        first, last = row.first, row.last
        if table.points:
            if first % PAGE or (row.oa or 0) % PAGE:
                yield Finding("RNG-4", table.file, row.line, "an address that is not a multiple of 4K")
        elif last < first:
            yield Finding("RNG-2", table.file, row.line, f"ends at 0x{last + 1:x}, before it begins")
            continue
        elif (last + 1) % PAGE or first % PAGE:
            why = f"0x{first:x} to 0x{last + 1:x} is not whole pages; the end is exclusive in this dialect"
            yield Finding("RNG-2", table.file, row.line, why)
        elif row.size is not None and row.size != last - first + 1:
            why = f"size is {format_size(row.size)}, but its bounds give {format_size(last - first + 1)}"
            yield Finding("RNG-4", table.file, row.line, why)
        if first <= end:
            what = "overlaps" if first >= above else "is out of order after"
            yield Finding("RNG-2", table.file, row.line, f"0x{first:x} {what} the row above, which ends at 0x{end:x}")
        end, above = max(end, last), first


def _sizes(table: Table) -> Iterator[Finding]:
    """Check that one granule fits levels, sizes and alignment of all rows."""
    if table.format in ("vtdss", "x86_64"):
        for row in table.rows:
            size = row.leaf or PAGE
            if table.levels is not None and row.first >> 12 + 9 * table.levels:
                why = f"0x{row.first:x} is beyond what {table.levels} levels translate"
                yield Finding("RNG-2", table.file, row.line, why)
            if row.first % size:
                yield Finding(
                    "LVL-2", table.file, row.line, f"0x{row.first:x} is not a multiple of {format_size(size)}"
                )
            if (row.oa or 0) % size:
                yield Finding(
                    "RNG-4", table.file, row.line, f"OA 0x{row.oa:x} is not a multiple of {format_size(size)}"
                )
        return
    left = list(GRANULES)
    for row in table.rows:
        size = row.last - row.first + 1
        if row.level is None or not row.mapped or size <= 0 or size % PAGE:
            continue
        fitting = [granule for granule in left if _fits(table, row, size, granule)]
        if not fitting:
            shown = format_size(size)
            why = (
                f"{shown} at 0x{row.first:x} is no leaf of level {row.level}"
                if table.leaves
                else (f"{shown} at 0x{row.first:x} does not consist of leaves of level {row.level}")
            )
            known = f" with a granule of {' or '.join(map(format_size, left))}"
            yield Finding("LVL-2" if table.leaves else "LVL-1", table.file, row.line, why + known)
            continue
        left = fitting


def _fits(table: Table, row: Row, size: int, granule: int) -> bool:
    assert row.level is not None
    leaf = granule << (lg2(granule) - 3) * row.level
    if row.first % leaf:
        return False
    return size == leaf if table.leaves else not size % leaf


def _flags(table: Table) -> Iterator[Finding]:
    """Check flags against one another: those of v1, and BLK of arm64's dumps."""
    for row in table.rows:
        flags = row.flags
        if table.leaves and table.format is not None and table.format.startswith("arm") and row.prot is None:
            shared = [flag for flag in flags if flag.startswith("SH_")]
            if len(shared) != 1:
                why = f"{' and '.join(shared)} are values of one field" if shared else "no SH_ value is shown"
                yield Finding("V1-1", table.file, row.line, why)
            if table.stage == 2 and "NS" in flags:
                yield Finding("V1-2", table.file, row.line, "NS at stage 2, which has no such bit")
            if "V" not in flags:
                yield Finding("PRT-3", table.file, row.line, "a leaf without V")
        elif table.by_columns and row.mapped and row.level is not None and ("BLK" in flags) is (row.level == 0):
            what = "pages cannot be BLK" if row.level == 0 else f"a leaf at level {row.level} must be BLK"
            yield Finding("LVL-1", table.file, row.line, what)


def _items(table: Table) -> Iterator[Finding]:
    """Check raw items: each one but the last leads to a table, a slot has one value, a table has one slot."""
    config = config_of(table)
    if config is None or table.levels is None:
        return
    fmt, levels = formats.get(config.format), table.levels
    slots: dict[tuple[int, int], tuple[int, int]] = {}
    tables: dict[int, tuple[int, int]] = {table.top or 0: (levels, 0)}
    before: tuple[int, ...] = ()
    before_slot = -1
    for row in table.rows:
        path, slot = row.raw[:-1], row.first >> 12 + 9 * ((row.level or 0) + 1)
        if path == before and slot == before_slot:
            continue
        before, before_slot = path, slot
        for at, item in enumerate(path):
            level = levels - 1 - at
            here = level, row.first >> 12 + 9 * level
            if here in slots:
                known, line = slots[here]
                if known != item:
                    why = f"the item at level {level} is 0x{item:016x}, in line {line} it is 0x{known:016x}"
                    yield Finding("ENT-1", table.file, row.line, why)
                continue
            slots[here] = item, row.line
            if fmt.kind(config, level, item) is not Kind.TABLE:
                why = f"0x{item:016x} at level {level} leads to no table"
                yield Finding("ENT-1", table.file, row.line, why)
                continue
            address = fmt.unpack(config, item)
            if address in tables:
                yield Finding("ENT-1", table.file, row.line, f"two items lead to the table at 0x{address:x}")
            tables[address] = here


def _stream(stream: Stream) -> Iterator[Finding]:
    """Check the columns of an STE or CD against its words (STE-2), and what stands for a domain (STE-3)."""
    entry = stream.entry
    fields = _STE_FIELDS if isinstance(entry, Ste) else _CD_FIELDS
    if isinstance(entry, Ste):
        decoded: Ste | Cd = smmuv3.decode_ste(entry.sid, entry.words)
    else:
        decoded = smmuv3.decode_cd(entry.sid, entry.ssid, entry.words)
    for name, shown in fields.items():
        have, want = getattr(entry, name), getattr(decoded, name)
        if shown in stream.lines and have != want:
            why = f"{shown} is {readable(name, have)}, but the words say {readable(name, want)}"
            yield Finding("STE-3" if shown == "Domain" else "STE-2", stream.file, stream.lines[shown], why)


def _contexts(dump: PrintedDump) -> Iterator[Finding]:
    """Check the rows of dmar_translation_struct, and the tops of tables against them."""
    before: Context | None = None
    for row in dump.contexts:
        if before is not None and before.iommu == row.iommu and _place(before) >= _place(row):
            yield Finding("STE-2", row.file, row.line, f"{row.device} PASID {row.pasid} is out of order")
        before = row
        entries = [("root", row.root[-1]), ("context", row.context[-1])]
        entries += [("PASID", row.entry[-1])] if row.pasid >= 0 else []
        for name, word in entries:
            if not word & _PRESENT:
                yield Finding("STE-2", row.file, row.line, f"the {name} entry 0x{word:016x} is not present")
        if row.pasid < 0 and any(row.entry):
            yield Finding("STE-2", row.file, row.line, "a PASID entry without a PASID")


def _place(row: Context) -> tuple[str, int]:
    return row.device, row.pasid


def _headings(dump: PrintedDump) -> Iterator[Finding]:
    """Check the top of each VT-d table against the entry of its device."""
    tops = {(row.device, row.pasid): row for row in dump.contexts}
    for table in dump.tables:
        if config_of(table) is None or table.top is None:
            continue
        if table.top % PAGE:
            yield Finding("INF-3", table.file, table.line, f"the top, 0x{table.top:x}, is not the address of a table")
        row = tops.get((table.name.partition(":")[2], -1 if table.pasid is None else table.pasid))
        top = None if row is None else _top(row)
        if row is not None and top is not None and top != table.top:
            why = f"the top is 0x{table.top:x}, but 0x{top:x} in {row.file}:{row.line}"
            yield Finding("INF-3", table.file, table.line, why)


def _top(row: Context) -> int | None:
    """The page table that hardware walks; None if there is none (pass-through)."""
    if row.pasid < 0:
        return row.context[-1] & _VTD_ADDRESS if row.context[-1] >> 2 & 3 in (0, 1) else None
    kind = row.entry[-1] >> 6 & 7
    if kind in (2, 3):
        return row.entry[-1] & _VTD_ADDRESS
    return row.entry[0] & _VTD_ADDRESS if kind == _FIRST_STAGE else None
