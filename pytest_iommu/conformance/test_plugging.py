# SPDX-License-Identifier: GPL-2.0-only
"""A device that comes and goes behind a root port, judged in memory and by its DMA, on every IOMMU.

topology.iommu.yaml has what an SMMUv3's debugfs says of the same, test_unplug.py readers that are held meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, type_of
from pytest_iommu.check.owners.device_entries import Entries
from pytest_iommu.check.plugging import pluggable
from pytest_iommu.check.witnesses.transfers import Transfers
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.guest import ops
from pytest_iommu.oracle.iommu import BLOCKED, BLOCKS, PASSES, TRANSLATES

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", devices=("port0", "edu0")),
    pytest.mark.iommu_rules("HW-1", "HW-2", "HW-5", "TAB-1", "ISO-1"),
]

DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
IOVA = 0x31230000
CLAIMED = "is claimed by its driver, and not attached"


@dataclass(frozen=True, slots=True)
class Slot:
    """A root port's slot: the device that is plugged in there, and a domain for it that holds two pages."""

    guest: GuestHandle
    device: str
    domain: Domain
    entries: Entries
    transfers: Transfers
    #: where the first page leads to
    place: int

    @property
    def path(self) -> str:
        """The device's directory in sysfs."""
        return f"/sys/bus/pci/devices/0000:{self.guest.machine.device(self.device).address}"

    def plug(self) -> None:
        """Plug it in; the test module claims it."""
        self.guest.plug(self.device)
        self.entries.must_be(BLOCKS, CLAIMED)

    def unplug(self) -> None:
        """Take it out; nothing may be left of it."""
        self.guest.plug(self.device, add=False)
        self.entries.must_be(BLOCKS, "is unplugged", present=False)

    def use(self, iommu: Iommu) -> None:
        """Attach it, and write."""
        self.domain.attach(self.device)
        self.entries.must_be(TRANSLATES, "is attached")
        iommu.check(self.domain)
        self.transfers.hold("write", IOVA, at=self.place)
        self.transfers.hold("write", IOVA + 2 * self.domain.page, "F_TRANSLATION")


@pytest.fixture
def slot(iommu_guest: GuestHandle, iommu: Iommu) -> Iterator[Slot]:
    """The slot of the machine, which is empty, and so it is left."""
    device = pluggable(iommu_guest.machine).name
    domain = iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    assert iommu_guest.machine.scratch is not None
    place = iommu_guest.machine.scratch[0]
    for offset in (0, domain.page):  # a leaf each, so that one can go
        domain.map(IOVA + offset, place + offset, domain.page, "rw")
    entries, transfers = Entries(iommu_guest, device), Transfers.of(iommu_guest, iommu, device)
    found = Slot(iommu_guest, device, domain, entries, transfers, place)
    yield found
    if iommu_guest.alive and iommu_guest.run([ops.stat(found.path)]).results[0].ok:
        iommu_guest.plug(device, add=False)


def test_a_device_comes_and_goes(slot: Slot, iommu: Iommu) -> None:
    """Blocked until it is attached, and blocked again when it is there the next time; its domain stays."""
    for _ in range(2):
        slot.plug()
        slot.transfers.hold("write", IOVA, BLOCKED, at=slot.place)
        slot.use(iommu)
        slot.unplug()
        iommu.check(slot.domain)


def test_others_stay_while_a_device_comes_and_goes(slot: Slot, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Another device on the same domain reaches the same memory all the time."""
    others = Entries(iommu_guest, "edu0"), Transfers.of(iommu_guest, iommu, "edu0")

    def stays() -> None:
        others[0].must_be(TRANSLATES, "is attached")
        others[1].hold("write", IOVA, at=slot.place)

    slot.domain.attach("edu0")
    stays()
    slot.plug()
    stays()
    slot.use(iommu)
    stays()
    slot.unplug()
    stays()
    iommu.check(slot.domain)


@pytest.mark.iommu_rules("HW-3", "TLB-3")
def test_what_comes_next_has_nothing_of_what_went(slot: Slot, iommu: Iommu) -> None:
    """Another domain, at the same IOVA: what the IOMMU has cached of the last one must not be found any more."""
    slot.plug()
    slot.use(iommu)
    slot.unplug()
    iommu.command(f"destroy {slot.domain.name}")
    other = iommu.domain(stage=next(iter(slot.guest.machine.stages)))
    other.map(IOVA, slot.place + 8 * other.page, other.page, "rw")
    slot.plug()
    other.attach(slot.device)
    iommu.check(other)
    slot.transfers.hold("write", IOVA, at=slot.place + 8 * other.page, rule="TLB-3")


def test_a_device_without_a_driver_is_on_its_default_domain(slot: Slot, iommu: Iommu) -> None:
    """The kernel makes one for the group that comes with the device, and frees it with the group."""
    slot.plug()
    name = slot.path.rpartition("/")[2]
    slot.guest.write(f"{DRIVER}/unbind", name)
    state = PASSES if type_of(slot.guest, slot.path) == IDENTITY else TRANSLATES
    slot.entries.must_be(state, "has no driver")
    slot.guest.write(f"{DRIVER}/bind", name)
    slot.entries.must_be(BLOCKS, CLAIMED)
    slot.guest.write(f"{DRIVER}/unbind", name)
    slot.entries.must_be(state, "has no driver")
    slot.unplug()


@pytest.mark.iommu_rules("TLB-1")
def test_a_reset(slot: Slot, iommu: Iommu) -> None:
    """The entries are afterwards what they were. Linux 7.3 blocks devices with ATS meanwhile, which edu has not."""
    slot.plug()
    reset(slot)
    slot.entries.must_be(BLOCKS, CLAIMED)
    slot.transfers.hold("write", IOVA, BLOCKED, at=slot.place)
    slot.use(iommu)
    top = slot.entries.top
    reset(slot)
    slot.entries.must_be(TRANSLATES, "is attached, and was reset", top=top)
    iommu.check(slot.domain)
    slot.transfers.hold("write", IOVA, at=slot.place)
    slot.domain.unmap(IOVA, slot.domain.page)
    iommu.check(slot.domain)
    slot.transfers.hold("write", IOVA, "F_TRANSLATION", at=slot.place, rule="TLB-1")
    iommu.command(f"detach {slot.device}")
    slot.entries.must_be(BLOCKS, "is detached")


def reset(slot: Slot) -> None:
    """Reset the device: alone on its bus, by resetting the bus. Skips where the kernel has no way to do it."""
    (method,) = slot.guest.run([ops.read_file(f"{slot.path}/reset_method")]).results
    if not method.data.strip():
        pytest.skip("the kernel has no way to reset this device")
    (result,) = slot.guest.run([ops.write_file(f"{slot.path}/reset", b"1")]).results
    if not result.ok:
        text = f"the reset of {slot.device} fails with {ops.errno_name(result.value)}"
        raise CheckFailed(text, ("HW-5",), verdict=Verdict.COMMAND)
