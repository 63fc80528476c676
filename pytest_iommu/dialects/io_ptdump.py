# SPDX-License-Identifier: GPL-2.0-only
"""The io_ptdump dialect: debugfs/iommu/domains/<id>/{info,page_table,entries,stats} as docs/abi.md defines them.

Grammar, one line each (columns are parted by one space; %8s pads on the left, %-5s and %-2s on the right):

    page_table  0x<first> - 0x<last> 0x<OA> <size %8s> <level> <leaf %8s> <prot> {flag}
    entries     <level> 0x<IOVA> <kind %-5s> <leaf %-2s> 0x<address> raw 0x<raw> [<prot> {flag}]
    stats       header, <level> <tables> <leaves> <bytes> from the top down, total <tables> <leaves> <bytes>
    info        key: value, six keys in order
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache

from pytest_iommu.core.model import Dump, Entry, Kind, Prot, Range, format_size, parse_size
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.io_ptdump_small import parse_info, parse_stats, render_info, render_stats

_WORDS = r"((?: [A-Za-z0-9_]+)*)"
_PROT = r"([r-][w-][x-][c-][m-][p-])"
_SIZE = r"[1-9][0-9]*[KMGTP]?"
RANGE = re.compile(
    rf"0x([0-9a-f]{{16}})-0x([0-9a-f]{{16}}) 0x([0-9a-f]{{16}}) ( *{_SIZE}) ([0-9]) ( *{_SIZE}) {_PROT}{_WORDS}"
)
ENTRY = re.compile(
    rf"([0-9]) 0x([0-9a-f]{{16}}) (table|leaf |part |bad  |empty) (- |{_SIZE} ?) 0x([0-9a-f]{{16}}) "
    rf"raw 0x([0-9a-f]{{16}})(?: {_PROT}{_WORDS})?"
)
_KINDS = {"table": Kind.TABLE, "leaf ": Kind.LEAF, "part ": Kind.PART, "bad  ": Kind.BAD, "empty": Kind.EMPTY}
_HEX = re.compile(r"0x[0-9a-f]{16}")
_ALIGNED = "right-aligned in 8 columns"


@lru_cache(maxsize=4096)
def size_text(size: int) -> str:
    """Render a size as in the dump (RNG-4)."""
    return format_size(size)


@lru_cache(maxsize=4096)
def _padded(size: int) -> str:
    """Render a size in its 8 columns of page_table."""
    return f"{format_size(size):>8}"


@lru_cache(maxsize=4096)
def _size_value(text: str) -> int:
    return parse_size(text)


@lru_cache(maxsize=1024)
def _tail(prot: Prot, flags: tuple[str, ...]) -> str:
    """Render prot and flags, the end of a line."""
    return " ".join((str(prot), *flags))


@lru_cache(maxsize=1024)
def _prot(text: str) -> Prot:
    return Prot.parse(text)


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class IoPtdump:
    """The dialect of the reference implementation."""

    name = "io_ptdump"
    place = "domains/{domain}/{file}"
    files: tuple[str, ...] = ("info", "page_table", "entries", "stats")

    def probe(self, names: Set[str]) -> bool:
        """True for the names of debugfs/iommu, or of one domain's directory."""
        return "domains" in names or {"page_table", "entries"} <= names

    def parse(self, texts: Mapping[str, str]) -> Dump:
        dump, errors = self.read(texts)
        if errors:
            raise errors[0]
        return dump

    def read(self, texts: Mapping[str, str]) -> tuple[Dump, list[DumpSyntaxError]]:
        errors: list[DumpSyntaxError] = []
        info = parse_info(texts["info"], errors) if "info" in texts else None
        ranges = tuple(parse_ranges(texts["page_table"], errors)) if "page_table" in texts else None
        entries = tuple(parse_entries(texts["entries"], errors)) if "entries" in texts else None
        stats = parse_stats(texts["stats"], errors) if "stats" in texts else None
        return Dump(info, ranges, entries, stats, dict(texts)), errors


def split_lines(file: str, rule: str, text: str, errors: list[DumpSyntaxError]) -> list[str]:
    """Return the lines of a file; a last line without a newline is reported and kept."""
    lines = text.split("\n")
    last = lines.pop()
    if last:
        lines.append(last)
        errors.append(
            DumpSyntaxError(rule, file, len(lines), last, "the last line has no newline: the file is truncated")
        )
    return lines


def parse_ranges(text: str, errors: list[DumpSyntaxError]) -> Iterable[Range]:
    """Parse the lines of page_table; faults of a line go to ``errors`` with the rule of the column."""
    match_line = RANGE.fullmatch
    rows: list[Range] = []
    for number, line in enumerate(split_lines("page_table", "RNG-2", text, errors), 1):
        match = match_line(line)
        if match is None:
            row = _range_from_bad(number, line, errors)
            if row is not None:
                rows.append(row)
            continue
        first_text, last_text, oa, size, level, leaf_text, prot, words = match.groups()
        first, last, leaf = int(first_text, 16), int(last_text, 16), _size_value(leaf_text)
        rows.append(Range(first, last, int(oa, 16), int(level), leaf, _prot(prot), _words(words)))
        if size != _padded(last - first + 1):
            wanted = size_text(last - first + 1)
            what = f"{wanted}, which first and last give" if size.strip() != wanted else _ALIGNED
            errors.append(DumpSyntaxError("RNG-4", "page_table", number, line, f"size is not {what}"))
        if leaf_text != _padded(leaf):
            wanted = size_text(leaf)
            rule = "RNG-4" if leaf_text.strip() != wanted else "LVL-2"
            what = f"{wanted}, in the largest unit" if rule == "RNG-4" else _ALIGNED
            errors.append(DumpSyntaxError(rule, "page_table", number, line, f"leaf is not {what}"))
    return rows


def parse_entries(text: str, errors: list[DumpSyntaxError]) -> Iterable[Entry]:
    """Parse the lines of entries; faults of a line go to ``errors`` with the rule of the column."""
    match_line = ENTRY.fullmatch
    rows: list[Entry] = []
    for number, line in enumerate(split_lines("entries", "ENT-1", text, errors), 1):
        match = match_line(line)
        if match is None:
            rule, why = _entry_fault(line)
            errors.append(DumpSyntaxError(rule, "entries", number, line, why))
            continue
        level, iova, kind_text, size_word, address, raw, prot, words = match.groups()
        kind = _KINDS[kind_text]
        leaf = kind is Kind.LEAF
        if leaf is (size_word == "- ") or leaf is (prot is None):
            why = "leaves, and no other entries, have size and prot"
            errors.append(DumpSyntaxError("ENT-1", "entries", number, line, why))
            continue
        size = None
        if leaf:
            size = _size_value(size_word.strip())
            if size_word != f"{size_text(size):<2}":
                wanted = size_text(size)
                what = f"{wanted}, in the largest unit" if size_word.strip() != wanted else "left-aligned in 2 columns"
                why = f"leaf size is not {what}"
                errors.append(DumpSyntaxError("RNG-4", "entries", number, line, why))
        rows.append(
            Entry(
                int(level),
                int(iova, 16),
                kind,
                size,
                int(address, 16),
                int(raw, 16),
                _prot(prot) if leaf else None,
                _words(words) if leaf else (),
            )
        )
    return rows


def _range_from_bad(number: int, line: str, errors: list[DumpSyntaxError]) -> Range | None:
    """Report the first bad column of a malformed range, and return the range as far as it is readable."""

    def fault(rule: str, why: str) -> None:
        errors.append(DumpSyntaxError(rule, "page_table", number, line, why))

    words = line.split()
    bounds = words[0].split("-") if words else []
    if len(words) < 6 or len(bounds) != 2:
        fault("RNG-2", "not `first-last OA size level leaf prot flags`")
        return None
    columns = (
        ("RNG-2", "first is not 0x and 16 lower-case hex digits", _HEX, bounds[0]),
        ("RNG-2", "last is not 0x and 16 lower-case hex digits", _HEX, bounds[1]),
        ("RNG-4", "OA is not 0x and 16 lower-case hex digits", _HEX, words[1]),
        ("RNG-4", "size is not a number with K M G T or P", re.compile(_SIZE), words[2]),
        ("LVL-1", "level is not a digit", re.compile("[0-9]"), words[3]),
        ("LVL-2", "leaf is not a number with K M G T or P", re.compile(_SIZE), words[4]),
        ("PRT-1", "prot is not six columns rwxcmp", re.compile(_PROT), words[5]),
        ("PRT-3", "flags are not words", re.compile(_WORDS), "".join(f" {word}" for word in words[6:])),
    )
    bad = [(rule, why) for rule, why, pattern, text in columns if not pattern.fullmatch(text)]
    if bad:
        fault(*bad[0])
    else:
        fault("RNG-2", "wrong separation or alignment of columns")
    try:
        return Range(
            int(bounds[0], 16),
            int(bounds[1], 16),
            int(words[1], 16),
            int(words[3]),
            parse_size(words[4]),
            Prot.parse(words[5]),
            tuple(words[6:]),
        )
    except ValueError:
        return None


def _entry_fault(line: str) -> tuple[str, str]:
    words = line.split()
    if len(words) > 7 and words[2:3] == ["leaf"] and not re.fullmatch(_PROT, words[7]):
        return "PRT-1", "prot is not six columns rwxcmp"
    if len(words) > 3 and words[2] == "leaf" and not re.fullmatch(_SIZE, words[3]):
        return "LVL-2", "leaf size is not a number with K M G T or P"
    return "ENT-1", "not `level IOVA kind leaf address raw item [prot flags]`"


def render_range(row: Range) -> str:
    """Render one line of page_table, without newline."""
    first, last = row.first, row.last
    return (
        f"0x{first:016x}-0x{last:016x} 0x{row.oa:016x} {_padded(last - first + 1)} {row.level} "
        f"{_padded(row.leaf)} {_tail(row.prot, row.flags)}"
    )


def render_entry(row: Entry) -> str:
    """Render one line of entries, without newline."""
    size = "-" if row.size is None else size_text(row.size)
    line = f"{row.level} 0x{row.iova:016x} {row.kind.value:<5} {size:<2} 0x{row.oa:016x} raw 0x{row.raw:016x}"
    return line if row.prot is None else f"{line} {_tail(row.prot, row.flags)}"


def render(dump: Dump) -> dict[str, str]:
    """Render the files of a dump as text, as a correct kernel prints it."""
    texts: dict[str, str] = {}
    if dump.info is not None:
        texts["info"] = render_info(dump.info)
    if dump.ranges is not None:
        texts["page_table"] = "".join(f"{render_range(row)}\n" for row in dump.ranges)
    if dump.entries is not None:
        texts["entries"] = "".join(f"{render_entry(row)}\n" for row in dump.entries)
    if dump.stats is not None:
        texts["stats"] = render_stats(dump.stats)
    return texts


IO_PTDUMP = IoPtdump()
