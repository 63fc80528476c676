# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED against DUMPED, and both against IN RAM: which rules are broken, and the text that shows it.

The rule named first (``primary``) is the one nearest to the cause; what follows from it, or is said by another file
too, is ``secondary``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_iommu.dialects import IO_PTDUMP, Dialect, DumpSyntaxError
from pytest_iommu.model import Dump
from pytest_iommu.oracle import Expected
from pytest_iommu.report.difference import Difference, Rank
from pytest_iommu.report.entries import agreement, entry_differences, info_differences, stats_differences
from pytest_iommu.report.memory import as_in_memory, beside_memory, conclusion, memory_differences
from pytest_iommu.report.quick import as_expected
from pytest_iommu.report.ranges import RangeDiffer
from pytest_iommu.scenario.schema import HandLine, ReadHow

SHOWN = 20
_SIZE_FAULTS = ("size is not", "leaf is not", "leaf size is not")
#: a kernel virtual address: 0xffff... on every 64-bit architecture, or what %p prints
_POINTER = re.compile(r"0xff[f0-9a-f]{2}[0-9a-f]{12}\b|\b[0-9a-f]{16}\b|\(_*ptrval_*\)")
_IOVA_COLUMNS = {
    "page_table": re.compile(r"^0x[0-9a-fA-F]+-0x[0-9a-fA-F]+"),
    "entries": re.compile(r"^\d+ 0x[0-9a-fA-F]+|raw 0x[0-9a-fA-F]+"),
    "info": re.compile(r"^aperture: .*"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict on one domain: ``ok``, or the rules broken and the text to print."""

    differences: tuple[Difference, ...] = ()
    conclusion: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    @property
    def primary(self) -> str:
        """The rule nearest to the cause; empty when nothing differs."""
        return self.rules[0] if self.differences else ""

    @property
    def secondary(self) -> tuple[str, ...]:
        """The other rules that are broken, nearest to the cause first."""
        return self.rules[1:]

    @property
    def rules(self) -> tuple[str, ...]:
        """All rules that are broken, each once, nearest to the cause first."""
        ordered = sorted(self.differences, key=lambda difference: difference.rank)
        first = dict.fromkeys(difference.rule for difference in ordered)
        return tuple(first | dict.fromkeys(rule for difference in ordered for rule in difference.also))

    @property
    def text(self) -> str:
        """At most 20 differences, those of the primary rule first, then how many more there are."""
        if not self.differences:
            return ""
        lines = [f"breaks {self.primary}" + (f"; also breaks {' '.join(self.secondary)}" if self.secondary else "")]
        ordered = sorted(self.differences, key=lambda difference: difference.rank)
        for difference in ordered[:SHOWN]:
            lines += difference.lines()
        if len(ordered) > SHOWN:
            lines.append(f"... and {len(ordered) - SHOWN} more differences")
        if self.conclusion:
            lines.append(self.conclusion)
        return "\n".join(lines)


def compare(
    expected: Expected,
    texts: Mapping[str, str],
    dialect: Dialect = IO_PTDUMP,
    hand: Sequence[HandLine] | None = None,
    memory: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare the files of one domain (name -> text; absent ones are not compared) with what is expected.

    ``memory`` are the same files as they follow from the guest's RAM (oracle.guest_memory), None where nobody looked.
    """
    as_wanted = dialect is IO_PTDUMP and as_expected(expected, texts)
    if as_wanted and (memory is None or as_in_memory(texts, memory)):
        return Comparison()
    dump, errors = dialect.read(texts)
    found = list(_pointers(texts))
    found += [_syntax(error) for error in errors]
    found += compare_dump(expected, dump)
    if hand is not None and not found:
        found += _by_hand(hand, dump)
    shown = _as_printed(found, texts)
    if memory is None:
        return Comparison(shown)
    if not found:
        return Comparison(tuple(memory_differences(texts, memory)), "the dump agrees with itself, but not with memory")
    return Comparison(tuple(beside_memory(shown, memory)), conclusion(expected, texts, memory))


def _as_printed(found: Sequence[Difference], texts: Mapping[str, str]) -> tuple[Difference, ...]:
    """Show the lines of page_table as the kernel wrote them, not as they read once they are parsed."""
    lines = {line.partition("-")[0]: line for line in texts.get("page_table", "").splitlines()}

    def printed(difference: Difference) -> Difference:
        if difference.file != "page_table" or difference.dumped is None:
            return difference
        return replace(difference, dumped=lines.get(difference.dumped.partition("-")[0], difference.dumped))

    return tuple(printed(difference) for difference in found)


def compare_dump(expected: Expected, dump: Dump) -> list[Difference]:
    """Compare a parsed dump; parts that are None are not compared."""
    found: list[Difference] = []
    if dump.ranges is not None:
        found += RangeDiffer(expected, dump.ranges).differences()
    if dump.entries is not None:
        found += entry_differences(expected, dump.entries)
    found += stats_differences(expected, dump)
    found += agreement(expected, dump)
    found += info_differences(expected, dump)
    if dump.ranges == () and not expected.ranges and dump.texts.get("page_table"):
        text = dump.texts["page_table"].splitlines()[0]
        found.append(Difference("RNG-6", Rank.NOT_EMPTY, "page_table", "the table is empty", None, text))
    return found


def compare_reads(file: str, want: str, got: Sequence[str], how: ReadHow) -> Comparison:
    """CON-10: the pieces of a file against the same file read at once.

    ``got`` is what the reads of ``how`` gave: chunk one text, parallel one a thread, pread and lseek one an offset.
    """
    raw = want.encode()
    wanted = [want] * (how.threads or 1)
    if how.kind in ("pread", "lseek"):
        wanted = [raw[at : at + how.size].decode(errors="replace") for at in how.offsets]
        # seq_file hands out whole records: one read may give less than it was asked for, but not nothing
        short = {number: len(piece) for number, piece in enumerate(got) if piece}
        wanted = [text[: short.get(number)] for number, text in enumerate(wanted)]
    pairs = enumerate(zip(wanted, got, strict=False))
    found = [_piece(file, how, number, *pair) for number, pair in pairs if pair[0] != pair[1]]
    if len(wanted) != len(got):
        found.append(Difference("CON-10", Rank.UNREADABLE, file, f"{len(got)} pieces instead of {len(wanted)}"))
    return Comparison(tuple(found))


def _piece(file: str, how: ReadHow, number: int, want: str, have: str) -> Difference:
    same = next((i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
    where = f"{how.chunk} bytes a read"
    if how.offsets or how.threads:
        where = f"offset {how.offsets[number]}" if how.offsets else f"reader {number}"
    why = f"{how.kind}, {where}: {len(have)} bytes instead of {len(want)}, differing from byte {same} on"
    line = want.rfind("\n", 0, same) + 1
    left, right = (text[line:].partition("\n")[0] or None for text in (want, have))
    return Difference("CON-10", Rank.UNREADABLE, file, why, left, right)


def _syntax(error: DumpSyntaxError) -> Difference:
    # A size that contradicts its line may be the consequence of a wrong last; anything else is the fault itself.
    rank = Rank.SIZE_TEXT if error.why.startswith(_SIZE_FAULTS) else Rank.UNREADABLE
    if error.file == "info" and "largest unit" in error.why:
        rank = Rank.INFO
    return Difference(error.rule, rank, error.file, f"line {error.number}: {error.why}", None, error.line)


def _pointers(texts: Mapping[str, str]) -> Iterator[Difference]:
    for file, text in texts.items():
        if not _POINTER.search(text):
            continue
        exempt = _IOVA_COLUMNS.get(file)
        for line in text.splitlines():
            match = _POINTER.search(exempt.sub("", line) if exempt else line)
            if match is not None:
                why = f"{match[0]} is a kernel address"
                yield Difference("LAY-6", Rank.POINTER, file, why, None, line)


def _by_hand(hand: Sequence[HandLine], dump: Dump) -> Iterator[Difference]:
    for line, row in zip(hand, dump.ranges or (), strict=False):
        want = line.range
        if (want.first, want.last, want.oa, want.prot) != (row.first, row.last, row.oa, row.prot):
            yield Difference("RNG-1", Rank.PRESENCE, "page_table", f"not the hand-written line {line.line}")
