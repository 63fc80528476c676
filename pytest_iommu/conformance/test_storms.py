# SPDX-License-Identifier: GPL-2.0-only
"""Readers in the middle of storms: threads of the kernel map and unmap as fast as they can, and every line is judged.

What raced with what differs from run to run, what may be said of it does not. The table is changed as drivers do it:
from several processors at once, in ranges that do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.races import lifetimes, storm
from pytest_iommu.check.races.end_state import in_memory
from pytest_iommu.check.races.lifetimes import WatchedFile, same
from pytest_iommu.check.races.storm import StormTable
from pytest_iommu.check.reading import joined
from pytest_iommu.conformance.helpers import FILES, make
from pytest_iommu.core.model import Cd, Ste
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.core.settings import Settings
from pytest_iommu.dialects import IO_PTDUMP, DumpSyntaxError
from pytest_iommu.dialects.io_ptdump_small import parse_info
from pytest_iommu.dialects.smmuv3_debugfs import parse_cd, parse_ste
from pytest_iommu.formats.smmuv3 import decode_cd, decode_ste
from pytest_iommu.scenario.race_words import Reader, Storm

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_boot_mode("races"),
]

K, M = 1 << 10, 1 << 20
PAGE = 4 * K
BASE = 0x40000000
OA = 0x80000000
#: format or stage, bytes of a cell, cells, changes
STORMS = [
    ("s1", PAGE, 96, 12000),
    ("s1", 2 * M, 12, 4000),
    ("s2", PAGE, 96, 12000),
    ("s2", 2 * M, 12, 4000),
    ("amdv1", PAGE, 96, 30000),
    ("amdv1", 64 * K, 64, 30000),
    ("amdv1", 2 * M, 12, 4000),
    ("vtdss", 2 * M, 12, 4000),
    ("riscv_64", 64 * K, 64, 30000),
    ("riscv_64", 2 * M, 12, 4000),
]
every_storm = pytest.mark.parametrize(
    ("kind", "cell", "cells", "operations"), STORMS, ids=[f"{kind}-{cell >> 10}k" for kind, cell, _, _ in STORMS]
)
storm_rules = pytest.mark.iommu_rules("CON-1", "CON-2", "CON-3", "CON-4", "CON-5", "CON-6", "CON-7", "TAB-8")
#: microseconds between two changes; all of such a table is read in about as many
PAUSE = 500
#: a page, a line and a bit, more than there is
READERS = (Reader(chunk=PAGE, cpu=1), Reader(chunk=100, cpu=1), Reader("entries", cpu=1))


def sentinels(iommu: Iommu, domain: Domain, cell: int, cells: int, gap: int, below: bool = True) -> None:
    """What never changes: below the cells, above them, and in every fourth gap, in the tables that the cells are in.

    What is below them is in another table. A reader's first batch of items ends there; without it, cells are in it.
    """
    page = PAGE
    end = BASE + cells * gap
    gaps = [
        domain.to_map(BASE + number * gap + cell, OA + 256 * M + number * 2 * gap, page, "rw" if number % 8 else "r")
        for number in range(0, cells, 4)
    ]
    iommu.do(
        *([domain.to_map(BASE - 3 * page, OA, 3 * page)] if below else []),
        domain.to_map(end, OA + 64 * M, 2 * page, "r"),
        domain.to_map(end + 4 * M & -2 * M, OA + 128 * M, "2M", "rw", "2M"),
        *gaps,
    )


def blow(guest: GuestHandle, domain: Domain, one: Storm) -> None:
    """One storm. CheckFailed when something is wrong; skips when nothing raced."""
    __tracebackhide__ = True

    ranges = domain.model.snapshot().ranges
    table = StormTable(domain.name, domain.path(), domain.config, ranges)
    memory = in_memory(lambda batch: guest.run(batch), guest.in_ram, domain.name, domain.config)
    outcome = storm.run(guest.run, guest.dialect, table, one, memory)
    if outcome.failures:
        raise joined(outcome.failures, {})
    left = IO_PTDUMP.parse({"page_table": guest.read(domain.path("page_table")).decode()}).ranges
    if left != ranges:
        raise CheckFailed("after the storm the table is not what it was before", ("RNG-1",))


@storm_rules
@every_storm
@pytest.mark.parametrize("reader", READERS, ids=["page", "bytes", "entries"])
def test_one_reader_in_a_storm(
    kind: str,
    cell: int,
    cells: int,
    operations: int,
    reader: Reader,
    iommu: Iommu,
    iommu_guest: GuestHandle,
    iommu_settings: Settings,
) -> None:
    """A processor for each of them."""
    domain = make(iommu, kind, PAGE)
    sentinels(iommu, domain, cell, cells, 2 * cell)
    if iommu_guest.key.flavour != "plain":
        operations //= 4  # a change takes many times as long there, a read about twice
    blow(iommu_guest, domain, Storm(BASE, cell, cells, 2 * cell, 1, operations, iommu_settings.seed, (reader,)))


@storm_rules
@pytest.mark.parametrize(("kind", "cell"), [("s1", PAGE), ("s2", 2 * M), ("amdv1", 64 * K), ("riscv_64", 2 * M)])
def test_many_readers_in_a_storm(
    kind: str, cell: int, iommu: Iommu, iommu_guest: GuestHandle, iommu_settings: Settings
) -> None:
    """Mappers and readers on both processors: any of them may be interrupted by any other."""
    domain = make(iommu, kind, PAGE)
    sentinels(iommu, domain, cell, 32, 2 * cell)
    readers = tuple(replace(reader, cpu=cpu) for cpu in (0, 1) for reader in READERS)
    blow(iommu_guest, domain, Storm(BASE, cell, 32, 2 * cell, 2, 2000, iommu_settings.seed, readers))


@storm_rules
@pytest.mark.parametrize(("kind", "cell"), [("s1", PAGE), ("s2", 2 * M), ("amdv1", 64 * K), ("riscv_64", 2 * M)])
@pytest.mark.parametrize("file", ["page_table", "entries"])
def test_slow_storm(
    kind: str, cell: int, file: str, iommu: Iommu, iommu_guest: GuestHandle, iommu_settings: Settings
) -> None:
    """Less than one change in a read: a line that is of an earlier read, or of the next change, can be told."""
    domain = make(iommu, kind, PAGE)
    sentinels(iommu, domain, cell, 12, 2 * cell, below=False)
    one = Storm(BASE, cell, 12, 2 * cell, 1, 600, iommu_settings.seed, (Reader(file, cpu=1),), pause=PAUSE)
    blow(iommu_guest, domain, one)


@storm_rules
@pytest.mark.parametrize("kind", ["s1", "amdv1"])
def test_counting_in_a_storm(kind: str, iommu: Iommu, iommu_guest: GuestHandle, iommu_settings: Settings) -> None:
    domain = make(iommu, kind, PAGE)
    sentinels(iommu, domain, 2 * M, 16, 4 * M)
    readers = (Reader("stats", cpu=1), Reader("stats", 100, cpu=1), Reader("info", 50, cpu=1))
    blow(iommu_guest, domain, Storm(BASE, 2 * M, 16, 4 * M, 1, 3000, iommu_settings.seed, readers))


def fill(iommu: Iommu, domain: Domain, oa: int) -> None:
    """Lines for several batches, no two of which merge."""
    iommu.command(f"map {domain.name} {BASE:#x} {oa:#x} 4K rw count=150 pstep=12K")


@pytest.mark.iommu_rules("CON-1", "CON-9", "CON-6", "CON-7")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1", "riscv_64"])
@pytest.mark.parametrize("chunk", [100, 65536], ids=["bytes", "all"])
def test_domains_come_and_go(kind: str, chunk: int, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """A reader on each file of four domains: others come and go, then these. What is read is true, or EIO."""
    domains = [make(iommu, kind, PAGE) for _ in FILES]
    watches = []
    for number, (domain, file) in enumerate(zip(domains, FILES, strict=True)):
        fill(iommu, domain, OA + number * 64 * M)
        text = iommu_guest.read(domain.path(file)).decode()
        judge = same(text)
        watches.append(WatchedFile(domain.path(file), judge, ("CON-9", "CON-2"), chunk, number % 2, ("EIO", "ENOENT")))
    passing = "domain passing format=vtdss\nmap passing 0x40000000 0x80000000 2M rw\ndestroy passing\n"
    last = "".join(f"{passing}destroy {domain.name}\n" for domain in domains)
    failures = lifetimes.run(iommu_guest.run, watches, passing, last)
    if failures:
        raise joined(failures, {})


class Descriptors:
    """What the files ste and cd of one stream may say while it moves: words that it had when it stood still."""

    def __init__(self, tops: dict[int, int]) -> None:
        self._tops = tops
        self._words: dict[type, list[set[int]]] = {Ste: [{0} for _ in range(8)], Cd: [{0} for _ in range(8)]}

    def learn(self, ste: str, cd: str) -> None:
        """The files while the stream stands still."""
        found: list[Ste | Cd] = [parse_ste(ste), *parse_cd(cd)]
        for one in found:
            for known, word in zip(self._words[type(one)], one.words, strict=True):
                known.add(word)

    def ste(self, text: str, _: bool) -> str | None:
        """Each word is one that it had, and every line is what the words say."""
        one = parse_ste(text)
        domain = self._tops.get(one.s2ttb) if one.s2ttb else None
        return self._judge(one, replace(decode_ste(one.sid, one.words), domain=domain))

    def cd(self, text: str, _: bool) -> str | None:
        """The same, of no descriptor or of one."""
        for one in parse_cd(text):
            domain = None if one.epd0 else self._tops.get(one.ttb0)
            problem = self._judge(one, replace(decode_cd(one.sid, one.ssid, one.words), domain=domain))
            if problem is not None:
                return problem
        return None

    def _judge(self, one: Ste | Cd, want: Ste | Cd) -> str | None:
        if one != want:
            return f"its lines are not what its words say:\n  shown   {one}\n  decoded {want}"
        valid = {Ste: 1, Cd: 1 << 31}[type(one)]
        for at, (known, word) in enumerate(zip(self._words[type(one)], one.words, strict=True)):
            # an entry is made invalid, changed, and made valid again
            if word not in known and not (at == 0 and word in {old & ~valid for old in known}):
                return f"word {at} is 0x{word:016x}, it was {' or '.join(f'0x{old:016x}' for old in sorted(known))}"
        return None


@pytest.mark.iommu_rules("STE-2", "STE-3", "STE-6", "CON-6", "CON-2")
@pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump", devices=["edu0"])
@pytest.mark.parametrize("pair", [("s1", "s1"), ("s1", "s2"), ("s2", "s2")], ids="-".join)
def test_a_device_moves(pair: tuple[str, str], iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """attach, replace and detach, again and again, under readers of the stream and of the domains' tables."""
    one, other = (make(iommu, kind, PAGE) for kind in pair)
    for number, domain in enumerate((one, other)):
        fill(iommu, domain, OA + number * 64 * M)
    infos = {domain.id: parse_info(iommu_guest.read(domain.path("info")).decode(), []) for domain in (one, other)}
    known = Descriptors({info.top: int(number) for number, info in infos.items() if info is not None})
    streams = iommu_guest.streams
    path = f"{streams.path}/{streams.sid('edu0')}"
    moves = [f"attach {one.name} edu0", f"replace {other.name} edu0", f"replace {one.name} edu0", "detach edu0"]
    for line in ("", *moves):
        if line:
            iommu.command(line)
        known.learn(*(iommu_guest.read(f"{path}/{file}").decode() for file in ("ste", "cd")))
    table = same(iommu_guest.read(one.path("page_table")).decode())
    watches = [
        WatchedFile(f"{path}/ste", _parsed(known.ste), ("STE-2", "STE-3"), cpu=1),
        WatchedFile(f"{path}/cd", _parsed(known.cd), ("STE-6", "STE-3"), cpu=1),
        WatchedFile(f"{path}/ste", _parsed(known.ste), ("STE-2", "STE-3"), chunk=100, cpu=0),
        WatchedFile(one.path("page_table"), table, ("CON-2", "CON-6"), cpu=1),
    ]
    failures = lifetimes.run(iommu_guest.run, watches, "\n".join(moves) + "\n")
    if failures:
        raise joined(failures, {})


def _parsed(judge: Callable[[str, bool], str | None]) -> Callable[[str, bool], str | None]:
    """The judge, for whom a text that cannot be parsed is wrong."""

    def judged(text: str, whole: bool) -> str | None:
        try:
            return judge(text, whole)
        except DumpSyntaxError as error:
            return str(error)

    return judged
