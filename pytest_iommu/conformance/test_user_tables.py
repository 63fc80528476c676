# SPDX-License-Identifier: GPL-2.0-only
"""Tables of user space in the guest's memory: what VFIO's type1 container and iommufd map, with a dump or without.

The table is found through the entries of the device that is attached to it, so it must be that of the domain, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.drivers import group, node, vfio
from pytest_iommu.check.owners.editing import IOMMUFD, LOW, TYPE1, buffer, edit, hold
from pytest_iommu.check.owners.guest_program import Owner, OwnerError, Space
from pytest_iommu.check.reading import Compared
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.guest.testmodule import DomainRow
from pytest_iommu.oracle import TableModel
from pytest_iommu.session.hookcalls import listener

TABLES = pytest.mark.iommu_rules("TAB-1", "TAB-2", "TAB-3", "TAB-4", "TAB-6", "HW-1")


def needs(*config: str) -> pytest.MarkDecorator:
    """A device for VFIO, and a kernel that has this."""
    return pytest.mark.iommu_needs(machine="emulated", devices=("edu1",), config=config)


@pytest.fixture
def compared(request: pytest.FixtureRequest) -> Compared:
    """Where comparisons are reported to."""
    return listener(request.node)


@pytest.fixture
def owner(iommu_guest: GuestHandle) -> Iterator[Owner]:
    """A process for domains."""
    with Owner(iommu_guest) as started:
        yield started


@pytest.fixture
def vfio_edu1(iommu_guest: GuestHandle, owner: Owner) -> Iterator[str]:
    """edu1 for VFIO; its directory in sysfs."""
    with vfio(iommu_guest, owner, "edu1") as device:
        yield device


def config_of(guest: GuestHandle) -> TableConfig:
    """What a table is on this machine that was not asked to be of another stage than the first."""
    return guest.hardware_table(next(iter(guest.machine.stages)))


def tried_by_vfio(guest: GuestHandle, model: TableModel, device: str) -> bool:
    """Whether the kernel has mapped and unmapped two pages at 0, to see how a new table unmaps a part of a request.

    Kernels up to 6.12 do (vfio_test_domain_fgsp()). Empty tables remain on the way to 0, and nowhere else.
    """
    if guest.in_ram is None:
        return False
    texts = guest.in_ram.texts(model.config, DomainRow("c", "-", (device,), None, None)) or {}
    entries = [line.split() for line in texts.get("entries", "").splitlines()]
    return bool(entries) and all(words[1:3] == [f"0x{0:016x}", "table"] for words in entries)


@TABLES
@pytest.mark.iommu_rules("HW-2")
@needs(*TYPE1)
def test_a_container(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, compared: Compared) -> None:
    """What a process maps through VFIO's type1 container is in the table of its device."""
    owner.tell(f"container c {group(iommu_guest, vfio_edu1)}")
    space = Space(owner, "c")
    model = space.table("c", config_of(iommu_guest))
    if tried_by_vfio(iommu_guest, model, "edu1"):
        page = min(model.config.page_sizes)
        model.map(0, 0, 2 * page, Prot.from_letters("rw"), page)
        model.unmap(0, 2 * page, page)
    hold(iommu_guest, compared, "c", model, "edu1", False)
    for unmapped in edit(space, buffer(iommu_guest, owner)):
        hold(iommu_guest, compared, "c", model, "edu1", unmapped)


@TABLES
@pytest.mark.iommu_rules("HW-2")
@needs(*IOMMUFD)
def test_an_ioas(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, compared: Compared) -> None:
    """What was mapped before the attach and what is mapped after it are both in the table."""
    owner.tell("ioas a")
    memory = buffer(iommu_guest, owner)
    space = Space(owner, "a")
    space.map(LOW - memory.size, memory)
    space.map(LOW - 2 * memory.size, memory, "r", memory.page, 2 * memory.page)
    owner.tell(f"device d {node(iommu_guest, vfio_edu1)}", "attach d a")
    model = space.table("a", config_of(iommu_guest))
    hold(iommu_guest, compared, "a", model, "edu1", False)
    for unmapped in edit(space, memory):
        hold(iommu_guest, compared, "a", model, "edu1", unmapped)


@TABLES
@pytest.mark.iommu_rules("HW-2")
@needs(*IOMMUFD)
def test_two_tables_of_one_ioas(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, compared: Compared) -> None:
    """Both hold the same mappings, whichever the device is attached to while they are made."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "hwpt one d a", "hwpt two d a")
    space = Space(owner, "a")
    models = {name: space.table(name, config_of(iommu_guest)) for name in ("one", "two")}
    owner.tell("attach d two")
    for unmapped in edit(space, buffer(iommu_guest, owner)):
        for name in ("two", "one"):
            owner.tell(f"attach d {name}")
            hold(iommu_guest, compared, name, models[name], "edu1", unmapped)


@TABLES
@needs(*IOMMUFD)
def test_a_nest_parent(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, compared: Compared) -> None:
    """A table of stage 2, that a device can also be attached to alone."""
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}")
    try:
        owner.tell("hwpt parent d a nest-parent")
    except OwnerError as error:
        pytest.skip(f"this IOMMU has no nest parents: {error}")
    space = Space(owner, "a")
    model = space.table("parent", iommu_guest.hardware_table("s2"))
    owner.tell("attach d parent")
    for unmapped in edit(space, buffer(iommu_guest, owner)):
        hold(iommu_guest, compared, "parent", model, "edu1", unmapped)


@TABLES
@needs(*IOMMUFD)
def test_a_bar(iommu_guest: GuestHandle, owner: Owner, vfio_edu1: str, compared: Compared) -> None:
    """Registers of a device are device memory in the table of a process, and not cacheable."""
    size = 4 * iommu_guest.page
    owner.tell("ioas a", f"device d {node(iommu_guest, vfio_edu1)}", "attach d a")
    model = Space(owner, "a").table("a", config_of(iommu_guest))
    hold(iommu_guest, compared, "a", model, "edu1", False)
    try:
        owner.tell(f"map-bar a {LOW} rw d 0 {size}")
    except OwnerError as error:
        if error.errno not in ("ENOTTY", "EOPNOTSUPP"):
            raise
        pytest.skip(f"iommufd maps no BAR without dma-bufs of VFIO (CONFIG_VFIO_PCI_DMABUF): {error}")
    first = int(iommu_guest.read(f"{vfio_edu1}/resource").split()[0], 0)
    model.map(LOW, first, size, Prot.from_letters("rwxm"))
    hold(iommu_guest, compared, "a", model, "edu1", False)
    owner.tell(f"unmap a {LOW} {size}")
    model.unmap(LOW, size)
    hold(iommu_guest, compared, "a", model, "edu1", True)
