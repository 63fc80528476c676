# SPDX-License-Identifier: GPL-2.0-only
"""What the IOMMU's entries say of a device that changes hands, and what is left of the domain that it was on.

Judged in memory alone, and by the device's DMA. Scenarios check the same after each attach and detach; here sysfs, the
drivers of user space and the type of the default domain move the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, STRICT, group_of, require_dma_domains, set_type, type_of
from pytest_iommu.check.owners.device_entries import Entries
from pytest_iommu.check.owners.drivers import group, node, vfio
from pytest_iommu.check.owners.editing import IOMMUFD, LOW, TYPE1, buffer
from pytest_iommu.check.owners.guest_program import Owner
from pytest_iommu.check.witnesses.transfers import Transfers
from pytest_iommu.guest import ops
from pytest_iommu.oracle.iommu import BLOCKED, BLOCKS, PASSES, TRANSLATES

DEVICE = "edu1"
DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
IOVA = 0x31230000
CLAIMED = "is claimed by its driver, and not attached"

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", devices=(DEVICE,)),
    pytest.mark.iommu_rules("HW-5", "TLB-4"),
]


@pytest.fixture
def entries(iommu_guest: GuestHandle, iommu: Iommu) -> Entries:
    """The device's entries, while its driver has claimed it."""
    found = Entries(iommu_guest, DEVICE)
    found.must_be(BLOCKS, CLAIMED)
    return found


Change = Callable[[str], None]


@pytest.fixture
def default(iommu_guest: GuestHandle) -> Iterator[Change]:
    """Takes the device's driver away, and sets the type of its default domain, which it is then on."""
    name, file = address(iommu_guest), f"{group_of(iommu_guest, place(iommu_guest))}/type"
    at_boot = iommu_guest.read(file).decode().strip()

    def bound() -> bool:
        return iommu_guest.run([ops.stat(f"{DRIVER}/{name}")]).results[0].ok

    def change(kind: str) -> None:
        if bound():
            iommu_guest.write(f"{DRIVER}/unbind", name)
        set_type(iommu_guest, file, kind)

    yield change
    if iommu_guest.alive and not bound():
        if iommu_guest.read(file).decode().strip() != at_boot:
            iommu_guest.write(file, at_boot)
        iommu_guest.write(f"{DRIVER}/bind", name)


def address(guest: GuestHandle) -> str:
    """What Linux calls the device."""
    return f"0000:{guest.machine.device(DEVICE).address}"


def place(guest: GuestHandle) -> str:
    """Its directory in sysfs."""
    return f"/sys/bus/pci/devices/{address(guest)}"


def stage_of(guest: GuestHandle) -> str:
    """The first stage of the machine."""
    return next(iter(guest.machine.stages))


def scratch_of(guest: GuestHandle) -> int:
    """An address of memory that nobody else uses."""
    assert guest.machine.scratch is not None
    return guest.machine.scratch[0]


@pytest.mark.iommu_rules("HW-1", "HW-2", "TAB-1")
def test_from_a_table_to_identity_and_back(
    entries: Entries, iommu: Iommu, iommu_guest: GuestHandle, default: Change
) -> None:
    require_dma_domains(iommu_guest)
    domain = iommu.domain(device=DEVICE, stage=stage_of(iommu_guest))
    domain.map(IOVA, scratch_of(iommu_guest), 3 * domain.page, "rw")
    domain.attach(DEVICE)
    entries.must_be(TRANSLATES, "is on a domain of ours")
    iommu.check(domain)
    ours = entries.top
    iommu.command(f"detach {DEVICE}")
    entries.must_be(BLOCKS, "is detached")
    default(IDENTITY)
    entries.must_be(PASSES, "is on an identity domain")
    default(STRICT)
    entries.must_be(TRANSLATES, "is on a domain of the DMA API", others=[ours])
    default(IDENTITY)
    entries.must_be(PASSES, "is on an identity domain")


@pytest.mark.iommu_rules("ISO-1", "TAB-1", "TLB-1")
def test_unbind_and_bind(entries: Entries, iommu: Iommu, iommu_guest: GuestHandle, default: Change) -> None:
    """A driver that goes leaves the default domain behind; ours claims the group, which blocks the device."""
    require_dma_domains(iommu_guest)
    domain = iommu.domain(device=DEVICE, stage=stage_of(iommu_guest))
    domain.map(IOVA, scratch_of(iommu_guest), domain.page, "rw")
    transfers = Transfers.of(iommu_guest, iommu, DEVICE)
    default(STRICT)
    entries.must_be(TRANSLATES, "is on a domain of the DMA API")
    theirs = entries.top
    for _ in range(2):
        iommu_guest.write(f"{DRIVER}/bind", address(iommu_guest))
        entries.must_be(BLOCKS, CLAIMED)
        transfers.hold("write", IOVA, BLOCKED, at=scratch_of(iommu_guest))
        domain.attach(DEVICE)
        entries.must_be(TRANSLATES, "is on a domain of ours", others=[theirs])
        iommu.check(domain)
        transfers.hold("write", IOVA, at=scratch_of(iommu_guest))
        iommu_guest.write(f"{DRIVER}/unbind", address(iommu_guest))
        entries.must_be(TRANSLATES, "has no driver", top=theirs)
        iommu.check(domain)


def test_from_stage_1_to_stage_2(entries: Entries, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """The entries of one stage go when those of the other come."""
    if len(iommu_guest.machine.stages) == 1:
        pytest.skip(f"the IOMMU of {iommu_guest.machine.name} has one stage")
    first, second = iommu.domain(device=DEVICE, stage="s1"), iommu.domain(device=DEVICE, stage="s2")
    first.attach(DEVICE)
    for domain, command in ((first, ""), (second, "replace"), (first, "replace")):
        if command:
            iommu.command(f"{command} {domain.name} {DEVICE}")
        entries.must_be(TRANSLATES, f"is on {domain.name}")
        iommu.check(domain)
    iommu.command(f"replace {second.name} {DEVICE}")
    iommu.command(f"detach {DEVICE}")
    entries.must_be(BLOCKS, "is detached")


@pytest.fixture
def owner(iommu_guest: GuestHandle) -> Iterator[Owner]:
    """A process for domains."""
    with Owner(iommu_guest) as started:
        yield started


def before(guest: GuestHandle, entries: Entries) -> str:
    """What the entries of a device say that is bound to VFIO while no process has it open."""
    state = PASSES if type_of(guest, place(guest)) == IDENTITY else TRANSLATES
    entries.must_be(state, "is on its default domain")
    return state


@pytest.mark.iommu_needs(config=IOMMUFD)
@pytest.mark.iommu_rules("HW-1", "HW-2")
@pytest.mark.parametrize("end", ["drop", "die"])
def test_a_device_of_iommufd(end: str, entries: Entries, iommu_guest: GuestHandle, owner: Owner) -> None:
    """Blocked while it is open and not attached; on its default domain when it is closed, or the process killed."""
    with vfio(iommu_guest, owner, DEVICE) as device:
        state, theirs = before(iommu_guest, entries), entries.top
        owner.tell("ioas a", f"device d {node(iommu_guest, device)}")
        entries.must_be(BLOCKS, "is open, and not attached")
        buffer(iommu_guest, owner)
        owner.tell(f"map a {LOW} rw m", "hwpt one d a", "hwpt two d a")
        tops: dict[str, int | None] = {}
        for name in ("one", "two", "one"):
            owner.tell(f"attach d {name}")
            others = [theirs, *(top for other, top in tops.items() if other != name)]
            entries.must_be(TRANSLATES, f"is attached to {name}", top=tops.get(name), others=others)
            tops[name] = entries.top
        owner.tell("detach d")
        entries.must_be(BLOCKS, "is detached")
        owner.tell("attach d two")
        entries.must_be(TRANSLATES, "is attached to two", top=tops["two"])
        if end == "die":
            owner.die()
        else:
            owner.tell("drop d")
        entries.must_be(state, "is closed", top=theirs)


@pytest.mark.iommu_needs(config=TYPE1)
@pytest.mark.iommu_rules("HW-1", "HW-2")
def test_a_device_of_a_container(entries: Entries, iommu_guest: GuestHandle, owner: Owner) -> None:
    """On the container's domain, and when that is closed on its default domain again."""
    with vfio(iommu_guest, owner, DEVICE) as device:
        state, theirs = before(iommu_guest, entries), entries.top
        for _ in range(2):
            owner.tell(f"container c {group(iommu_guest, device)}")
            entries.must_be(TRANSLATES, "is in a container", others=[theirs])
            owner.tell("drop c")
            entries.must_be(state, "is in no container", top=theirs)
