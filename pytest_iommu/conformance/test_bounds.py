# SPDX-License-Identifier: GPL-2.0-only
"""CON-6 to CON-8 on a quiet table: what an open file costs, and that nobody waits for it."""

from __future__ import annotations

import statistics

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.conformance.helpers import MEMINFO, meminfo
from pytest_iommu.guest import ops

pytestmark = pytest.mark.iommu_needs(dialect="io_ptdump")

PAGE = 4096
READERS = 48
LEAVES = 1 << 18
# What slabs and per-CPU lists take or give back meanwhile, for all readers together.
NOISE = 256 * 1024
# With KASAN, what was freed is kept for a while.
NOISE_DEBUG = 4 * NOISE


def slab_and_pages(guest: GuestHandle) -> int:
    """Kernel memory that is neither free nor a page table, in bytes, after what is freed late has been freed."""
    fields = meminfo(guest.read(MEMINFO))
    return fields["MemTotal"] - fields["MemFree"]


def held_by_readers(guest: GuestHandle, path: str) -> int:
    """Bytes that READERS open files take, each of them in the middle of its file; the median of four rounds."""
    opened = [op for slot in range(READERS) for op in (ops.open_file(slot, path), ops.read(slot, 100))]
    closed = [ops.close(slot) for slot in range(READERS)]
    rounds = []
    for _ in range(5):
        before = slab_and_pages(guest)
        assert all(result.ok for result in guest.run(opened).results)
        rounds.append(slab_and_pages(guest) - before)
        guest.run(closed)
    # The first round fills the slabs and the dentry cache, which keep what they have got.
    return int(statistics.median(rounds[1:]))


@pytest.mark.iommu_rules("CON-8")
@pytest.mark.parametrize("name", ["page_table", "entries"])
def test_memory_of_an_open_file_does_not_grow_with_the_table(name: str, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    domain = iommu.domain()
    page = domain.page
    iommu.command(f"map {domain.name} 0x1000000 0x41000000 {page} rw count=50 istep={2 * page}")
    small = held_by_readers(iommu_guest, domain.path(name))
    iommu.command(f"map {domain.name} 0x10000000 0x41000000 {page} rw count=10000 istep={2 * page}")
    large = held_by_readers(iommu_guest, domain.path(name))
    # One page of seq buffer and 4 KiB more; file, seq_file and slab rounding are the same for any file.
    noise = NOISE_DEBUG if iommu_guest.key.flavour == "debug" else NOISE
    limit = READERS * (page + 4096 + 2048) + noise
    assert large <= limit, f"{large // READERS} bytes for each reader"
    assert large <= small + noise, f"{small // READERS} bytes for 50 leaves, {large // READERS} for 10050"


@pytest.mark.iommu_rules("CON-9", "CON-6")
@pytest.mark.parametrize("name", ["page_table", "entries", "info", "stats"])
def test_a_domain_with_a_reader_in_the_middle_is_freed_at_once(
    name: str, iommu_guest: GuestHandle, iommu: Iommu
) -> None:
    domain = iommu.domain()
    iommu.command(f"map {domain.name} 0x1000000 0x41000000 {domain.page} rw count=1000 istep={2 * domain.page}")
    path = domain.path(name)
    opened = iommu_guest.run([ops.open_file(1, path), ops.read(1, 10)]).results
    assert [result.value for result in opened] == [0, 10]
    # A free that waits for the file would wait for this test: the guest's answer would not come.
    iommu.command(f"destroy {domain.name}")
    left, again = iommu_guest.run([ops.read(1, 10), ops.open_file(2, path), ops.close(1)]).results[:2]
    assert ops.errno_name(left.value) == "EIO"
    assert ops.errno_name(again.value) == "ENOENT"


@pytest.mark.iommu_rules("CON-7")
@pytest.mark.parametrize("empty", [False, True], ids=["full", "emptied"])
def test_a_large_table_is_read_without_a_stall(empty: bool, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """A quarter of a million leaves, or as many empty items: one line or none, in one read."""
    domain = iommu.domain()
    page = domain.page
    size = LEAVES * page
    iommu.command(f"map {domain.name} {size} 0x41000000 {size} rw leaf={page}")
    if empty:
        iommu.command(f"unmap {domain.name} {size} {size} leaf={page}")
    reply = iommu_guest.run([ops.read_file(domain.path("page_table")), ops.read_file(domain.path("stats"))], timeout=60)
    table, stats = (result.data.decode() for result in reply.results)
    assert len(table.splitlines()) == (0 if empty else 1)
    tables = 8 * LEAVES // page
    assert f"0 {tables} {0 if empty else LEAVES} {8 * LEAVES}" in stats.splitlines()
    assert "stall" not in reply.kmsg
    assert "lockup" not in reply.kmsg
