# SPDX-License-Identifier: GPL-2.0-only
"""Unmaps that each free hundreds of tables, one after the other: what waits for grace periods stays within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.conformance.helpers import FILES, GROUPS, MEMINFO, WRITER, limited, make, meminfo
from pytest_iommu.core.protocol import Op
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Signal
from pytest_iommu.guest.testmodule import MODULE

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", config=("MEMCG",)),
    pytest.mark.iommu_rules("CON-11"),
]

CONTROL = f"{MODULE}/control"
#: tables that one unmap frees, and what they span
TABLES, BLOCK = 512, 0x200000
SPAN = TABLES * BLOCK
UNMAPS = 200
ZONES = "/proc/zoneinfo"
#: pages by which the kernel's counters may be behind
UNCOUNTED = 128
#: unmaps in one batch of the agent: it has to answer in time
BATCH = 10
#: How much memory may be waiting, in unmaps. The time of a functional guest is what it executes: 1 to 3 were measured,
#: and the bound is near. Where vCPUs are threads of the host, a grace period takes as long as the host keeps one of
#: them off its cores: 4 to 12 were measured, 25 beside ten busy processes. Half of all would be no bound any more.
WAITING = {"functional": 6, "races": UNMAPS // 2}
LIMITED = 40
#: what the kernel charges ahead for each processor, and a writer's own memory
MARGIN = 512 << 10
#: jobs of the agent
READERS = (1, 2)
PATIENCE = 60


def unmaps(domain: Domain, count: int) -> bytes:
    """Commands that map SPAN in smallest pages and unmap it again."""
    map_all = f"map {domain.name} {SPAN:#x} {SPAN:#x} {SPAN:#x} rw leaf={domain.page}"
    command = f"{map_all}\nunmap {domain.name} {SPAN:#x} {SPAN:#x}\n"
    return (command * count).encode()


@contextmanager
def reading(guest: GuestHandle, domain: Domain, names: tuple[str, ...]) -> Iterator[None]:
    """Readers of a domain's files, each round and round until the end of the block; none of them fails."""
    started = [
        jobs.start_reader(job, domain.path(name), rounds=0, keep=False, cpu=job % 2)
        for job, name in zip(READERS, names, strict=False)
    ]
    begun = [jobs.await_rounds(READERS[: len(names)], 0, 20000)] if names else []
    assert all(result.ok for result in guest.run([*started, *begun], PATIENCE).results)
    try:
        yield
        for job, _ in zip(READERS, names, strict=False):
            _, ended = guest.run([jobs.signal_job(job, Signal.STOP), jobs.wait_job(job, 20000)], PATIENCE).results
            assert ended.ok, f"a reader ends with {ops.errno_name(ended.value)}"
            assert jobs.split_digest(ended.data).reads, "a reader has not read"
    finally:
        if guest.alive:
            guest.run([jobs.reset_jobs()], PATIENCE)


@pytest.mark.iommu_rules("CON-7")
@pytest.mark.parametrize(
    ("boot_mode", "names"),
    [
        pytest.param("functional", (), id="alone"),
        pytest.param("races", (), id="races-alone", marks=pytest.mark.iommu_boot_mode("races")),
        pytest.param("races", FILES[1:3], id="races-with-readers", marks=pytest.mark.iommu_boot_mode("races")),
    ],
)
def test_memory_stays_within_bounds(
    boot_mode: str, names: tuple[str, ...], iommu_guest: GuestHandle, iommu: Iommu, request: pytest.FixtureRequest
) -> None:
    domain = iommu.domain()
    domain.map(0x1000000, 0x41000000, "64K", "rw")
    look = ops.read_file(MEMINFO)
    settled: list[Op] = [ops.read_file(f"{MODULE}/grace_period"), ops.write_file("/proc/sys/vm/stat_refresh", b"1")]
    *_, before = iommu_guest.run([ops.write_file(CONTROL, unmaps(domain, 1)), *settled, look], PATIENCE).results
    least = []
    number = UNMAPS if iommu_guest.key.flavour == "plain" else UNMAPS // 4
    with reading(iommu_guest, domain, names):
        for _ in range(number // BATCH):
            reply = iommu_guest.run([ops.write_file(CONTROL, unmaps(domain, 1)), look] * BATCH, PATIENCE)
            assert all(result.ok for result in reply.results)
            assert not re.search(r"stall|lockup|hung|blocked for", reply.kmsg)
            least += [meminfo(result.data)["MemFree"] for result in reply.results[1::2]]
    peak = meminfo(before.data)["MemFree"] - min(least)
    one = TABLES * domain.page
    request.node.user_properties.append(("peak of freed tables, bytes", peak))
    assert peak <= WAITING[boot_mode] * one, f"{peak >> 10} KiB are waiting when each unmap frees {one >> 10} KiB"
    *_, after = iommu_guest.run([*settled, look], PATIENCE).results
    left = meminfo(before.data)["MemFree"] - meminfo(after.data)["MemFree"]
    assert left <= WAITING[boot_mode] * one, f"{left >> 10} KiB do not come back"


def test_a_limit_holds_as_without_the_option(
    groups: None, iommu_guest: GuestHandle, iommu: Iommu, request: pytest.FixtureRequest
) -> None:
    """Who may have the tables of one map may have them again once they are unmapped, grace period or not.

    What is freed stays charged until the grace period ends, and reclaim cannot wait for that: the allocation does.
    """
    domain = iommu.domain()
    one, many = f"{GROUPS}/one-{domain.id}", f"{GROUPS}/many-{domain.id}"
    assert limited(iommu_guest, one, jobs.start_writer(WRITER, CONTROL, unmaps(domain, 1))) > 0
    needed = int(iommu_guest.read(f"{one}/memory.peak"))
    assert needed >= TABLES * domain.page, f"{needed} bytes are charged for {TABLES} tables"
    limit = needed + MARGIN
    value = limited(iommu_guest, many, jobs.start_writer(WRITER, CONTROL, unmaps(domain, LIMITED)), limit)
    done = iommu_guest.read(f"{MODULE}/status").decode().splitlines()
    events = dict(line.split() for line in iommu_guest.read(f"{many}/memory.events").decode().splitlines())
    request.node.user_properties.append(("times at the limit", events["max"]))
    what = f"with {limit >> 10} KiB, one map takes {needed >> 10} KiB: {done[-1]}, of {2 * LIMITED}"
    assert value > 0, f"{what}, {ops.errno_name(value)}; at the limit {events['max']} times"
    assert events["oom"] == "0", f"{what}; out of memory {events['oom']} times"


@pytest.mark.parametrize("kind", ["s1", "amdv1"])
def test_the_tables_of_a_domain_go_at_once(kind: str, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """No reader can be left, so nothing waits for a grace period: the memory is back with the answer."""
    domain = make(iommu, kind, 4096)
    domain.map(SPAN, SPAN, SPAN, "rw", leaf="4K")
    look = ops.read_file(ZONES)
    settled = [ops.read_file(f"{MODULE}/rcu_barrier"), ops.write_file("/proc/sys/vm/drop_caches", b"3"), look]
    before = free_pages(iommu_guest.run(settled, PATIENCE).results[-1].data)
    destroy = ops.write_file(CONTROL, f"destroy {domain.name}\n".encode())
    after = free_pages(iommu_guest.run([destroy, look], PATIENCE).results[-1].data)
    assert after - before >= TABLES - UNCOUNTED, f"{after - before} pages of {TABLES} came back at once"


def free_pages(zones: bytes) -> int:
    """Pages that anybody can have: those that a processor keeps to itself are not in MemFree, and may be thousands."""
    return sum(int(number) for number in re.findall(rb"(?:nr_free_pages|count:) +(\d+)", zones))
