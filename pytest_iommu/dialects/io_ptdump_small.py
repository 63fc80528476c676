# SPDX-License-Identifier: GPL-2.0-only
"""The two small files of the io_ptdump dialect: info and stats."""

from __future__ import annotations

import re

from pytest_iommu.core.model import Info, LevelStats, Stats, format_size, parse_size
from pytest_iommu.dialects.dialect import DumpSyntaxError

#: the keys of info in order, each with the rule that it is under
INFO_KEYS = {
    "format": "INF-1",
    "type": "INF-2",
    "aperture": "INF-2",
    "page_sizes": "INF-2",
    "levels": "INF-3",
    "top": "INF-3",
}
_VALUES = {
    "format": r"[a-z0-9_]+",
    "type": r"unmanaged|dma|dma-fq",
    "aperture": r"0x[0-9a-f]{16}-0x[0-9a-f]{16}",
    "page_sizes": r"[1-9][0-9]*[KMGTP]?(?: [1-9][0-9]*[KMGTP]?)*",
    "levels": r"[1-9]",
    "top": r"0x[0-9a-f]{16}",
}
STATS_HEADER = ("level", "tables", "leaves", "bytes")


def parse_info(text: str, errors: list[DumpSyntaxError]) -> Info | None:
    """Parse the info file; None if a key is missing or unreadable."""
    before = len(errors)
    values: dict[str, str] = {}
    lines = text.split("\n")
    if lines.pop():
        errors.append(DumpSyntaxError("INF-3", "info", len(lines) + 1, text.split("\n")[-1], "the file is truncated"))
    for number, line in enumerate(lines, 1):
        key, colon, value = line.partition(": ")
        # a kernel may say more than this version knows, after what it knows
        wanted = list(INFO_KEYS)[number - 1] if number <= len(INFO_KEYS) else "a key and its value"
        if not colon or (key != wanted and (number <= len(INFO_KEYS) or key in INFO_KEYS)):
            rule = INFO_KEYS.get(wanted, INFO_KEYS.get(key, "INF-1"))
            errors.append(DumpSyntaxError(rule, "info", number, line, f"expected {wanted} here"))
        if key in _VALUES:
            if not re.fullmatch(_VALUES[key], value):
                errors.append(DumpSyntaxError(INFO_KEYS[key], "info", number, line, f"not a valid value of {key}"))
            values[key] = value
    for key in INFO_KEYS:
        if key not in values and len(errors) == before:
            errors.append(DumpSyntaxError(INFO_KEYS[key], "info", len(lines), "", f"{key} is missing"))
    try:
        first, last = values["aperture"].split("-")
        sizes = tuple(parse_size(word) for word in values["page_sizes"].split())
        if " ".join(format_size(size) for size in sizes) != values["page_sizes"]:
            why = "sizes are not in the largest unit"
            errors.append(DumpSyntaxError("INF-2", "info", 4, f"page_sizes: {values['page_sizes']}", why))
        return Info(
            values["format"],
            values["type"],
            (int(first, 16), int(last, 16)),
            sizes,
            int(values["levels"]),
            int(values["top"], 16),
        )
    except (KeyError, ValueError):
        return None


def render_info(info: Info) -> str:
    """Render the info file."""
    first, last = info.aperture
    sizes = " ".join(format_size(size) for size in info.page_sizes)
    return (
        f"format: {info.format}\ntype: {info.type}\naperture: 0x{first:016x}-0x{last:016x}\n"
        f"page_sizes: {sizes}\nlevels: {info.levels}\ntop: 0x{info.top:016x}\n"
    )


def parse_stats(text: str, errors: list[DumpSyntaxError]) -> Stats | None:
    """Parse the stats file; None if it is unreadable."""
    lines = text.split("\n")
    if lines.pop() or not lines:
        errors.append(DumpSyntaxError("ENT-2", "stats", len(lines) + 1, text.split("\n")[-1], "the file is truncated"))
        return None
    if tuple(lines[0].split()) != STATS_HEADER:
        errors.append(DumpSyntaxError("ENT-2", "stats", 1, lines[0], "not the header `level tables leaves bytes`"))
        return None
    rows: list[LevelStats] = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        total = number == len(lines)
        numbers = all(word.isdigit() for word in words[total:])
        if len(words) != 4 or (words[0] == "total") is not total or not numbers:
            why = "not `level tables leaves bytes` or, at the end, `total ...`"
            errors.append(DumpSyntaxError("ENT-2", "stats", number, line, why))
            return None
        rows.append(LevelStats(-1 if total else int(words[0]), int(words[1]), int(words[2]), int(words[3])))
    if not rows:
        errors.append(DumpSyntaxError("ENT-2", "stats", 1, lines[0], "no line `total`"))
        return None
    return Stats(tuple(rows[:-1]), rows[-1])


def render_stats(stats: Stats) -> str:
    """Render the stats file."""
    rows = [*stats.levels, stats.total]
    body = (f"{'total' if r.level < 0 else r.level} {r.tables} {r.leaves} {r.bytes}\n" for r in rows)
    return " ".join(STATS_HEADER) + "\n" + "".join(body)
