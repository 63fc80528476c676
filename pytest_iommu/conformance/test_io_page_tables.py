# SPDX-License-Identifier: GPL-2.0-only
"""The file io_page_tables, in kernels that have it (docs/io_page_tables.md): all default domains of the DMA API.

A virtio device has its buffers mapped; what its rows say is compared with the page table that its stream leads to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.default_domains import GROUPS, IDENTITY, INFO, group_of, group_types, set_type
from pytest_iommu.check.spoken import ROOT
from pytest_iommu.check.witnesses.other_dumps import judge
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op
from pytest_iommu.dialects.io_page_tables import END, FAILED, IO_PAGE_TABLES, START
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE

FILE = f"{ROOT}/{IO_PAGE_TABLES.name}"
PCI = "/sys/bus/pci"
#: the virtio device that maps its buffers when its driver begins, and leaves them mapped
DEVICE = "serial0"
TOPO, STAGE2 = "smmuv3topo", "smmuv3s2"
SLOT = 0
#: entries that a reader copies at once
BATCH = 64
_GROUP = re.compile(r"^- group (\d+)\n((?:  - .*\n)*)", re.MULTILINE)

pytestmark = pytest.mark.iommu_needs(machine=TOPO, dialect=IO_PAGE_TABLES.name, devices=(DEVICE,))
of_stage_2 = pytest.mark.iommu_needs(machine=STAGE2, dialect=IO_PAGE_TABLES.name, devices=(DEVICE,))
debug = pytest.mark.iommu_flavour("debug")


def name_of(guest: GuestHandle, device: str = DEVICE) -> str:
    """What the kernel calls a device of the machine."""
    return f"0000:{guest.machine.device(device).address}"


def listed(guest: GuestHandle) -> dict[str, set[str]]:
    """The groups of the file, with their devices. CheckFailed if one is there twice."""
    found = _GROUP.findall(guest.read(FILE).decode())
    groups = [group for group, _ in found]
    if len(groups) != len(set(groups)):
        raise CheckFailed(f"a group is shown twice: {groups}", ("V1-6",), verdict=Verdict.DUMP)
    return {group: {line.removeprefix("  - ") for line in devices.splitlines()} for group, devices in found}


def expected(guest: GuestHandle) -> dict[str, set[str]]:
    """The groups whose default domain is one of the DMA API, with their devices."""
    names = [group for group, kind in group_types(guest).items() if kind in INFO]
    members = guest.run([ops.list_directory(f"{GROUPS}/{group}/devices") for group in names]).results
    return {
        group: {name.rstrip("/@") for name in ops.text_of(result).splitlines()}
        for group, result in zip(names, members, strict=True)
    }


@pytest.mark.iommu_rules("V1-4", "V1-6")
def test_every_default_domain_is_shown_with_its_devices(iommu_guest: GuestHandle) -> None:
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    wanted = expected(iommu_guest)
    assert len(wanted) > 2
    assert listed(iommu_guest) == wanted
    printed = judge(iommu_guest, IO_PAGE_TABLES)
    assert len(printed.tables) == len(wanted)


@pytest.mark.iommu_rules("V1-1", "V1-2", "V1-3", "V1-4", "RNG-1", "RNG-2", "LVL-1", "PRT-3")
@pytest.mark.parametrize(
    "stage",
    [1, pytest.param(2, marks=of_stage_2), pytest.param(1, marks=[debug, pytest.mark.iommu_rules("V1-5")], id="debug")],
)
def test_rows_are_what_memory_has(stage: int, iommu_guest: GuestHandle) -> None:
    """On the flavour debug the kernel itself says if something sleeps where it must not."""
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    printed = judge(iommu_guest, IO_PAGE_TABLES)
    name = name_of(iommu_guest)
    (table,) = [table for table in printed.tables if table.name == name]
    assert table.rows, f"{name} has buffers mapped"
    assert table.stage == stage
    if iommu_guest.memory is not None:
        assert name in [table.name for table, _ in printed.walks], f"the stream of {name} leads to no table"


@contextmanager
def without_driver(guest: GuestHandle, device: str, driver: str) -> Iterator[str]:
    """The device has no driver meanwhile, so that its default domain can be changed; yields the file that does."""
    name = name_of(guest, device)
    type_file = f"{group_of(guest, f'{PCI}/devices/{name}')}/type"
    before = guest.read(type_file).decode().strip()
    if before == IDENTITY:
        pytest.skip(f"needs a default domain with a table: that of {device} is {IDENTITY}")
    guest.write(f"{PCI}/drivers/{driver}/unbind", name)
    try:
        yield type_file
    finally:
        if guest.alive:
            guest.write(type_file, before)
            guest.write(f"{PCI}/drivers/{driver}/bind", name)


@pytest.mark.iommu_rules("V1-6")
def test_a_domain_without_a_table_is_left_out(iommu_guest: GuestHandle) -> None:
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    before = listed(iommu_guest)
    with without_driver(iommu_guest, "edu1", "iommu_ptdump_test") as type_file:
        set_type(iommu_guest, type_file, IDENTITY)
        group = type_file.split("/")[-2]
        assert group in before
        assert listed(iommu_guest) == {name: devices for name, devices in before.items() if name != group}
        judge(iommu_guest, IO_PAGE_TABLES)
    assert listed(iommu_guest) == before


def begun(text: bytes, name: str) -> int:
    """How many bytes there are up to the end of the first row of that device's table."""
    heading = text.index(f"  - {name}\n".encode())
    start = text.index(f"{START}\n".encode(), heading) + len(START) + 1
    return text.index(b"\n", start) + 1


@pytest.mark.iommu_rules("V1-7", "CON-1", "CON-9")
@pytest.mark.parametrize("flavour", ["default", pytest.param("debug", marks=debug)])
def test_a_domain_goes_while_it_is_read(flavour: str, iommu_guest: GuestHandle) -> None:
    """Its table ends with the error sentence, since the rest cannot be known; those of the others are complete.

    Rows that the reader has copied before may still come: they are of the read's time, and of no freed memory.
    """
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    name = name_of(iommu_guest)
    text = iommu_guest.read(FILE)
    wanted, got = begun(text, name), b""
    assert iommu_guest.run([ops.open_file(SLOT, FILE)]).results[0].ok
    try:
        while len(got) < wanted:
            # What is asked for is what the kernel has made: nothing of the next record waits in its buffer.
            got += done(iommu_guest, ops.read(SLOT, wanted - len(got)))
        assert got == text[:wanted]
        with without_driver(iommu_guest, DEVICE, "virtio-pci") as type_file:
            set_type(iommu_guest, type_file, IDENTITY)
            while part := done(iommu_guest, ops.read(SLOT, 4096)):
                got += part
    finally:
        if iommu_guest.alive:
            iommu_guest.run([ops.close(SLOT)])
    rest = got[wanted:].decode()
    if re.match(rf"(?:.* lvl .*\n){{0,{BATCH}}}{re.escape(FAILED)}\n{re.escape(END)}\n", rest) is None:
        what = f"the domain of {name} was freed during the read, which then goes on with:\n{rest[:400]}"
        raise CheckFailed(what, ("V1-7",), verdict=Verdict.DUMP)
    IO_PAGE_TABLES.parse({FILE: got.decode().replace(f"{FAILED}\n", "", 1)})


def done(guest: GuestHandle, op: Op) -> bytes:
    """What one operation has read."""
    (result,) = guest.run([op]).results
    assert result.ok, ops.errno_name(result.value)
    return result.data
