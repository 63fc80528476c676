# SPDX-License-Identifier: GPL-2.0-only
"""Compare EXPECTED with DUMPED, and both with IN RAM: find the broken rules, and render the evidence.

The rule closest to the cause is ``primary``. Rules broken as a consequence, or by another file as well, are
``secondary``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pytest_iommu.compare.difference import SILENT, Difference, Rank
from pytest_iommu.compare.entries import (
    agreement,
    entry_differences,
    expected_entry,
    info_differences,
    stats_differences,
)
from pytest_iommu.compare.folded import folded, unfolded
from pytest_iommu.compare.quick import as_expected
from pytest_iommu.compare.ranges import EMPTY, RangeDiffer
from pytest_iommu.compare.table_rules import OF_THE_TEXT, in_memory_only, of_tables, of_the_table
from pytest_iommu.compare.with_memory import as_in_memory, beside_memory, decide, memory_differences
from pytest_iommu.core.model import Dump
from pytest_iommu.core.outcomes import UNSEEN, CheckFailed, Verdict
from pytest_iommu.dialects import IO_PTDUMP, Dialect, DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import render, render_range
from pytest_iommu.oracle import Expected
from pytest_iommu.scenario.schema import ReadHow

LIMIT = 20_000
"""Maximum number of lines of all differences in the file."""
#: rules that only the text can break
_WITHOUT_WITNESS = (*OF_THE_TEXT, Rank.BOUNDS)
_SIZE_FAULTS = ("size is not", "leaf is not", "leaf size is not")
#: a kernel virtual address: 0xffff... on every 64-bit architecture, or the output of %p
_POINTER = re.compile(r"0xff[f0-9a-f]{2}[0-9a-f]{12}\b|\b[0-9a-f]{16}\b|\(_*ptrval_*\)")
_IOVA_COLUMNS = {
    "page_table": re.compile(r"^0x[0-9a-fA-F]+-0x[0-9a-fA-F]+"),
    "entries": re.compile(r"^\d+ 0x[0-9a-fA-F]+|raw 0x[0-9a-fA-F]+"),
    "info": re.compile(r"^aperture: .*"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict on one domain: ``ok``, or the broken rules, the place of the fault, and the text to print.

    ``because`` says in a few words how the verdict is known.
    """

    differences: tuple[Difference, ...] = ()
    verdict: Verdict | None = None
    because: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is no difference."""
        return not self.differences

    @property
    def primary(self) -> str:
        """The rule closest to the cause; empty if there is no difference."""
        return self.rules[0] if self.differences else ""

    @property
    def secondary(self) -> tuple[str, ...]:
        """The other broken rules, closest to the cause first."""
        return self.rules[1:]

    @property
    def rules(self) -> tuple[str, ...]:
        """All broken rules, each once, closest to the cause first."""
        ordered = self._ordered()
        first = dict.fromkeys(difference.rule for difference in ordered)
        return tuple(first | dict.fromkeys(rule for difference in ordered for rule in difference.also))

    @property
    def text(self) -> str:
        """The lines that differ, those of the primary rule first; repeated kinds are folded, further kinds counted."""
        return "\n".join(folded(self._ordered()))

    @property
    def everything(self) -> str:
        """All lines that differ, up to LIMIT, for a file."""
        return "".join(f"{line}\n" for line in islice(unfolded(self._ordered()), LIMIT))

    def failure(
        self, head: str = "", domains: tuple[str, ...] = (), files: dict[str, bytes] | None = None
    ) -> CheckFailed:
        """Return the comparison as a failure; ``head`` precedes the text."""
        return CheckFailed(
            head + self.text,
            (self.primary,),
            self.secondary,
            files,
            verdict=self.verdict,
            because=self.because,
            domains=domains,
        )

    def _ordered(self) -> list[Difference]:
        return sorted(self.differences, key=lambda difference: difference.rank)


def compare(
    expected: Expected,
    texts: Mapping[str, str],
    dialect: Dialect = IO_PTDUMP,
    memory: Mapping[str, str] | None = None,
    unmapped: bool = False,
) -> Comparison:
    """Compare the files of one domain (name -> text; absent ones are skipped) with the expected ones.

    ``memory`` has the same files as derived from the guest's RAM (oracle.guest_memory), None if it was not examined.
    What is wrong in memory breaks rules of the page table (docs/tables.md): ``unmapped`` says that something was
    unmapped before. Without texts (a kernel without a dump) memory alone is compared.
    """
    if not dialect.files:
        return compare_table(expected, memory, unmapped)
    as_wanted = dialect is IO_PTDUMP and as_expected(expected, texts)
    if as_wanted and (memory is None or as_in_memory(texts, memory)):
        return Comparison()
    dump, errors = dialect.read(texts)
    found = list(_pointers(texts))
    found += _syntax(expected, texts, errors)
    found += compare_dump(expected, dump)
    shown = _as_printed(found, texts)
    if memory is None:
        return Comparison(shown, *_without_memory(shown))
    beside = tuple(beside_memory(shown, memory)) if found else tuple(memory_differences(texts, memory))
    if not beside:
        return Comparison()
    verdict, because = decide(expected, texts, memory, shown)
    if verdict in (Verdict.MAPPING, Verdict.BOTH):
        beside = of_the_table(beside, unmapped, both=verdict is Verdict.BOTH)
    return Comparison(beside, verdict, because)


def compare_table(expected: Expected, memory: Mapping[str, str] | None, unmapped: bool = False) -> Comparison:
    """Compare the page table in the guest's memory with what is expected; nothing where memory cannot be read."""
    texts = of_tables(memory or {})
    if not texts or as_expected(expected, texts):
        return Comparison()
    dump, _ = IO_PTDUMP.read(texts)
    found = in_memory_only(_as_printed(compare_dump(expected, dump), texts))
    return Comparison(of_the_table(found, unmapped), Verdict.MAPPING, "this kernel has no dump")


def _without_memory(found: Sequence[Difference]) -> tuple[Verdict | None, str]:
    """Return the verdict without memory: a text that breaks its own grammar needs no witness."""
    if not found:
        return None, ""
    if min(one.rank for one in found) in _WITHOUT_WITNESS:
        return Verdict.DUMP, "whatever memory holds"
    return Verdict.UNDECIDED, UNSEEN


def expected_texts(expected: Expected) -> dict[str, str]:
    """Return the expected page_table, entries and stats, to show beside a dump; tables may have any address."""
    texts = render(Dump(None, expected.ranges, None, expected.stats))
    return texts | {"entries": "".join(f"{expected_entry(entry)}\n" for entry in expected.entries)}


def _as_printed(found: Sequence[Difference], texts: Mapping[str, str]) -> tuple[Difference, ...]:
    """Show the lines of page_table as the kernel wrote them, instead of parsing and rendering them."""
    lines: dict[str, list[str]] = {}
    for line in texts.get("page_table", "").splitlines():
        lines.setdefault(_begins("page_table", line).lower(), []).append(line)

    def printed(difference: Difference) -> Difference:
        text = difference.dumped
        if difference.file != "page_table" or text is None or text == SILENT:
            return difference
        written = lines.get(_begins("page_table", text), [])
        # If several lines begin at the same address, only their words identify the right one.
        same = text in written or len(written) != 1
        return difference if same else replace(difference, dumped=written[0])

    return tuple(printed(difference) for difference in found)


def compare_dump(expected: Expected, dump: Dump) -> list[Difference]:
    """Compare a parsed dump; parts that are None are skipped."""
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
        found.append(Difference("RNG-6", Rank.NOT_EMPTY, "page_table", EMPTY, None, text))
    return found


def compare_reads(file: str, want: str, got: Sequence[str], how: ReadHow) -> Comparison:
    """Check CON-10: the pieces of a file against the same file read at once.

    ``got`` are the texts of the reads of ``how``: one for chunk, one per thread for parallel, one per offset for pread
    and lseek.
    """
    raw = want.encode()
    wanted = [want] * (how.threads or 1)
    if how.kind in ("pread", "lseek"):
        wanted = [raw[at : at + how.size].decode(errors="replace") for at in how.offsets]
        # seq_file returns whole records: a read may return less than requested, but not nothing
        short = {number: len(piece) for number, piece in enumerate(got) if piece}
        wanted = [text[: short.get(number)] for number, text in enumerate(wanted)]
    pairs = enumerate(zip(wanted, got, strict=False))
    found = [_piece(file, how, number, *pair) for number, pair in pairs if pair[0] != pair[1]]
    if len(wanted) != len(got):
        found.append(Difference("CON-10", Rank.UNREADABLE, file, f"{len(got)} pieces instead of {len(wanted)}"))
    return (
        Comparison(tuple(found), Verdict.DUMP, "the same file, read in another way, has another text")
        if found
        else Comparison()
    )


def _piece(file: str, how: ReadHow, number: int, want: str, have: str) -> Difference:
    same = next((i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
    where = f"{how.chunk} bytes per read"
    if how.offsets or how.threads:
        where = f"offset {how.offsets[number]}" if how.offsets else f"reader {number}"
    why = f"{how.kind}, {where}: {len(have)} bytes, expected {len(want)}; first difference at byte {same}"
    line = want.rfind("\n", 0, same) + 1
    left, right = (text[line:].partition("\n")[0] or None for text in (want, have))
    return Difference("CON-10", Rank.UNREADABLE, file, why, left, right)


def _syntax(expected: Expected, texts: Mapping[str, str], errors: Sequence[DumpSyntaxError]) -> Iterator[Difference]:
    """Report lines that break the grammar, each beside the expected line with the same beginning."""
    wanted: dict[tuple[str, str], str] = {}
    if errors:
        wanted |= {("page_table", _begins("page_table", line)): line for line in map(render_range, expected.ranges)}
        wanted |= {("entries", _begins("entries", line)): line for line in map(expected_entry, expected.entries)}
    for error in errors:
        # A size that contradicts its line may follow from a wrong last; anything else is the fault itself.
        rank = Rank.SIZE_TEXT if error.why.startswith(_SIZE_FAULTS) else Rank.UNREADABLE
        if error.file == "info" and "largest unit" in error.why:
            rank = Rank.INFO
        want = wanted.get((error.file, _begins(error.file, error.line)), SILENT)
        why = f"line {error.number}: {error.why}"
        if want == error.line:  # the words are right, only the line's end is wrong: there is nothing to compare
            yield Difference(error.rule, rank, error.file, why, dumped=error.line, alone=True)
        elif error.line not in texts[error.file].splitlines():  # an error about a missing line
            yield Difference(error.rule, rank, error.file, why)
        else:
            yield Difference(error.rule, rank, error.file, why, want, error.line)


def _begins(file: str, line: str) -> str:
    """Return the words that identify the subject of a line."""
    return line.partition("-")[0] if file == "page_table" else " ".join(line.split()[:3])


def _pointers(texts: Mapping[str, str]) -> Iterator[Difference]:
    for file, text in texts.items():
        if not _POINTER.search(text):
            continue
        exempt = _IOVA_COLUMNS.get(file)
        for line in text.splitlines():
            match = _POINTER.search(exempt.sub("", line) if exempt else line)
            if match is not None:
                why = f"{match[0]} looks like a kernel pointer"
                yield Difference("LAY-6", Rank.POINTER, file, why, dumped=line)
