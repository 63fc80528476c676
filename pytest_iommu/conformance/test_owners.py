# SPDX-License-Identifier: GPL-2.0-only
"""Domains of user space: VFIO's type1 container, iommufd's page tables, and those of devices without an IOMMU.

A program in the guest makes them (guest/owner); what it mapped, and where that memory is, says what the dump must be.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_iommu import formats
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.directories import Owned, directories
from pytest_iommu.check.owners.drivers import group, node, vfio, without_iommu
from pytest_iommu.check.owners.editing import IOMMUFD, LOW, TYPE1, buffer, edit
from pytest_iommu.check.owners.guest_program import Owner, OwnerError, Space
from pytest_iommu.core.model import TableConfig
from pytest_iommu.session.hookcalls import listener

NO_IOMMU = ("VFIO_PLATFORM", "VFIO_DEVICE_CDEV", "IOMMUFD_NOIOMMU")


def needs(*config: str) -> pytest.MarkDecorator:
    """A device for VFIO, and a kernel that has this."""
    return pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=("edu0", "edu1"), config=config)


@pytest.fixture
def domains(iommu_guest: GuestHandle, iommu: Iommu, request: pytest.FixtureRequest) -> Owned:
    """What there is while the test module has no domain."""
    return Owned(iommu_guest, listener(request.node), directories(iommu_guest))


@pytest.fixture
def owner(iommu_guest: GuestHandle, domains: Owned) -> Iterator[Owner]:
    """A process for domains. When it has ended all directories must be gone."""
    with Owner(iommu_guest) as started:
        yield started
    if iommu_guest.alive:
        domains.only()


@pytest.fixture
def vfio_edu1(iommu_guest: GuestHandle, owner: Owner) -> Iterator[str]:
    """edu1 for VFIO; its directory in sysfs."""
    with vfio(iommu_guest, owner, "edu1") as device:
        yield device


@pytest.fixture
def kind(iommu_guest: GuestHandle) -> TableConfig:
    """What a table is on this machine that was not asked to be of stage 2."""
    return iommu_guest.hardware_table(next(iter(iommu_guest.machine.stages)))


@pytest.fixture
def s2(iommu_guest: GuestHandle) -> TableConfig:
    """What a table of stage 2 is on this machine."""
    return iommu_guest.hardware_table("s2")


@pytest.mark.iommu_rules("LAY-2", "LAY-4", "INF-1", "INF-2", "INF-3", "RNG-1", "RNG-6")
@needs(*TYPE1)
def test_vfio_type1(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned, kind: TableConfig) -> None:
    """The domain of a container comes with its IOMMU and goes with the container."""
    domains.only()
    owner.tell(f"container c {group(iommu_guest, vfio_edu1)}")
    number = domains.new()
    space = Space(owner, "c")
    model = space.table(number, kind)
    domains.check(number, model, "edu1")
    for _ in edit(space, buffer(iommu_guest, owner)):
        domains.check(number, model, "edu1")
    owner.tell("drop c")
    domains.only()


@pytest.mark.iommu_rules("LAY-2", "LAY-4", "INF-1", "INF-2", "INF-3", "RNG-1", "RNG-6")
@needs(*IOMMUFD)
def test_iommufd_makes_a_table_for_an_attach(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned, kind: TableConfig
) -> None:
    """An IOAS alone has no table: one comes with the first device, by the driver's own op, and goes with the last."""
    owner.tell("ioas a")
    memory = buffer(iommu_guest, owner)
    space = Space(owner, "a")
    space.map(LOW - memory.size, memory)
    owner.tell(f"device d {node(iommu_guest, vfio_edu1)}")
    domains.only()
    owner.tell("attach d a")
    number = domains.new()
    model = space.table(number, kind)
    domains.check(number, model, "edu1")
    for _ in edit(space, memory):
        domains.check(number, model, "edu1")
    owner.tell("detach d")
    domains.only()
    owner.tell("attach d a")
    assert domains.new() != number
    owner.tell("drop d")
    domains.only()


@pytest.mark.iommu_rules("LAY-2", "LAY-4", "INF-1", "INF-2", "INF-3", "RNG-1", "RNG-6")
@needs(*IOMMUFD)
def test_iommufd_tables_by_request(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned, kind: TableConfig
) -> None:
    """All tables of one IOAS hold the same mappings, and each has a directory, attached to or not."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "hwpt one d a")
    one = domains.new()
    space = Space(owner, "a")
    first = space.table(one, kind)
    memory = buffer(iommu_guest, owner)
    space.map(LOW - memory.size, memory)
    owner.tell("hwpt two d a")
    two = domains.new(one)
    second = space.table(two, kind)
    owner.tell("attach d two")
    for _ in edit(space, memory):
        domains.check(one, first)
        domains.check(two, second, "edu1")
    owner.tell("attach d one")
    domains.check(one, first, "edu1")
    owner.tell("drop two")
    domains.only(one)
    owner.tell("detach d")
    domains.only(one)
    domains.check(one, first)
    owner.tell("drop one")
    domains.only()


@pytest.mark.iommu_rules("LAY-2", "LAY-4", "INF-1", "INF-2", "INF-3", "RNG-1")
@needs(*IOMMUFD)
def test_a_nest_parent_is_a_table_of_stage_2(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned, s2: TableConfig
) -> None:
    """It translates what a virtual machine takes for physical addresses; a device can also be attached to it alone."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}")
    try:
        owner.tell("hwpt parent d a nest-parent")
    except OwnerError as error:
        pytest.skip(f"this IOMMU has no nest parents: {error}")
    number = domains.new()
    space = Space(owner, "a")
    model = space.table(number, s2)
    domains.check(number, model)
    owner.tell("attach d parent")
    for _ in edit(space, buffer(iommu_guest, owner)):
        domains.check(number, model, "edu1")
    owner.tell("detach d")
    domains.only(number)
    owner.tell("drop parent")
    domains.only()


@pytest.mark.iommu_rules("LAY-2")
@needs(*IOMMUFD, "ARM_SMMU_V3_IOMMUFD")
def test_a_nested_table_has_no_directory(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned
) -> None:
    """It is the user's: the kernel has no table to show, only the parent's."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "hwpt parent d a nest-parent")
    parent = domains.new()
    try:
        owner.tell("viommu v d parent")
    except OwnerError as error:
        domains.only(parent)
        pytest.skip(f"neither S2FWB nor a cache that devices cannot bypass, so no nested tables: {error}")
    owner.tell("nested n d v", "attach d n")
    domains.only(parent)


@pytest.mark.iommu_rules("LAY-4", "FLT-1")
@needs(*IOMMUFD)
def test_a_table_that_is_refused_leaves_nothing(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned
) -> None:
    """A nest parent has neither PASIDs nor dirty tracking; iommufd refuses the one, the driver the other."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}")
    for flags in ("nest-parent dirty", "nest-parent pasid", "nest-parent pasid dirty"):
        with pytest.raises(OwnerError, match="HWPT_ALLOC"):
            owner.tell(f"hwpt h d a {flags}")
        domains.only()


@pytest.mark.iommu_rules("LAY-2", "LAY-4")
@needs(*IOMMUFD)
def test_the_tables_of_a_dead_process_are_gone(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned
) -> None:
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "hwpt one d a", "hwpt two d a", "attach d one")
    buffer(iommu_guest, owner)
    owner.tell(f"map a {LOW} rw m")
    assert len(directories(iommu_guest) - domains.before) == 2
    owner.die()
    domains.only()


@pytest.mark.iommu_rules("LAY-2", "LAY-3", "LAY-4")
@needs(*TYPE1, *IOMMUFD)
def test_all_owners_at_once(
    iommu_guest: GuestHandle, iommu: Iommu, owner: Owner, vfio_edu1: str, domains: Owned, kind: TableConfig
) -> None:
    """A container, iommufd and a module, each with mappings of its own at the same IOVA."""
    with vfio(iommu_guest, owner, "edu0") as edu0:
        memory = buffer(iommu_guest, owner)
        owner.tell(f"container c {group(iommu_guest, edu0)}")
        first = domains.new()
        owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "attach d a")
        second = domains.new(first)
        table = iommu.table("amdv1")
        domains.only(first, second, table.id)
        container, space = Space(owner, "c"), Space(owner, "a")
        container.table(first, kind)
        space.table(second, kind)
        container.map(LOW, memory, "rw", 0, 2 * memory.page)
        space.map(LOW, memory, "r", 2 * memory.page, 4 * memory.page)
        table.map(LOW, 0x912340000, "12K")
        domains.check(first, container.models[first], "edu0")
        domains.check(second, space.models[second], "edu1")
        iommu.check(table)
        owner.tell("drop c")
        domains.only(second, table.id)
        domains.check(second, space.models[second], "edu1")
        iommu.command(f"destroy {table.name}")
        domains.only(second)


@pytest.mark.iommu_rules("LAY-2", "LAY-4", "INF-1", "INF-2", "INF-3", "RNG-1", "LVL-1", "LVL-2")
@needs(*NO_IOMMU)
def test_iommufd_without_an_iommu(iommu_guest: GuestHandle, owner: Owner, domains: Owned) -> None:
    """A table that no hardware reads (hwpt_noiommu.c): amdv1, three levels at first, whose top grows by mapping."""
    with without_iommu(iommu_guest, owner) as device:
        owner.tell("ioas a", f"device d {node(iommu_guest, device)}", "attach d a")
        number = domains.new()
        space = Space(owner, "a")
        model = space.table(number, formats.configure("amdv1", levels=3, vasz=64, oasz=52))
        domains.check(number, model)
        memory = buffer(iommu_guest, owner)
        space.map(LOW, memory)
        domains.check(number, model)
        levels = {model.top + 1}
        page = memory.page
        # The last page alone: of more than one, 7.3's batch_to_domain() loses the end (last_iova + 1 is 0).
        for iova, letters, size in (
            (1 << 39, "r", 3 * page),
            (1 << 48, "rw", memory.size - page),
            (1 << 57, "w", 8 * page),
            ((1 << 64) - page, "rw", page),
        ):
            space.map(iova, memory, letters, page, size)
            domains.check(number, model)
            (said,) = owner.tell(f"translate a {iova:#x}")
            assert int(said["pa"], 0) == memory.pages[1], "the kernel itself sees other memory there"
            levels.add(model.top + 1)
        assert levels == {3, 4, 5, 6}
        space.unmap(LOW)
        space.unmap(1 << 57)
        domains.check(number, model)
        owner.tell("hwpt h d a")
        second = domains.new(number)
        domains.check(second, space.table(second, formats.configure("amdv1", levels=3, vasz=64, oasz=52)))
        owner.tell("detach d")
        domains.only(second)
        owner.tell("drop d")
        domains.only(second)
        owner.end()
        domains.only()


def pasid_bits(guest: GuestHandle, owner: Owner, device: str) -> int:
    """How many bits a PASID of the device has; skips when it has none."""
    owner.tell("ioas a", f"device d {node(guest, device)}")
    (said,) = owner.tell("hw-info d")
    bits = int(said.get("pasid-bits", "0"))
    if not bits:
        pytest.skip("edu1 has no PASIDs: iommufd says 0 bits")
    return bits


@pytest.mark.iommu_rules("LAY-2", "LAY-4")
@needs(*IOMMUFD)
def test_a_table_attached_to_a_pasid(
    iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, domains: Owned, kind: TableConfig
) -> None:
    pasid_bits(iommu_guest, owner, vfio_edu1)
    owner.tell("hwpt h d a pasid", "hwpt p d a pasid", "attach d h", "attach d p 1")
    assert len(directories(iommu_guest) - domains.before) == 2
    owner.tell("detach d 1", "drop p")
    number = domains.new()
    domains.check(number, Space(owner, "a").table(number, kind), "edu1")


@pytest.mark.iommu_rules("LAY-2", "FLT-2")
@needs(*IOMMUFD)
def test_a_process_of_sva_has_no_directory(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str) -> None:
    """Its table is the process's own."""
    bits = pasid_bits(iommu_guest, owner, vfio_edu1)
    pytest.skip(f"PASIDs have {bits} bits here, but no driver of this guest binds a process to a device")
