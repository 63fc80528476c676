# SPDX-License-Identifier: GPL-2.0-only
"""CON-7 and CON-8 on tables of half a million items: one line, very many lines, or none.

Time is the guest's, and that is instructions: a busy host changes none of the numbers. There is one processor, so that
whoever wants it stops a reader wherever it is. Limits are shares of what a walk over the whole table takes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.conformance.helpers import make, meminfo
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.protocol import Memory, Op, Result
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Digest, Read, Signal
from pytest_iommu.guest.testmodule import MODULE
from pytest_iommu.oracle import TableModel

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_boot_mode("counted"),
]

BASE = 0x40000000
OA = 0x912340000
#: leaves that make one line, and one long read(2); leaves that do not merge; no leaves, in tables that were filled and
#: emptied page by page
SHAPES = ("full", "apart", "emptied")
LONG_READS = ("full", "emptied")
FORMATS = ("s1", "amdv1")
READER, OTHER = 0, 1
FILES = ("page_table", "stats")
PART = 1 << 16
"""Items that one command maps: a batch of operations has ten seconds."""
PATIENCE = 120
"""Seconds of the guest's clock, which counts instructions, for a read that takes ten."""
HOST_PATIENCE = 1200
"""Seconds of the host, whose processors others may want too."""
ROUNDS = 64
NINE_IN_TEN = 57
"""Of ROUNDS, in order. The rest meets a reader that another process has driven off in the middle of a batch."""
# In instructions of a plain kernel: an item costs 184 (s1, full), 166 (amdv1, full), 44 and 51 (emptied), a line 6750
# and 4460, whatever the size, to 2%; with KASAN two or three times that, and small tables more than large ones.
LINEAR = 1.25
"""How much more an item of a table of sixteen times the size may cost."""
SECTION = 4096
"""Items of one RCU section at most. A grace period takes 7000 to 12000 instructions, beside a reader 7000 to 37000:
what 100 (full) or 600 items (emptied) cost. A batch that counted what it shows only would have 32768 empty ones."""
SLOWER = 4
"""How much longer what is around a section takes with KASAN and lockdep, against the items in it."""
AT_ONCE, SLICES = 16, 16_000_000
"""Share of a walk in which a reader must have gone, and ns for others that run meanwhile: four slices. A killed reader
takes 1/800 to 1/2500 of a walk (with KASAN 3 ms), one whose domain is freed one or two slices; who goes on, 3/4."""
GROWTH = 512 * 1024
"""Bytes that a process and its open file take at most; it is 16 KiB, the rest coming from free lists. Half a million
items of 8 bytes would be 4 MiB."""


def section_items(guest: GuestHandle) -> int:
    """Items whose time nobody may wait for longer, beside what waiting takes anyway."""
    return SECTION * (SLOWER if guest.key.flavour == "debug" else 1)


@dataclass(frozen=True, slots=True)
class Table:
    """A domain, and how many items its tables of level 0 have, used or not."""

    domain: Domain
    shape: str
    items: int

    def path(self, file: str) -> str:
        """A file of the domain."""
        return self.domain.path(file)

    @property
    def stats(self) -> str:
        """The line of level 0 in stats."""
        leaves = 0 if self.shape == "emptied" else self.items
        return f"0 {8 * self.items // self.domain.page} {leaves} {8 * self.items}"

    def rows(self) -> Iterator[Range]:
        """The lines of page_table."""
        page = self.domain.page
        model = TableModel(self.domain.config)
        model.map(BASE, OA, page if self.shape == "apart" else self.items * page, Prot.from_letters("rw"), page)
        (row,) = model.snapshot().ranges
        if self.shape == "full":
            yield row
        elif self.shape == "apart":
            for at in range(0, self.items * page, page):
                yield Range(BASE + at, BASE + at + page - 1, OA + 2 * at, row.level, row.leaf, row.prot, row.flags)


def amount(guest: GuestHandle, shape: str) -> int:
    """Items of a long table: half a million, of empty ones four million. Where KASAN looks on, a line is long work."""
    if guest.key.flavour == "plain":
        return {"emptied": 4 << 20}.get(shape, 1 << 19)
    return {"full": 1 << 17, "apart": 1 << 14, "emptied": 1 << 20}[shape]


def fill(iommu: Iommu, kind: str, shape: str, items: int) -> Table:
    """A domain with a table of that shape."""
    domain = make(iommu, kind)
    page = domain.page
    span = page * page // 8
    if shape == "emptied":
        # One page of each table: the table stays when the page goes.
        where = f"{domain.name} {BASE:#x}"
        each = f"count={8 * items // page} istep={span}"
        iommu.command(f"map {where} {OA:#x} {page} rw {each}")
        iommu.command(f"unmap {where} {page} {each}")
        return Table(domain, shape, items)
    for first in range(0, items, PART):
        count, at = min(PART, items - first), first * page
        if shape == "full":
            iommu.command(f"map {domain.name} {BASE + at:#x} {OA + at:#x} {count * page} rw leaf={page}")
        else:
            iommu.command(f"map {domain.name} {BASE + at:#x} {OA + 2 * at:#x} {page} rw count={count} pstep={2 * page}")
    return Table(domain, shape, items)


def text_of(rows: Iterable[Range]) -> tuple[int, int, int]:
    """Bytes, lines and CRC of the lines, without having them all at once."""
    size = lines = crc = 0
    rows = iter(rows)
    while part := [f"{render_range(row)}\n" for row in islice(rows, 4096)]:
        text = "".join(part).encode()
        size, lines, crc = size + len(text), lines + len(part), zlib.crc32(text, crc)
    return size, lines, crc


def run(guest: GuestHandle, *batch: Op) -> Sequence[Result]:
    """Run operations that take their time. AssertionError when the kernel says that something stands still."""
    reply = guest.run(batch, timeout=HOST_PATIENCE)
    assert not re.search("stall|lockup|blocked for more than", reply.kmsg), reply.kmsg
    return reply.results


def read(guest: GuestHandle, path: str) -> Digest:
    """Read a whole file once."""
    begun, end = run(guest, jobs.start_reader(READER, path, keep=False), jobs.wait_job(READER, PATIENCE * 1000))
    assert begun.ok, ops.errno_name(begun.value)
    assert end.ok, f"reading {path}: {ops.errno_name(end.value)}"
    return jobs.split_digest(end.data)


def took(reads: Sequence[Read]) -> int:
    """Nanoseconds in read(2)."""
    return sum(one.end - one.begin for one in reads)


#: per guest: nanoseconds of a walk over a table of a format and shape, of so many items
_WALKS: WeakKeyDictionary[Memory, dict[tuple[str, str, int], int]] = WeakKeyDictionary()


def whole_walk(guest: GuestHandle, table: Table) -> int:
    """Nanoseconds that a walk over all of a table takes: what limits are shares of.

    On one guest it is the same for all tables of a kind, to 2%: it is measured for the first of them.
    """
    memory, kind = guest.memory, (table.domain.config.format, table.shape, table.items)
    known = _WALKS.setdefault(memory, {}) if memory is not None else {}
    if kind not in known:
        known[kind] = took(read(guest, table.path("stats")).reads)
    return known[kind]


@pytest.fixture(autouse=True)
def no_job_left(iommu_guest: GuestHandle, iommu: Iommu) -> Iterator[None]:
    """A reader of a test that failed does not go on beside the next one."""
    yield
    if iommu_guest.alive:
        iommu_guest.run([jobs.reset_jobs()], timeout=HOST_PATIENCE)


@pytest.mark.iommu_rules("CON-7", "RNG-1", "ENT-2")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", LONG_READS)
def test_time_grows_as_the_table_does(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    costs: dict[str, list[float]] = {file: [] for file in FILES}
    for share in (16, 4, 1):
        table = fill(iommu, kind, shape, amount(iommu_guest, shape) // share)
        for file, cost in costs.items():
            text = read(iommu_guest, table.path(file))
            cost.append(took(text.reads) / table.items)
            if file == "page_table":
                assert (text.bytes, text.lines, text.crc32) == text_of(table.rows())
        assert table.stats in iommu_guest.read(table.path("stats")).decode().splitlines()
        iommu.command(f"destroy {table.domain.name}")
    for file, cost in costs.items():
        assert cost[-1] < LINEAR * min(cost), f"{file}: ns an item {cost}"


@pytest.mark.iommu_rules("CON-7", "RNG-1", "ENT-2")
@pytest.mark.parametrize("kind", FORMATS)
def test_very_many_lines(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Each is right, and the last ones take no longer than the first."""
    # A line is 6000 instructions: half of what the other files are read of.
    table = fill(iommu, kind, "apart", amount(iommu_guest, "apart") // 2)
    text = read(iommu_guest, table.path("page_table"))
    assert (text.bytes, text.lines, text.crc32) == text_of(table.rows())
    assert table.stats in iommu_guest.read(table.path("stats")).decode().splitlines()
    part = len(text.reads) // 16
    first, last = took(text.reads[:part]), took(text.reads[-part - 1 : -1])
    assert last < LINEAR * first


def waits(guest: GuestHandle, path: str) -> list[int]:
    """How long expedited grace periods take, in ns, while a file is read over and over; ascending."""
    grace = [ops.sleep(1), ops.read_file(f"{MODULE}/grace_period_expedited")] * ROUNDS
    begun, *results = run(guest, jobs.start_reader(READER, path, rounds=0, keep=False), *grace)
    still_reading(guest)
    assert begun.ok
    assert all(result.ok for result in results)
    return sorted(int(result.data) for result in results[1::2])


def still_reading(guest: GuestHandle) -> None:
    """The reader has been there all the time; it is not needed any more."""
    state, killed = run(guest, jobs.job_state(READER), jobs.signal_job(READER, Signal.KILL))
    assert killed.ok
    assert not ops.text_of(state).startswith("X"), f"nobody was reading: {ops.text_of(state)}"


@pytest.mark.iommu_rules("CON-7", "CON-6")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", LONG_READS)
def test_a_grace_period_waits_for_one_batch(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    table = fill(iommu, kind, shape, amount(iommu_guest, shape))
    walk = whole_walk(iommu_guest, table)
    quiet = waits(iommu_guest, table.path("info"))
    section = walk * section_items(iommu_guest) // table.items
    for file in FILES:
        busy = waits(iommu_guest, table.path(file))
        most, alone = busy[NINE_IN_TEN], quiet[NINE_IN_TEN]
        assert most < alone + section, f"{file}: grace periods of {most} ns, {busy[-1]} at the worst; without {alone}"


@pytest.mark.iommu_rules("CON-7")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", LONG_READS)
def test_others_get_the_processor(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """This kernel preempts whoever does not forbid it: a reader may for a batch at most."""
    table = fill(iommu, kind, shape, amount(iommu_guest, shape))
    walk = whole_walk(iommu_guest, table)
    late: dict[str, int] = {}
    for file in ("info", *FILES):
        batch = [jobs.start_reader(READER, table.path(file), rounds=0, keep=False), ops.sleep(1)]
        ticker = [jobs.start_ticker(OTHER, None, 490, 60), jobs.wait_job(OTHER, PATIENCE * 1000)]
        begun, _, _, ended = run(iommu_guest, *batch, *ticker)
        still_reading(iommu_guest)
        assert begun.ok
        assert ended.value > 100, f"the ticker woke {ended.value} times"
        late[file] = jobs.split_lateness(ended.data).worst
    for file in FILES:
        assert late[file] < late["info"] + walk * section_items(iommu_guest) // table.items, f"ns, at the worst: {late}"


@pytest.mark.iommu_rules("CON-7")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_killed_reader_goes_at_once(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    table = fill(iommu, kind, shape, amount(iommu_guest, shape))
    walk = whole_walk(iommu_guest, table)
    for file in FILES:
        _, _, state, killed, end = run(
            iommu_guest,
            jobs.start_reader(READER, table.path(file), keep=False),
            ops.sleep(walk // 4_000_000),
            jobs.job_state(READER),
            jobs.signal_job(READER, Signal.KILL),
            jobs.wait_job(READER, 1),
        )
        where = ops.text_of(state)
        assert ops.errno_name(end.value) == "EINTR", f"{file} was not in the middle: {where}"
        time = jobs.split_time(killed.data)
        assert time < walk // AT_ONCE + SLICES, f"{file}: {time} ns, a walk takes {walk}; it was {where}"


@pytest.mark.iommu_rules("CON-7", "CON-9")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", LONG_READS)
def test_a_freed_domain_ends_the_read(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    for file in FILES:
        table = fill(iommu, kind, shape, amount(iommu_guest, shape))
        walk = whole_walk(iommu_guest, table)
        destroy = f"destroy {table.domain.name}\n".encode()
        _, _, _, freed, end = run(
            iommu_guest,
            jobs.start_reader(READER, table.path(file), keep=False),
            ops.sleep(walk // 4_000_000),
            jobs.start_writer(OTHER, f"{MODULE}/control", destroy),
            jobs.wait_job(OTHER, PATIENCE * 1000),
            jobs.wait_job(READER, PATIENCE * 1000),
        )
        assert freed.value == len(destroy), ops.errno_name(freed.value)
        assert ops.errno_name(end.value) == "EIO", f"{file} was read to the end: {ops.errno_name(end.value)}"
        (call,) = jobs.split_calls(freed.data)
        time = jobs.split_digest(end.data).reads[-1].end - call.begin
        assert time < walk // AT_ONCE + SLICES, f"{file} is read for {time} ns more, a walk takes {walk}"


@pytest.mark.iommu_rules("CON-8")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_in_the_middle_of_a_read(kind: str, shape: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    grown: dict[str, int] = {}
    table = fill(iommu, kind, shape, amount(iommu_guest, shape))
    walk = took(read(iommu_guest, table.path("stats")).reads)
    for file in FILES:
        samples = [ops.sleep(walk // 10_000_000), ops.read_file("/proc/meminfo")] * 8
        _, _, before, begun, *results = run(
            iommu_guest,
            ops.read_file("/proc/meminfo"),
            ops.sleep(50),
            ops.read_file("/proc/meminfo"),
            jobs.start_reader(READER, table.path(file), keep=False),
            *samples,
        )
        still_reading(iommu_guest)
        assert begun.ok
        free = [meminfo(result.data)["MemFree"] for result in (before, *results[1::2])]
        grown[file] = free[0] - min(free)
    assert max(grown.values()) < GROWTH, f"bytes while it is read: {grown}"
