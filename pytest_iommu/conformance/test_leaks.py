# SPDX-License-Identifier: GPL-2.0-only
"""Nothing is left of domains, tables and readers, however they ended: kmemleak for objects, free memory for tables.

kmemleak does not follow pages, so what an unmap did not give back is only seen by the pages that are missing.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.conformance.helpers import FILES, MEMINFO, await_stuck, make, meminfo, scan_twice
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Signal
from pytest_iommu.guest.testmodule import MODULE

pytestmark = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

KINDS = ("s1", "s2", "amdv1", "vtdss", "x86_64", "riscv_64", "arm_64_lpae_s1")
BASE = 0x40000000
PAGE, BLOCK = 0x1000, 0x200000
OA = 0x940000000
SLOT = 16
JOB = 0
ROUNDS = 8
#: how a table ends, and how many of them there are in a round: with its domain, under a block, with all its pages
ENDS = {"destroy": 1500, "block": 1500, "unmap": 1000}


def live(iommu: Iommu, guest: GuestHandle, kind: str) -> None:
    """A domain's life: tables are freed by unmap, by a block in their place, and with it; readers end in every way."""
    domain = make(iommu, kind, PAGE)
    name = domain.name
    iommu.command(f"map {name} {BASE:#x} {OA:#x} 4K rw count=8 istep=2M pstep=12K")
    iommu.command(f"map {name} 0x80000000 {OA:#x} 2M r leaf=4K")
    iommu.command(f"map {name} 0x90000000 {OA:#x} 4K r count=300 pstep=12K")
    hardware = kind in ("s1", "s2")
    if hardware:
        iommu.command(f"attach {name} edu0")
    slots = range(SLOT, SLOT + len(FILES))
    opened = [ops.open_file(slot, domain.path(file)) for slot, file in zip(slots, FILES, strict=True)]
    begun = guest.run([*opened, *(ops.read(slot, 100) for slot in slots)]).results
    assert all(result.ok for result in begun)
    killed(guest, domain)
    iommu.command(f"unmap {name} 0x80000000 2M")
    iommu.command(f"unmap {name} {BASE:#x} 4K")
    iommu.command(f"map {name} {BASE:#x} {OA:#x} 2M rw leaf=2M")
    iommu.command(f"unmap {name} {BASE:#x} 2M")
    guest.run([ops.read(slot, 100) for slot in slots])
    if hardware:
        iommu.command("detach edu0")
    iommu.command(f"destroy {name}")
    guest.run([*(ops.read(slot, 100) for slot in slots), *(ops.close(slot) for slot in slots)])


def killed(guest: GuestHandle, domain: Domain) -> None:
    """A reader that dies while its text is on the way to its memory."""
    assert guest.run([jobs.start_reader(JOB, domain.path("entries"), held=True)]).results[0].ok
    await_stuck(guest, JOB, "entries")
    (dead,) = guest.run([jobs.signal_job(JOB, Signal.KILL)], 60).results
    assert dead.ok, "a reader that was killed does not go away"


def free_memory(guest: GuestHandle) -> int:
    """Bytes that nobody has, after all grace periods and with the counters of the processors put together."""
    batch = [ops.read_file(f"{MODULE}/grace_period")] * 2
    batch += [ops.write_file("/proc/sys/vm/drop_caches", b"3"), ops.write_file("/proc/sys/vm/stat_refresh", b"1")]
    assert all(result.ok for result in guest.run(batch, 60).results)
    return meminfo(guest.read(MEMINFO))["MemFree"]


@pytest.mark.iommu_flavour("debug")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", config=["DEBUG_KMEMLEAK"])
@pytest.mark.iommu_rules("CON-9", "CON-11", "LAY-4")
def test_no_object_is_left_of_domains_and_readers(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    for kind in KINDS:
        live(iommu, iommu_guest, kind)
    iommu.reset()
    free_memory(iommu_guest)
    assert scan_twice(iommu_guest) == ""


# KASAN sees nothing here that the memory of a plain kernel does not, and takes six times as long.
@pytest.mark.iommu_flavour("plain")
@pytest.mark.iommu_rules("CON-11")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_every_table_comes_back(kind: str, end: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Rounds that have the same tables again and again: where most of them are left each time, it adds up."""
    number, free = ENDS[end], []
    blocks = f"{BASE:#x} {OA:#x} 2M rw count={number}"
    for _ in range(ROUNDS):
        domain = make(iommu, kind, PAGE)
        name = domain.name
        if end == "unmap":
            iommu.command(f"map {name} {blocks} leaf=4K")
        else:
            iommu.command(f"map {name} {BASE:#x} {OA:#x} 4K rw count={number} istep=2M")
        if end == "block":
            iommu.command(f"unmap {name} {BASE:#x} 4K count={number} istep=2M")
            iommu.command(f"map {name} {blocks} leaf=2M")
        if end != "destroy":
            iommu.command(f"unmap {name} {BASE:#x} 2M count={number}")
        iommu.command(f"destroy {name}")
        free.append(free_memory(iommu_guest))
    # Processors keep some MiB of free pages, more or less of them each time, and the first round fills caches.
    lost = min(free[1:3]) - max(free[-2:])
    assert lost < (ROUNDS - 4) * number * PAGE // 2, f"every round leaves something, of {number} tables: {free}"
