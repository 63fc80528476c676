# SPDX-License-Identifier: GPL-2.0-only
"""Domains that nobody of us made: the default domains of the machine's IOMMU groups."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.default_domains import (
    GROUPS,
    IDENTITY,
    INFO,
    LAZY,
    STRICT,
    configured,
    group_of,
    group_types,
    require_dma_domains,
    set_type,
    type_of,
)
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.check.owners.drivers import plugged_in
from pytest_iommu.guest.testmodule import MODULE

pytestmark = pytest.mark.iommu_needs(dialect="io_ptdump")
ours = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
EDU1 = "edu1"


def types(guest: GuestHandle) -> Counter[str]:
    """How many directories there are of each type."""
    infos = [guest.read(f"{DOMAINS}/{name}/info").decode() for name in directories(guest)]
    found = [re.search(r"^type: (.*)$", info, re.MULTILINE) for info in infos]
    return Counter(match[1] if match else "none" for match in found)


def expected(guest: GuestHandle) -> Counter[str]:
    """How many directories there must be of each type while the test module has no domain."""
    return Counter(INFO[kind] for kind in group_types(guest).values() if kind in INFO)


@ours
def test_default_domains_are_as_the_kernel_is_configured(iommu_guest: GuestHandle) -> None:
    """The others here follow what sysfs says: were it wrong they would pass, or be skipped, and have seen nothing."""
    kinds = group_types(iommu_guest)
    wanted = configured(iommu_guest)
    assert len(kinds) >= 2, kinds
    if wanted is None:
        pytest.skip("the configuration of this kernel is not known")
    # One that is made lazy in a test below stays so.
    allowed = {wanted, LAZY} if wanted == STRICT else {wanted}
    assert set(kinds.values()) <= allowed, f"default domains must be {wanted}: {kinds}"


@pytest.mark.iommu_rules("LAY-2", "INF-2")
def test_each_default_domain_has_a_directory(iommu_guest: GuestHandle) -> None:
    """Whichever IOMMU it is. Identity domains have none."""
    if not group_types(iommu_guest):
        pytest.skip("needs IOMMU groups, and this machine has none")
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    assert types(iommu_guest) == expected(iommu_guest)


@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=("serial0",))
@pytest.mark.iommu_rules("LAY-2", "RNG-1")
def test_the_domain_of_a_device_in_use_is_not_empty(iommu_guest: GuestHandle) -> None:
    """A virtio device has its rings and buffers mapped."""
    path = f"/sys/bus/pci/devices/0000:{iommu_guest.machine.device('serial0').address}"
    with plugged_in(iommu_guest, "serial0"):
        if type_of(iommu_guest, path) == IDENTITY:
            pytest.skip(f"needs a default domain with a table: this kernel's are {IDENTITY}")
        iommu_guest.write(f"{MODULE}/control", "reset\n")
        sizes = [len(iommu_guest.read(f"{DOMAINS}/{name}/page_table")) for name in directories(iommu_guest)]
        assert any(sizes)


@ours
@pytest.mark.iommu_rules("INF-2")
def test_from_dma_to_dma_fq(iommu_guest: GuestHandle) -> None:
    """The only change of type that the kernel makes without a new domain: the same directory says the other type."""
    if STRICT not in group_types(iommu_guest).values():
        iommu_guest.fresh()  # there is no way back while devices are in use
    group = next((name for name, kind in group_types(iommu_guest).items() if kind == STRICT), None)
    if group is None:
        pytest.skip(f"needs a default domain of type {STRICT} after boot: this kernel's are {configured(iommu_guest)}")
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    before = directories(iommu_guest)
    counted = types(iommu_guest)
    iommu_guest.write(f"{GROUPS}/{group}/type", LAZY)
    assert directories(iommu_guest) == before
    assert types(iommu_guest) == counted - Counter({"dma": 1}) + Counter({"dma-fq": 1})


@pytest.mark.iommu_rules("FLT-2", "LAY-2", "LAY-3", "LAY-4")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=(EDU1,))
def test_an_identity_domain_has_no_directory(iommu_guest: GuestHandle) -> None:
    """It has no page table to dump. The group's type can only be changed while its device has no driver."""
    require_dma_domains(iommu_guest)
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    address = f"0000:{iommu_guest.machine.device(EDU1).address}"
    type_file = f"{group_of(iommu_guest, f'/sys/bus/pci/devices/{address}')}/type"
    at_boot = iommu_guest.read(type_file).decode().strip()
    translated = at_boot if at_boot in INFO else STRICT

    iommu_guest.write(f"{DRIVER}/unbind", address)
    try:
        iommu_guest.write(type_file, translated)
        before, counted = directories(iommu_guest), types(iommu_guest)
        set_type(iommu_guest, type_file, IDENTITY)
        without = directories(iommu_guest)
        assert without < before
        assert len(before - without) == 1
        assert types(iommu_guest) == expected(iommu_guest) == counted - Counter({INFO[translated]: 1})
        iommu_guest.write(type_file, translated)
        after = directories(iommu_guest)
        assert types(iommu_guest) == counted
        assert after > without
        assert not (before - without) & after, "the id that was freed came back at once"
    finally:
        iommu_guest.write(type_file, at_boot)
        iommu_guest.write(f"{DRIVER}/bind", address)
    assert types(iommu_guest) == expected(iommu_guest)
