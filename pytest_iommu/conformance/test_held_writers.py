# SPDX-License-Identifier: GPL-2.0-only
"""CON-6 from the other side: who attaches, maps or unmaps is stopped with whatever it has locked, and readers finish.

An attach stands under group->mutex there, which the removal of a device takes as well: a reader of a stream that took
it would wait for a removal that waits for the reader.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.platform import linear_map
from pytest_iommu.check.races import processors, symbols
from pytest_iommu.check.races.trap import CPU, Trap
from pytest_iommu.conformance.helpers import FILES
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, parse_domains
from pytest_iommu.oracle.items import Root, item_address
from pytest_iommu.scenario.race_words import TIMEOUT

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_boot_mode("held"),
]

WRITER, READER = 0, 1
BASE, OA, SIZE = 0x31200000, 0x912345000, 2 << 20
HOLE, FULL = BASE + 5 * 4096, BASE - SIZE
#: Milliseconds for readers that nobody holds up: they take one
DONE = 5000


@dataclass(frozen=True, slots=True)
class Writer:
    """What is done; it is stopped where it stores the item at ``level`` for ``iova``, or where the driver attaches."""

    command: str
    iova: int = 0
    level: int = 0
    attaches: bool = False


ATTACH = {"smmuv3": "arm_smmu_attach_dev", "vtd": "intel_iommu_attach_device", "amd": "amd_iommu_attach_device"}
"""The function of a driver, by the type of IOMMU."""
WRITERS = {
    "attach": Writer("attach {name} edu0", attaches=True),
    "replace": Writer("replace {name} edu1", attaches=True),
    "map": Writer(f"map {{name}} {HOLE:#x} {OA:#x} 4K rw", HOLE),
    "map-of-a-table": Writer(f"map {{name}} {BASE + SIZE:#x} {OA:#x} 4K rw", BASE + SIZE, 1),
    "unmap": Writer(f"unmap {{name}} {BASE:#x} 4K", BASE),
    "unmap-of-a-table": Writer(f"unmap {{name}} {FULL:#x} {SIZE:#x}", FULL, 1),
}


@contextmanager
def stopped(guest: GuestHandle, domain: Domain, writer: Writer) -> Iterator[None]:
    """Somebody is stopped in the middle of a command on a domain; he goes on afterwards, and finishes."""
    gdb, memory, linear = guest.gdb, guest.memory, linear_map(guest.run)
    if gdb is None or memory is None or linear is None:
        pytest.skip("a writer is stopped by QEMU's gdbstub, which is not there, or memory is not seen")
    guest.run([jobs.reset_jobs()])
    command = f"{writer.command.format(name=domain.name)}\n".encode()
    job = jobs.start_writer(WRITER, f"{MODULE}/control", command, cpu=CPU)
    with Trap(gdb, guest.run, processors.of(guest.machine)) as trap:
        if writer.attaches:
            name = ATTACH[guest.machine.iommu_type]
            function = symbols.of(guest.run, memory).address(name)
            if function is None:
                pytest.skip(f"this kernel has no function {name}, or hides where it is")
            trap.attach()
            trap.catch_call(function, [job], TIMEOUT)
        else:
            row = parse_domains(guest.read(f"{MODULE}/domains").decode())[domain.name]
            assert row.top is not None
            root = Root(domain.config, row.top, row.levels or domain.config.levels)
            item = item_address(memory, root, writer.iova, writer.level)
            trap.attach()
            trap.catch_store(linear(item.address), [job], TIMEOUT)
        trap.freeze()
        yield
        trap.wake([])
    (ended,) = guest.run([jobs.wait_job(WRITER, DONE)]).results
    assert ended.ok, f"{writer.command}, once it may go on: {ops.errno_name(ended.value)}"


def held_up(guest: GuestHandle, paths: list[str]) -> list[str]:
    """Those of these files that are not read while nobody goes on."""
    started = [jobs.start_reader(READER + number, path) for number, path in enumerate(paths)]
    assert all(result.ok for result in guest.run(started).results)
    late: list[str] = []
    for number, path in enumerate(paths):
        (result,) = guest.run([jobs.wait_job(READER + number, DONE if not late else 0)], timeout=30).results
        if result.value == -errno.ETIMEDOUT:
            late.append(path)
        else:
            assert result.ok, f"{path}: {ops.errno_name(result.value)}"
    return late


@pytest.mark.iommu_rules("CON-6")
@pytest.mark.parametrize("stage", ["s1", "s2"])
@pytest.mark.parametrize("what", WRITERS)
def test_readers_do_not_wait_for_a_writer(what: str, stage: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain, other = (iommu.domain(stage, granule=4096) for _ in range(2))
    for one in (domain, other):
        for iova in (FULL, BASE):
            one.map(iova, OA, SIZE, leaf="4K")
        one.unmap(HOLE, "4K")
    other.attach("edu1")
    with stopped(iommu_guest, domain, WRITERS[what]):
        late = held_up(iommu_guest, files(iommu_guest, domain, other))
    assert not late, f"while {what} stands still, these cannot be read: {', '.join(late)}"


def files(guest: GuestHandle, *domains: Domain) -> list[str]:
    """All files of these domains, and of the streams of the devices where the IOMMU is an SMMUv3."""
    found = [domain.path(file) for domain in domains for file in FILES]
    if guest.machine.iommu_type != "smmuv3":
        return found
    streams = [f"{guest.streams.path}/{guest.machine.device(name).sid}" for name in ("edu0", "edu1")]
    return [*found, *(f"{stream}/{file}" for stream in streams for file in ("ste", "cd"))]
