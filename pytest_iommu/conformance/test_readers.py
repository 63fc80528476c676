# SPDX-License-Identifier: GPL-2.0-only
"""Open files while the table, or the domain, changes between two reads. Nothing races here: a reader stands still.

A line may be what it was when the reader's last portion was read or what it is now; a portion's size is not known.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from pytest_iommu import formats
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.conformance import helpers
from pytest_iommu.conformance.helpers import FILES
from pytest_iommu.core.model import Entry, Kind
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.guest import jobs, ops

pytestmark = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

PAGE = 4096
BASE = 0x31200000
OA = 0x912345000
COUNT = 400
SLOT = 16


def make(iommu: Iommu, kind: str) -> Domain:
    """A domain whose pages are PAGE, as all sizes here are."""
    return helpers.make(iommu, kind, PAGE)


def fill(iommu: Iommu, domain: Domain, count: int = COUNT) -> dict[int, int]:
    """``count`` pages, none of which merges with its neighbour: IOVA -> OA."""
    iommu.command(f"map {domain.name} {BASE:#x} {OA:#x} 4K rw count={count} pstep=12K")
    return {BASE + number * PAGE: OA + number * 3 * PAGE for number in range(count)}


def begin(guest: GuestHandle, domain: Domain, file: str, size: int = PAGE) -> bytes:
    """The first read of a file, which stays open in SLOT."""
    opened, result = guest.run([ops.open_file(SLOT, domain.path(file)), ops.read(SLOT, size)]).results
    assert opened.ok
    assert result.ok
    return result.data


def finish(guest: GuestHandle) -> bytes:
    """All that SLOT has left; it is closed."""
    text = b""
    while True:
        results = guest.run([ops.read(SLOT, 65536)] * 8).results
        assert all(result.ok for result in results), "reading on fails"
        text += b"".join(result.data for result in results)
        if not results[-1].data:
            guest.run([ops.close(SLOT)])
            return text


def pages(text: bytes) -> dict[int, int]:
    """page_table, whose lines must be lines and ascend (CON-5), as IOVA -> OA of every page."""
    found = IO_PTDUMP.parse({"page_table": text.decode()}).ranges or ()
    for before, after in pairwise(found):
        assert before.last < after.first, f"0x{after.first:x} comes after 0x{before.last:x}"
    return {row.first + at: row.oa + at for row in found for at in range(0, row.size, PAGE)}


def reported(text: bytes, stayed: dict[int, int], ever: dict[int, set[int]]) -> None:
    """CON-2: what stayed is there and right; CON-3: nothing is there that never was."""
    found = pages(text)
    wrong = {iova: oa for iova, oa in stayed.items() if found.get(iova) != oa}
    assert not wrong, f"0x{min(wrong):x} stayed what it was and is not reported right"
    strange = [iova for iova, oa in found.items() if oa not in ever.get(iova, set())]
    assert not strange, f"0x{min(strange):x} never had the reported value"


@pytest.mark.iommu_rules("CON-2", "CON-3", "CON-5", "CON-6")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_unmapping_before_and_behind_a_reader(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, kind)
    was = fill(iommu, domain)
    text = begin(iommu_guest, domain, "page_table")
    gone = [BASE + number * PAGE for number in (3, 4, 250, 251, 252, 398)]
    for iova in gone:
        iommu.command(f"unmap {domain.name} {iova:#x} 4K")
    stayed = {iova: oa for iova, oa in was.items() if iova not in gone}
    text += finish(iommu_guest)
    reported(text, stayed, {iova: {oa} for iova, oa in was.items()})
    # far behind the first portion, so it cannot have been read before it went
    assert BASE + 398 * PAGE not in pages(text)


@pytest.mark.iommu_rules("CON-2", "CON-3", "CON-5", "CON-6")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_mapping_before_and_behind_a_reader(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, kind)
    was = fill(iommu, domain)
    text = begin(iommu_guest, domain, "page_table")
    new = {BASE - 5 * PAGE: 0x1234567000, BASE + 2000 * PAGE: 0x2345678000, 0x40000000: 0x3456789000}
    for iova, oa in new.items():
        iommu.command(f"map {domain.name} {iova:#x} {oa:#x} 4K rw")
    text += finish(iommu_guest)
    behind = {iova: oa for iova, oa in new.items() if iova > BASE}
    reported(text, was | behind, {iova: {oa} for iova, oa in (was | new).items()})


@pytest.mark.iommu_rules("CON-2", "CON-3", "CON-5")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_remapping_under_a_reader(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, kind)
    was = fill(iommu, domain)
    text = begin(iommu_guest, domain, "page_table")
    moved = {BASE + number * PAGE: 0x1230000000 + number * 5 * PAGE for number in (1, 60, 61, 200, 399)}
    for iova, oa in moved.items():
        iommu.command(f"unmap {domain.name} {iova:#x} 4K")
        iommu.command(f"map {domain.name} {iova:#x} {oa:#x} 4K r")
    text += finish(iommu_guest)
    stayed = {iova: oa for iova, oa in was.items() if iova not in moved}
    reported(text, stayed, {iova: {oa, moved.get(iova, oa)} for iova, oa in was.items()})


@pytest.mark.iommu_rules("CON-2", "CON-5", "LVL-2")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_a_block_takes_the_place_of_the_table_a_reader_stands_in(
    kind: str, iommu: Iommu, iommu_guest: GuestHandle
) -> None:
    """The table is freed, and the block begins before the reader's place: LVL-2 wants it cut there."""
    domain = make(iommu, kind)
    was = fill(iommu, domain)
    iommu.command(f"map {domain.name} 0x40000000 {OA:#x} 4K rw")
    text = begin(iommu_guest, domain, "page_table")
    iommu.command(f"unmap {domain.name} {BASE:#x} {COUNT * PAGE:#x} leaf=4K")
    iommu.command(f"map {domain.name} {BASE:#x} 0xb00000000 2M rw leaf=2M")
    text += finish(iommu_guest)
    ever = {iova: {oa} for iova, oa in was.items()} | {0x40000000: {OA}}
    for at in range(0, 512 * PAGE, PAGE):
        ever.setdefault(BASE + at, set()).add(0xB00000000 + at)
    reported(text, {0x40000000: OA}, ever)
    assert BASE + 511 * PAGE in pages(text), "the rest of the block is not reported"


@pytest.mark.iommu_rules("CON-2", "CON-5", "INF-3")
def test_the_top_grows_under_a_reader(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = iommu.table("amdv1", levels=3)
    was = fill(iommu, domain)
    text = begin(iommu_guest, domain, "page_table")
    new = {0x8000000000: 0x1234567000, 0x200000000000000: 0x2345678000}
    for iova, oa in new.items():
        iommu.command(f"map {domain.name} {iova:#x} {oa:#x} 4K rw")
    text += finish(iommu_guest)
    reported(text, was, {iova: {oa} for iova, oa in (was | new).items()})


@pytest.mark.iommu_rules("CON-3", "CON-2", "CON-4")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_read_is_not_of_the_open(kind: str, file: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """A file that was opened before the table changed; one that had been read, and is read again from its beginning."""
    domain = make(iommu, kind)
    path = domain.path(file)
    fill(iommu, domain, 90)
    opened, again = SLOT, SLOT + 1
    before = iommu_guest.run([ops.open_file(opened, path), ops.open_file(again, path), ops.read(again, 65536)]).results
    assert all(result.ok for result in before)
    iommu.command(f"unmap {domain.name} {BASE:#x} {70 * PAGE:#x}")
    iommu.command(f"map {domain.name} {BASE + 2 * PAGE:#x} 0x1230000000 4K rx")
    now = iommu_guest.read(path)
    read, seek, reread, peek = iommu_guest.run(
        [ops.read(opened, 65536), ops.lseek(again, 0), ops.read(again, 65536), ops.pread(again, 65536, 0)]
    ).results
    iommu_guest.run([ops.close(opened), ops.close(again)])
    assert seek.value == 0
    for what, result in (("opened before", read), ("read again", reread), ("read again by pread", peek)):
        assert result.data == now[: len(result.data)], f"what was {what} is not what the table is now"
        assert result.data, what


def place(entry: Entry) -> tuple[int, int]:
    """The order of entries: depth first."""
    return entry.iova, -entry.level


@pytest.mark.iommu_rules("CON-4", "ENT-1")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_every_entry_is_what_its_raw_item_says(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """One load for all columns: whatever changes between the reads, a line decodes to itself."""
    domain = make(iommu, kind)
    fill(iommu, domain)
    text = begin(iommu_guest, domain, "entries")
    for number in (2, 70, 71, 72, 300):
        iova = BASE + number * PAGE
        iommu.command(f"unmap {domain.name} {iova:#x} 4K")
        iommu.command(f"map {domain.name} {iova:#x} {0x1230000000 + number * PAGE:#x} 4K rx")
    iommu.command(f"map {domain.name} 0x40000000 0xb40000000 2M w")
    text += finish(iommu_guest)
    entries = IO_PTDUMP.parse({"entries": text.decode()}).entries or ()
    assert [place(entry) for entry in entries] == sorted({place(entry) for entry in entries})
    fmt = formats.get(domain.config.format)
    for entry in entries:
        decoded = fmt.decode(domain.config, entry.level, entry.raw)
        assert decoded is not None
        assert (entry.kind, entry.oa) == (decoded.kind, decoded.oa), entry
        if entry.kind is Kind.LEAF:
            assert (entry.size, entry.prot, entry.flags) == (
                decoded.size,
                decoded.prot,
                decoded.flags + decoded.volatile,
            ), entry


@pytest.mark.iommu_rules("CON-6")
@pytest.mark.parametrize("kind", ["s1", "s2"])
def test_open_files_hold_nobody_up(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Each file read in part and left open: an operation that waits for a reader does not come back."""
    domain = make(iommu, kind)
    fill(iommu, domain)
    for number, file in enumerate(FILES):
        batch = [ops.open_file(SLOT + number, domain.path(file)), ops.read(SLOT + number, 50)]
        assert [result.value for result in iommu_guest.run(batch).results] == [0, 50]
    iommu.command(f"map {domain.name} 0x80000000 0x140000000 1G rw")
    iommu.command(f"attach {domain.name} edu0")
    iommu.command(f"unmap {domain.name} {BASE:#x} 4K")
    iommu.command("detach edu0")
    iommu.command(f"unmap {domain.name} 0x80000000 1G")
    other = make(iommu, kind)
    iommu.command(f"destroy {other.name}")
    for number, _ in enumerate(FILES):
        (left,) = iommu_guest.run([ops.read(SLOT + number, 50)]).results
        assert left.ok
    iommu_guest.run([ops.close(SLOT + number) for number in range(len(FILES))])


@pytest.mark.iommu_rules("CON-9", "CON-7")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1", "arm_64_lpae_s1"])
@pytest.mark.parametrize("file", FILES)
def test_an_open_file_of_a_freed_domain(kind: str, file: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Opened only, read in part, read to the end: all are dead, whatever is tried, also when a new domain comes."""
    domain = make(iommu, kind)
    path = domain.path(file)
    fill(iommu, domain)
    untouched, begun, ended = SLOT, SLOT + 1, SLOT + 2
    opened = [ops.open_file(slot, path) for slot in (untouched, begun, ended)]
    to_the_end = [ops.read(ended, 65536)] * 20
    first = iommu_guest.run([*opened, ops.read(begun, 60), *to_the_end]).results
    assert all(result.ok for result in first)
    assert not first[-1].data
    iommu.command(f"destroy {domain.name}")
    make(iommu, kind)
    tries = {
        f"{what} of a file {state}": op
        for state, slot in (("only opened", untouched), ("read in part", begun), ("read to the end", ended))
        for what, op in (
            ("read", ops.read(slot, 100)),
            ("pread at 0", ops.pread(slot, 100, 0)),
            ("pread at 5000", ops.pread(slot, 100, 5000)),
            ("lseek to 0", ops.lseek(slot, 0)),
            ("lseek to 70", ops.lseek(slot, 70)),
            ("read again", ops.read(slot, 65536)),
        )
    }
    results = iommu_guest.run(list(tries.values())).results
    outcomes = {what: ops.errno_name(result.value) for what, result in zip(tries, results, strict=True)}
    last = [ops.open_file(SLOT + 3, path), *map(ops.close, (untouched, begun, ended))]
    again, *closed = iommu_guest.run(last).results
    assert outcomes == dict.fromkeys(tries, "EIO")
    assert ops.errno_name(again.value) == "ENOENT"
    assert all(result.ok for result in closed)


@pytest.mark.iommu_rules("CON-9", "RNG-1")
def test_an_open_file_does_not_become_the_next_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Many domains come and go with a file open on each: none shows another's table."""
    for number in range(12):
        domain = make(iommu, ("s1", "s2", "amdv1")[number % 3])
        iommu.command(f"map {domain.name} {BASE:#x} {OA + number * PAGE:#x} 4K rw")
        opened, text = iommu_guest.run(
            [ops.open_file(SLOT + number, domain.path("page_table")), ops.pread(SLOT + number, PAGE, 0)]
        ).results
        assert opened.ok
        assert pages(text.data) == {BASE: OA + number * PAGE}
        iommu.command(f"destroy {domain.name}")
    slots = range(SLOT, SLOT + 12)
    left = iommu_guest.run([ops.read(slot, PAGE) for slot in slots]).results
    iommu_guest.run([ops.close(slot) for slot in slots])
    assert {ops.errno_name(result.value) for result in left} == {"EIO"}


@pytest.mark.iommu_rules("CON-10", "RNG-1")
def test_readers_of_several_domains_in_turn(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Every open file has a place of its own: a little of each, again and again, gives each its whole text."""
    domains = [make(iommu, kind) for kind in ("s1", "s1", "s2", "amdv1")]
    for number, domain in enumerate(domains):
        first = OA + number * 0x10000000
        iommu.command(f"map {domain.name} {BASE + number * PAGE:#x} {first:#x} 4K rw count=90 pstep=12K")
    paths = [domain.path(file) for domain in domains for file in ("page_table", "entries")]
    whole = [result.data for result in iommu_guest.run([ops.read_file(path) for path in paths]).results]
    slots = range(SLOT, SLOT + len(paths))
    iommu_guest.run([ops.open_file(slot, path) for slot, path in zip(slots, paths, strict=True)])
    texts = [b""] * len(paths)
    for _ in range(max(map(len, whole)) // 1500 + 2):
        results = iommu_guest.run([ops.read(slot, 1500) for slot in slots]).results
        assert all(result.ok for result in results)
        texts = [text + result.data for text, result in zip(texts, results, strict=True)]
    iommu_guest.run([ops.close(slot) for slot in slots])
    assert texts == whole


def taken_in_turn(text: bytes, pieces: list[list[bytes]]) -> bool:
    """Whether these lists of pieces, each in its order, make up the text between them."""
    places = {(0,) * len(pieces)}
    while places:
        after = set()
        for place in places:
            at = sum(len(piece) for mine, count in zip(pieces, place, strict=True) for piece in mine[:count])
            if at == len(text):
                return all(len(mine) == count for mine, count in zip(pieces, place, strict=True))
            for number, (mine, count) in enumerate(zip(pieces, place, strict=True)):
                if count < len(mine) and text.startswith(mine[count], at):
                    after.add((*place[:number], count + 1, *place[number + 1 :]))
        places = after
    return False


@pytest.mark.iommu_rules("CON-10", "CON-6")
@pytest.mark.iommu_boot_mode("races")
@pytest.mark.parametrize("kind", ["s1", "amdv1"])
@pytest.mark.parametrize(("file", "chunk"), [("page_table", 100), ("page_table", PAGE), ("entries", 333), ("stats", 7)])
def test_two_readers_share_one_open_file(
    kind: str, file: str, chunk: int, iommu: Iommu, iommu_guest: GuestHandle
) -> None:
    """Two processes on two processors take from one place: each byte goes to one of them, in order."""
    domain = make(iommu, kind)
    fill(iommu, domain)
    whole = iommu_guest.read(domain.path(file))
    batch = [ops.open_file(SLOT, domain.path(file))]
    batch += [jobs.start_sharing_reader(number, SLOT, chunk, cpu=number) for number in (0, 1)]
    batch += [jobs.wait_job(number, 5000) for number in (0, 1)]
    *_, one, other = iommu_guest.run([*batch, ops.close(SLOT)]).results[:-1]
    assert one.ok
    assert other.ok
    pieces = [[read.data for read in jobs.split_reads(result.data) if read.data] for result in (one, other)]
    assert taken_in_turn(whole, pieces), f"{one.value} and {other.value} of {len(whole)} bytes, or not in order"
