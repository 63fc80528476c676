# SPDX-License-Identifier: GPL-2.0-only
"""FLT-4: the module that owns domains goes, with all of them alive, and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.conformance.helpers import FILES, KINDS, make
from pytest_iommu.guest import ops

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=["edu0", "edu1"]),
    pytest.mark.iommu_rules("FLT-4"),
]

MODULE = "iommu_ptdump_test"
DEVICES = f"/sys/kernel/debug/{MODULE}/devices"
SLOT = 24
#: a module that goes has to wait for a grace period or two, on a debug kernel for long ones
PATIENCE = 60


def module_file(guest: GuestHandle) -> str:
    """Where the guest's init found the module."""
    lines = guest.read("/modules.list").decode().splitlines()
    return next(line.split()[0] for line in lines if f"/{MODULE}.ko" in line)


def unload(guest: GuestHandle) -> None:
    """Remove the module; nobody uses it but its own domains."""
    (done,) = guest.run([ops.rmmod(MODULE)], timeout=PATIENCE).results
    assert done.ok, f"the module does not go: {ops.errno_name(done.value)}"


def load(guest: GuestHandle) -> None:
    """Load it again."""
    (done,) = guest.run([ops.insmod(module_file(guest))], timeout=PATIENCE).results
    assert done.ok, f"the module does not come back: {ops.errno_name(done.value)}"


@pytest.fixture
def reloading(iommu_guest: GuestHandle, iommu: Iommu) -> Iterator[GuestHandle]:
    """The guest; whatever becomes of the test, the next one finds the module loaded."""
    yield iommu_guest
    if iommu_guest.alive:
        iommu_guest.run([ops.insmod(module_file(iommu_guest))], timeout=PATIENCE)


def populate(iommu: Iommu) -> list[Domain]:
    """One domain of every kind with pages and blocks in it; two of them are attached, one has a corrupt item."""
    domains = [make(iommu, kind) for kind in KINDS]
    for domain in domains:
        page = min(domain.config.page_sizes)
        domain.map(0x31230000, 0x912340000, 16 * page, "rw", leaf=page)
        domain.map(0x80000000, 0x940000000, "2M", "r")
        domain.unmap(0x31230000, page)
    domains[0].attach("edu0")
    domains[1].attach("edu1")
    iommu.command(f"plant {domains[KINDS.index('amdv1')].name} 0x31230000 1 outside")
    return domains


@pytest.mark.iommu_rules("FLT-4", "LAY-2", "LAY-3", "LAY-4")
def test_unloading_leaves_no_directory_and_loading_goes_on(reloading: GuestHandle, iommu: Iommu) -> None:
    """Three times: domains/ is what it was without the module's domains; what comes next has greater ids and works."""
    guest = reloading
    before, devices = directories(guest), guest.read(DEVICES)
    last = 0
    for _ in range(3):
        domains = populate(iommu)
        ids = [int(domain.id) for domain in domains]
        assert min(ids) > last, f"the id {min(ids)} is handed out again"
        last = max(ids)
        assert directories(guest) == before | {domain.id for domain in domains}
        unload(guest)
        assert directories(guest) == before
        load(guest)
        assert directories(guest) == before
        assert guest.read(DEVICES) == devices
        iommu.reset()
    for kind in KINDS:
        domain = make(iommu, kind)
        domain.map(0x31230000, 0x912340000, min(domain.config.page_sizes), "rw")
        iommu.check(domain)


@pytest.mark.iommu_rules("FLT-4", "CON-9")
@pytest.mark.parametrize("file", FILES)
def test_unloading_does_not_wait_for_open_files(file: str, reloading: GuestHandle, iommu: Iommu) -> None:
    """A file of every kind of domain is open, read in part: the module goes, and the files are dead."""
    guest = reloading
    before = directories(guest)
    domains = [make(iommu, kind) for kind in KINDS]
    for number, domain in enumerate(domains):
        page = min(domain.config.page_sizes)
        iommu.command(f"map {domain.name} 0x31200000 0x912300000 {page} rw count=200 pstep={3 * page}")
        opened, text = guest.run([ops.open_file(SLOT + number, domain.path(file)), ops.read(SLOT + number, 40)]).results
        assert opened.ok
        assert text.value == 40
    unload(guest)
    slots = range(SLOT, SLOT + len(domains))
    left = guest.run([ops.read(slot, 40) for slot in slots]).results
    again = guest.run([ops.open_file(63, domain.path(file)) for domain in domains]).results
    assert {ops.errno_name(result.value) for result in left} == {"EIO"}
    assert {ops.errno_name(result.value) for result in again} == {"ENOENT"}
    load(guest)
    iommu.reset()
    new = [make(iommu, kind) for kind in KINDS]
    assert directories(guest) == before | {domain.id for domain in new}
    dead = guest.run([ops.read(slot, 40) for slot in slots]).results
    guest.run([ops.close(slot) for slot in slots])
    assert {ops.errno_name(result.value) for result in dead} == {"EIO"}


@pytest.mark.iommu_rules("FLT-4", "LAY-7")
def test_default_domains_outlive_the_module(reloading: GuestHandle, iommu: Iommu) -> None:
    """Without the module its devices have their default domains back, and those can be read; nothing is logged."""
    guest = reloading
    names = sorted(directories(guest))
    populate(iommu)
    unload(guest)
    reply = guest.run([ops.read_file(f"{DOMAINS}/{name}/{file}") for name in names for file in FILES])
    assert all(result.ok for result in reply.results)
    assert not reply.kmsg.strip()
    load(guest)
    iommu.reset()
    assert sorted(directories(guest)) == names
