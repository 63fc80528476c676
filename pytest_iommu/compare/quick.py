# SPDX-License-Identifier: GPL-2.0-only
"""Fast path for a dump that matches exactly, by text comparison without parsing.

Everything else takes the slow path of comparison.py, which finds the differences.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_iommu.compare.entries import info_differences
from pytest_iommu.core.model import Dump
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import render_range, size_text
from pytest_iommu.dialects.io_ptdump_small import parse_info, parse_stats
from pytest_iommu.oracle import Expected

_KERNEL_SPACE = 0xFFF << 52
_OPEN = " table -  0x"


def as_expected(expected: Expected, texts: Mapping[str, str]) -> bool:
    """Whether the files (those present) have exactly the expected text."""
    errors: list[DumpSyntaxError] = []
    if "page_table" in texts and texts["page_table"] != "".join(f"{render_range(row)}\n" for row in expected.ranges):
        return False
    if "stats" in texts and (parse_stats(texts["stats"], errors) != expected.stats or errors):
        return False
    addresses: set[int] = set()
    if "entries" in texts and not _entries(expected, texts["entries"], addresses):
        return False
    if "info" not in texts:
        return True
    info = parse_info(texts["info"], errors)
    if info is None or errors or info.top in addresses or info.top >= _KERNEL_SPACE:
        return False
    return not any(info_differences(expected, Dump(info)))


def _entries(expected: Expected, text: str, addresses: set[int]) -> bool:
    """Compare entries; the unknown addresses of tables are collected in ``addresses``."""
    lines = text.split("\n")
    wanted = _wanted(expected)
    if lines.pop() or len(lines) != len(wanted):
        return False
    for (_, below, want), line in zip(wanted, lines, strict=True):
        if line != want and not (want.endswith(_OPEN) and _table(expected, -below, want, line, addresses)):
            return False
    return True


def _wanted(expected: Expected) -> list[tuple[int, int, str]]:
    """Yield the lines of entries in order, as (IOVA, - level, line); the line of a table ends before its address."""
    fmt, config, geometry = expected.format, expected.config, expected.format.geometry(expected.config)
    found: list[tuple[int, int, str]] = []
    for level, numbers in expected.tables.items():
        shift = geometry.item_lg2(level + 1)
        for number in numbers:
            found.append((number << shift, -level - 1, f"{level + 1} 0x{number << shift:016x} table -  0x"))
    for run in expected.runs:
        look, pack = run.attributes, fmt.pack
        kind = f"leaf  {size_text(run.leaf):<2}"
        tail = " ".join((str(look.prot), *look.flags, *look.volatile))
        for at in range(0, run.leaf * run.count, run.leaf):
            iova, oa = run.iova + at, run.oa + at
            item = look.raw | pack(config, oa)
            found.append((iova, -run.level, f"{run.level} 0x{iova:016x} {kind} 0x{oa:016x} raw 0x{item:016x} {tail}"))
    found.sort()
    return found


def _table(expected: Expected, level: int, head: str, line: str, addresses: set[int]) -> bool:
    try:
        address = int(line[len(head) : len(head) + 16], 16)
    except ValueError:
        return False
    raw = expected.format.encode_table(expected.config, level, address)
    if line != f"{head}{address:016x} raw 0x{raw:016x}" or not address or address in addresses:
        return False
    addresses.add(address)
    return expected.format.unpack(expected.config, raw) == address
