# SPDX-License-Identifier: GPL-2.0-only
"""A device is pulled out of its slot by QEMU's hand while readers are held: of its domain's table, and of its stream.

The guest's root port gives it up 5 s of its clock after the button was pressed, or once somebody inside asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.races.race import Race
from pytest_iommu.conformance.helpers import FILES, await_stuck
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Signal
from pytest_iommu.guest.testmodule import settled
from pytest_iommu.scenario.race_words import BATCH, LEAF, Hold

DEVICE, SLOTS = "edu6", "/sys/bus/pci/slots"
pytestmark = [
    pytest.mark.iommu_needs(machine="smmuv3topo", dialect="io_ptdump", devices=(DEVICE,)),
    pytest.mark.iommu_boot_mode("held"),
]

BASE, OA, COUNT = 0x40000000, 0x912340000, 200
BEGUN, PATIENCE = 1.0, 30.0
"""Seconds in which a removal is well on its way, and has ended."""
HURRY = 12
"""A job of the agent: the kernel keeps who writes to `power` until the device is out."""
DONE = 5000
"""Milliseconds in which a reader ends that was released."""


@pytest.fixture
def plugged(iommu: Iommu, iommu_guest: GuestHandle) -> Iterator[Domain]:
    """A domain with lines for several batches; the device, which is plugged in for this, is on it."""
    iommu_guest.plug(DEVICE)
    domain = iommu.domain(stage="s1", device=DEVICE)
    iommu.command(f"map {domain.name} {BASE:#x} {OA:#x} 4K rw count={COUNT} pstep=12K")
    for number in range(COUNT):
        domain.model.map(BASE + number * 4096, OA + number * 3 * 4096, 4096, Prot(True, True))
    domain.attach(DEVICE)
    yield domain
    if iommu_guest.alive:
        iommu_guest.run([jobs.reset_jobs()], timeout=60)
        if present(iommu_guest):
            iommu_guest.plug(DEVICE, add=False)


def slot(guest: GuestHandle) -> str:
    """The device's directory of sysfs."""
    return f"/sys/bus/pci/devices/0000:{guest.machine.device(DEVICE).address}"


def present(guest: GuestHandle) -> bool:
    """Whether the guest's kernel has the device."""
    return guest.run([ops.stat(slot(guest))]).results[0].ok


@contextmanager
def pulled(guest: GuestHandle) -> Iterator[None]:
    """The button of its slot is pressed and works at once; afterwards the device is out."""
    with guest.pulling(DEVICE):
        address = slot(guest).rpartition("/")[2].rpartition(".")[0]
        listed = ops.text_of(guest.run([ops.list_directory(SLOTS)]).results[0]).split()
        names = [name.rstrip("/@") for name in listed]
        found = guest.run([ops.read_file(f"{SLOTS}/{name}/address") for name in names]).results
        slots = [name for name, at in zip(names, found, strict=True) if ops.text_of(at).strip() == address]
        assert len(slots) == 1
        (begun,) = guest.run([jobs.start_writer(HURRY, f"{SLOTS}/{slots[0]}/power", b"0")]).results
        assert begun.ok
        yield


def gone(guest: GuestHandle, seconds: float) -> bool:
    """Wait until the guest's kernel has it no more."""
    deadline = Deadline(seconds)
    while present(guest):
        if deadline.over:
            return False
        guest.run([ops.sleep(50)])
    return True


def stream_is_gone(guest: GuestHandle, path: str) -> None:
    """CheckFailed (STE-1) while the directory of a stream is there."""
    if guest.run([settled(), ops.stat(path)]).results[1].ok:
        raise CheckFailed(f"{path} is there, and {DEVICE} is not", ("STE-1",))


@pytest.mark.iommu_rules("CON-1", "CON-6", "STE-1")
@pytest.mark.parametrize("at", [LEAF, BATCH])
def test_window_of_a_device_that_is_pulled_out(
    at: str, plugged: Domain, iommu_guest: GuestHandle, iommu_race: Callable[..., Race]
) -> None:
    """Its removal may wait for a reader inside the walk, for a grace period's sake; then not a moment longer."""
    stream = f"{iommu_guest.streams.path}/{iommu_guest.streams.sid(DEVICE)}"
    with ExitStack() as pulling, iommu_race(plugged, Hold(at, BASE + 5 * 4096)) as race:
        pulling.enter_context(pulled(iommu_guest))
        left = gone(iommu_guest, BEGUN if at == LEAF else PATIENCE)
        assert left or at == LEAF, f"the device does not go while there is {race.hold}"
    stream_is_gone(iommu_guest, stream)


@pytest.mark.iommu_rules("CON-6", "CON-9", "STE-1")
def test_stuck_readers_of_a_device_that_is_pulled_out(plugged: Domain, iommu_guest: GuestHandle) -> None:
    """Readers that are stuck in their own buffer do not hold its removal up; those of its stream get EIO afterwards."""
    stream = f"{iommu_guest.streams.path}/{iommu_guest.streams.sid(DEVICE)}"
    paths = [plugged.path(file) for file in FILES] + [f"{stream}/{file}" for file in ("ste", "cd")]
    whole = [iommu_guest.read(path) for path in paths]
    started = iommu_guest.run([jobs.start_reader(job, path, held=True) for job, path in enumerate(paths)]).results
    assert all(result.ok for result in started)
    for job, path in enumerate(paths):
        await_stuck(iommu_guest, job, path)
    with pulled(iommu_guest):
        pass
    stream_is_gone(iommu_guest, stream)
    for job, (path, text) in enumerate(zip(paths, whole, strict=True)):
        batch = [jobs.signal_job(job, Signal.RELEASE), jobs.wait_job(job, DONE)]
        end = iommu_guest.run(batch).results[1]
        read = b"".join(one.data for one in jobs.split_reads(end.data))
        if path.startswith(stream):
            assert (ops.errno_name(end.value), text.startswith(read)) == ("EIO", True), path
        else:
            assert end.ok, f"{path}: {ops.errno_name(end.value)}"
            assert read == text, f"{path}: the table did not change, but the dump did"
