# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel prints of its page tables in the form of another dump, judged by itself and against memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.check.spoken import read
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.core.printed import PrintedDump
from pytest_iommu.core.protocol import OutsideMemory

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.compare.printed_rules import Finding
    from pytest_iommu.core.printed import Table
    from pytest_iommu.dialects import TextDialect
    from pytest_iommu.oracle.guest_memory import Walk

TRIES = 8
"""Reads until two that follow each other are the same, so that what is in memory meanwhile is what they show."""
SHOWN = 20
"""Findings that a failure shows."""


@dataclass(frozen=True, slots=True)
class Printed:
    """All that a kernel prints in a dialect: its dumps, and ``walks``, the tables that were found in memory."""

    dumps: tuple[PrintedDump, ...]
    walks: tuple[tuple[Table, Walk], ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for dump in self.dumps for table in dump.tables)


def judge(guest: GuestHandle, dialect: TextDialect) -> Printed:
    """Read and judge it. CheckFailed with the rules that are broken; SetupError if it never is the same twice."""
    texts, printed = _settled(guest, dialect)
    found = list(dict.fromkeys(_findings(guest, printed)))
    if found:
        rules = list(dict.fromkeys(one.rule for one in found))
        # That a row is missing is how other faults show, too.
        rules.sort(key=lambda rule: rule == "RNG-1")
        more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines = [f"{dialect.name} of this kernel:", *map(str, found[:SHOWN]), *more]
        raise CheckFailed(
            "\n".join(lines), (rules[0],), tuple(rules[1:]), _files(texts), verdict=Verdict.DUMP, because="as it reads"
        )
    return printed


def _settled(guest: GuestHandle, dialect: TextDialect) -> tuple[list[dict[str, str]], Printed]:
    before = read(lambda batch: guest.run(batch).results, dialect)
    for _ in range(TRIES):
        dumps = tuple(parsed(dialect, _shown(guest, dialect, texts)) for texts in before if texts)
        walks = tuple(_walks(guest, dumps))
        after = read(lambda batch: guest.run(batch).results, dialect)
        if after == before:
            return before, Printed(dumps, walks)
        before = after
    raise SetupError(f"the files of {dialect.name} are another each time that they are read")


def parsed(dialect: TextDialect, texts: Mapping[str, str]) -> PrintedDump:
    """Parse the texts of a kernel. CheckFailed, with the rule of the place, if they do not match the grammar."""
    from pytest_iommu.dialects import DumpSyntaxError

    try:
        return dialect.parse(texts)
    except DumpSyntaxError as error:
        raise CheckFailed(
            f"{dialect.name}: {error}", (error.rule,), (), _files([texts]), verdict=Verdict.DUMP
        ) from error


def _shown(guest: GuestHandle, dialect: TextDialect, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that show something. In some dialects the file of a device without a table is empty."""
    from pytest_iommu.compare.printed_memory import requester

    if not dialect.blank:
        return dict(texts)
    iommu = guest.in_ram.iommu if guest.in_ram is not None else None
    for name in (name for name, text in texts.items() if not text):
        sid = requester(name.partition("/")[0])
        if iommu is not None and sid is not None and iommu.table(sid) is not None:
            what = f"{dialect.name}: {name} is empty, but the entries of the device lead to a table"
            raise CheckFailed(what, ("RNG-6",), (), _files([texts]), verdict=Verdict.DUMP)
    return {name: text for name, text in texts.items() if text}


def _walks(guest: GuestHandle, dumps: Sequence[PrintedDump]) -> list[tuple[Table, Walk]]:
    from pytest_iommu.compare.printed_memory import walked

    if guest.memory is None:
        return []
    iommu = guest.in_ram.iommu if guest.in_ram is not None else None
    found = []
    for table in (table for dump in dumps for table in dump.tables):
        try:
            walk = walked(table, guest.memory, iommu)
        except OutsideMemory as error:
            what = f"{table.file}:{table.line}: the top of {table.name} is not in memory: {error}"
            raise CheckFailed(what, ("INF-3",), verdict=Verdict.DUMP) from None
        if walk is not None:
            found.append((table, walk))
    return found


def _findings(guest: GuestHandle, printed: Printed) -> list[Finding]:
    from pytest_iommu.compare.printed_memory import requester, stream_against, table_against, top_against
    from pytest_iommu.compare.printed_rules import findings

    witness = guest.in_ram
    found = [one for dump in printed.dumps for one in findings(dump)]
    for table, walk in printed.walks:
        found += table_against(table, walk)
    if witness is None:
        return found
    for table in printed.tables:
        found += top_against(table, witness.iommu)
    for stream in (stream for dump in printed.dumps for stream in dump.streams):
        sid = requester(stream.name) if stream.entry.sid < 0 else stream.entry.sid
        if witness.smmu is not None and sid is not None:
            found += stream_against(stream, witness.smmu, sid)
    return found


def _files(dumps: Sequence[Mapping[str, str]]) -> dict[str, bytes]:
    """Return the texts for the artefact folder."""
    return {f"{name.replace('/', '.')}.txt": text.encode() for texts in dumps for name, text in texts.items()}
