# SPDX-License-Identifier: GPL-2.0-only
"""The file lookup: its paths are those of the table in memory, and what becomes of what is written to it.

The kselftest asks it in each of its cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.races.held import READER, DumpFile, HeldReader
from pytest_iommu.check.witnesses.lookup_file import LookupFile
from pytest_iommu.conformance.helpers import KINDS, make
from pytest_iommu.core.model import Kind
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.lookup import Lookup, parse_lookup
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, parse_domains
from pytest_iommu.scenario.race_words import TABLE, Hold

pytestmark = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

FIRST, SECOND = 10, 11
WRITER = 0
K, M = 1 << 10, 1 << 20
IOVA, OA = 0x31200000, 0x912200000
#: tables of another domain that take what has become free
OTHERS, OTHER_OA = 24, 0xB00000000
#: lookups in one batch, and batches until both states must have been seen
LOOKUPS, BATCHES = 40, 200


def asked(slot: int, iova: int) -> list[Op]:
    return [ops.write(slot, b"%d\n" % iova), ops.read(slot, 4096)]


@contextmanager
def opened(guest: GuestHandle, domain: Domain, *slots: int) -> Iterator[None]:
    """The file is open in these slots. Skips where the dump has none."""
    results = guest.run([ops.open_file(slot, domain.path("lookup"), os.O_RDWR) for slot in slots]).results
    if ops.errno_name(results[0].value) == "ENOENT":
        pytest.skip("this kernel's dump has no file lookup")
    assert all(result.ok for result in results), ops.errno_name(results[0].value)
    try:
        yield
    finally:
        if guest.alive:
            guest.run([ops.close(slot) for slot in slots])


def answer(results: Sequence[Result], iova: int) -> Lookup:
    """What a lookup says, which holds together. CheckFailed where it does not."""
    written, read = results
    assert (written.ok, read.ok) == (True, True), (ops.errno_name(written.value), ops.errno_name(read.value))
    try:
        found = parse_lookup(ops.text_of(read))
    except DumpSyntaxError as error:
        raise CheckFailed(str(error), (error.rule,), verdict=Verdict.DUMP) from error
    fault = found.fault()
    if fault is not None:
        raise CheckFailed(f"lookup of 0x{iova:x} {fault[1]}", (fault[0],), verdict=Verdict.DUMP)
    assert found.iova == iova
    return found


def look(guest: GuestHandle, iova: int, slot: int = FIRST) -> Lookup:
    return answer(guest.run(asked(slot, iova)).results, iova)


@pytest.mark.iommu_rules("LKP-1", "LKP-2")
@pytest.mark.parametrize("kind", KINDS)
def test_leaves_holes_and_what_is_outside(
    kind: str, iommu: Iommu, iommu_guest: GuestHandle, iommu_check: Callable[[Domain], None]
) -> None:
    domain = make(iommu, kind, 4096)
    with opened(iommu_guest, domain, FIRST):
        assert [entry.kind for entry in look(iommu_guest, IOVA).path][-1:] in ([], [Kind.EMPTY])
        domain.map(IOVA, OA, 2 * M, "rw")
        domain.map(IOVA + 4 * M, OA + 12 * K * 4, "64K", "r", leaf=domain.page)
        for iova, oa in ((IOVA + M + 5, OA + M + 5), (IOVA + 4 * M + domain.page + 7, OA + 48 * K + domain.page + 7)):
            found = look(iommu_guest, iova)
            assert (found.path[-1].kind, found.output) == (Kind.LEAF, oa)
        for iova in (IOVA - 1, IOVA + 2 * M, IOVA + 4 * M + 64 * K):
            found = look(iommu_guest, iova)
            assert (found.path[-1].kind, found.output) == (Kind.EMPTY, None)
        # No table of these reaches the middle of the address space.
        found = look(iommu_guest, 1 << 62)
        assert (found.path, found.output) == ((), None)
        iommu_check(domain)


@pytest.mark.iommu_rules("LKP-1", "LKP-2")
@pytest.mark.parametrize("kind", KINDS)
def test_the_path_is_that_of_memory(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Pages, blocks of each size, groups in parts and whole, tables that are empty, and what is between them."""
    domain = make(iommu, kind)
    where = 0
    for size in sorted(domain.config.page_sizes):
        where += (-where % size) + 3 * size
        if where + 2 * size > domain.model.format.aperture(domain.config)[1] or 8 * size > 1 << domain.config.oas:
            break
        domain.map(where, size, size, "rw")
        domain.map(where + size, 5 * size, size, "r")
        where += 2 * size
    domain.map(IOVA, OA, 2 * M, "rw", leaf=domain.page)
    domain.unmap(IOVA, M)
    row = parse_domains(iommu_guest.read(f"{MODULE}/domains").decode())[domain.name]
    texts = None if iommu_guest.in_ram is None else iommu_guest.in_ram.texts(domain.config, row)
    entries = iommu_guest.read(domain.path("entries")).decode() if texts is None else texts["entries"]
    asked = LookupFile(domain.name, domain.path("lookup"), domain.model.snapshot())
    results = iommu_guest.run(asked.ops).results
    if ops.errno_name(results[0].value) == "ENOENT":
        pytest.skip("this kernel's dump has no file lookup")
    files: dict[str, bytes] = {}
    wrong = asked.check(results, entries, files)
    if wrong:
        raise wrong[0].told(wrong[0].message, files=files)


@pytest.mark.iommu_rules("LKP-3", "LAY-5")
def test_what_is_written(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, "s1")
    domain.map(IOVA, OA, "2M", "rw")
    with opened(iommu_guest, domain, FIRST, SECOND):
        mode, nothing = iommu_guest.run([ops.stat(domain.path("lookup")), ops.read(FIRST, 4096)]).results
        assert (oct(mode.value), mode.data.split()[:2]) == ("0o100600", [b"0", b"0"])
        assert (nothing.value, nothing.data) == (0, b"")
        look(iommu_guest, IOVA)
        for text in (b"", b"x", b"0x", b"-1", b"0x1 0x2", b"0x10000000000000000", b"1" * 200):
            wrong, rest = iommu_guest.run([ops.write(FIRST, text), ops.read(FIRST, 4096)]).results
            assert ops.errno_name(wrong.value) in ("EINVAL", "ERANGE"), text
            # It changes nothing, the place in the file included: that was read to its end.
            assert rest.data == b"", text
        hexadecimal, read = iommu_guest.run([ops.write(FIRST, b"0x%x" % (IOVA + 9)), ops.read(FIRST, 4096)]).results
        assert answer((hexadecimal, read), IOVA + 9).output == OA + 9
        # Another open file has another IOVA, and both can be read again.
        look(iommu_guest, IOVA + M, SECOND)
        again = [ops.lseek(FIRST, 0), ops.read(FIRST, 4096), ops.lseek(SECOND, 0), ops.read(SECOND, 4096)]
        first, one, second, other = iommu_guest.run(again).results
        assert (first.value, second.value) == (0, 0)
        assert [parse_lookup(ops.text_of(read)).iova for read in (one, other)] == [IOVA + 9, IOVA + M]


@pytest.mark.iommu_rules("CON-9", "CON-10")
def test_in_pieces_and_after_the_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, "s1", 4096)
    domain.map(IOVA, OA, "4K", "rw")
    with opened(iommu_guest, domain, FIRST, SECOND):
        whole = iommu_guest.run(asked(FIRST, IOVA)).results[1].data
        written, *pieces = iommu_guest.run([asked(SECOND, IOVA)[0], *(ops.read(SECOND, 7) for _ in whole)]).results
        assert written.ok
        assert b"".join(piece.data for piece in pieces) == whole
        iommu.command(f"destroy {domain.name}")
        after = [
            *asked(FIRST, IOVA),
            ops.lseek(FIRST, 0),
            ops.read(SECOND, 7),
            ops.open_file(12, domain.path("lookup")),
        ]
        assert [ops.errno_name(result.value) for result in iommu_guest.run(after).results] == ["EIO"] * 4 + ["ENOENT"]


@pytest.mark.iommu_rules("LKP-2", "CON-1", "CON-2", "CON-4")
@pytest.mark.parametrize("kind", ["s1", "amdv1", "riscv_64"])
def test_while_the_table_comes_and_goes(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Of what is mapped and unmapped all the time a lookup finds the one or the other; what stays is always found."""
    domain = make(iommu, kind)
    page = domain.page
    stays = IOVA + 256 * M
    domain.map(stays, OA, page, "r")
    with opened(iommu_guest, domain, FIRST):
        # A page off, so these are pages: their tables are made and freed.
        there = f"map {domain.name} {IOVA:#x} {OA + page:#x} {4 * M:#x} rw\n"
        script = (there + f"unmap {domain.name} {IOVA:#x} {4 * M:#x}\n").encode()
        start = jobs.start_writer(WRITER, f"{MODULE}/control", script, rounds=0)
        assert iommu_guest.run([start]).results[0].ok
        seen: set[bool] = set()
        batch = [op for at in range(LOOKUPS) for op in asked(FIRST, IOVA + at * page if at % 4 else stays)]
        try:
            for _ in range(BATCHES):
                results = iommu_guest.run(batch).results
                for at in range(LOOKUPS):
                    iova = IOVA + at * page if at % 4 else stays
                    found = answer(results[2 * at : 2 * at + 2], iova)
                    if iova == stays:
                        assert found.output == OA, "what stays mapped is not found"
                    else:
                        assert found.output in (None, OA + page + at * page)
                        assert found.path[-1].kind in (Kind.LEAF, Kind.EMPTY)
                        seen.add(found.output is None)
                if len(seen) == 2:
                    break
        finally:
            iommu_guest.run([jobs.reset_jobs()])
        assert seen == {True, False}, f"the table was {'never' if True in seen else 'always'} there"


@pytest.mark.iommu_rules("CON-1", "LKP-2")
@pytest.mark.iommu_needs(machine="smmuv3")
@pytest.mark.iommu_boot_mode("held")
@pytest.mark.parametrize("kind", ["s1", "amdv1", "riscv_64"])
def test_a_table_goes_while_a_lookup_is_in_it(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """The lookup has loaded the item that leads to the table: nobody else gets the table until the lookup is through.

    io-pgtable leaves the items of such a table as they are, generic_pt clears them. Another domain then takes as many
    tables as may have become free.
    """
    domain, other, memory = make(iommu, kind, 4096), iommu.table("amdv1"), iommu_guest.memory
    domain.map(IOVA, OA, 2 * M, "rw", leaf=domain.page)
    iova = IOVA + 5 * domain.page
    hold = Hold(TABLE, iova, 1)
    with opened(iommu_guest, domain, FIRST):
        written = iommu_guest.run([ops.write(FIRST, b"%d\n" % iova)]).results[0]
        ranges = domain.model.snapshot().ranges
        place = DumpFile(domain.name, domain.path("lookup"), "lookup", domain.config, ranges, slot=FIRST)
        reader = HeldReader(iommu_guest.run, iommu_guest.gdb, memory, iommu_guest.machine, place, hold)
        reader.hold()
        try:
            assert memory is not None
            leaf = reader.path[-1]
            iommu.command(f"unmap {domain.name} {IOVA:#x} {2 * M:#x}")
            iommu.command(f"map {other.name} {iova:#x} {OTHER_OA:#x} 4K rw count={OTHERS} istep=2M")
            still = int.from_bytes(memory.read(leaf.address, 8), "little")
            reader.let_go()
        except BaseException:
            reader.abandon()
            raise
        (end,) = iommu_guest.run([jobs.wait_job(READER, 20000)], timeout=60).results
        text = b"".join(read.data for read in jobs.split_reads(end.data))
        left = leaf.raw if kind == "s1" else 0
        assert still == left, f"the table is free while a lookup is in it: 0x{leaf.raw:016x} became 0x{still:016x}"
        found = answer((written, replace(end, data=text)), iova)
        wanted = (Kind.LEAF, OA + 5 * domain.page) if kind == "s1" else (Kind.EMPTY, None)
        assert (found.path[-1].kind, found.output) == wanted
        for one in (domain, other):
            iommu.command(f"destroy {one.name}")
