# SPDX-License-Identifier: GPL-2.0-only
"""Domains that nobody of us made: the default domains of the machine's IOMMU groups."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pytest_iommu.domains import GuestHandle
from pytest_iommu.guest import ops
from pytest_iommu.owners.directories import DOMAINS, directories
from pytest_iommu.testmodule import MODULE

pytestmark = pytest.mark.iommu_needs(dialect="io_ptdump")
ours = pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump")

GROUPS = "/sys/kernel/iommu_groups"
DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
#: what sysfs calls a default domain -> what info calls it; identity domains have no table
TYPES = {"DMA": "dma", "DMA-FQ": "dma-fq"}


def groups(guest: GuestHandle) -> dict[str, str]:
    """Group -> type of its default domain, as sysfs has it."""
    (listed,) = guest.run([ops.list_directory(GROUPS)]).results
    names = [name.rstrip("/") for name in listed.data.decode().splitlines()]
    return {name: guest.read(f"{GROUPS}/{name}/type").decode().strip() for name in names}


def types(guest: GuestHandle) -> Counter[str]:
    """How many directories there are of each type."""
    infos = [guest.read(f"{DOMAINS}/{name}/info").decode() for name in directories(guest)]
    found = [re.search(r"^type: (.*)$", info, re.MULTILINE) for info in infos]
    return Counter(match[1] if match else "none" for match in found)


def expected(guest: GuestHandle) -> Counter[str]:
    """How many directories there must be of each type while the test module has no domain."""
    return Counter(TYPES[kind] for kind in groups(guest).values() if kind in TYPES)


@ours
def test_device_groups_are_dma(iommu_guest: GuestHandle) -> None:
    """What the others here need: without it they would pass and have seen nothing."""
    assert expected(iommu_guest).total() >= 2, groups(iommu_guest)


@pytest.mark.iommu_rules("LAY-2", "INF-2")
def test_each_default_domain_has_a_directory(iommu_guest: GuestHandle) -> None:
    """Whichever IOMMU it is; on a machine that is not ours there may be none, or one that passes all through."""
    if not expected(iommu_guest):
        pytest.skip("needs a group whose default domain has a table: this machine has none")
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    assert types(iommu_guest) == expected(iommu_guest)


@ours
@pytest.mark.iommu_rules("LAY-2", "RNG-1")
def test_the_domain_of_a_device_in_use_is_not_empty(iommu_guest: GuestHandle) -> None:
    """The agent talks through one: its rings and buffers are mapped."""
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    sizes = [len(iommu_guest.read(f"{DOMAINS}/{name}/page_table")) for name in directories(iommu_guest)]
    assert any(sizes)


@ours
@pytest.mark.iommu_rules("INF-2")
def test_from_dma_to_dma_fq(iommu_guest: GuestHandle) -> None:
    """The only change of type that the kernel makes without a new domain: the same directory says the other type."""
    if "DMA" not in groups(iommu_guest).values():
        iommu_guest.fresh()  # there is no way back while devices are in use
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    before = directories(iommu_guest)
    counted = types(iommu_guest)
    group = next(name for name, kind in groups(iommu_guest).items() if kind == "DMA")
    iommu_guest.write(f"{GROUPS}/{group}/type", "DMA-FQ")
    assert directories(iommu_guest) == before
    assert types(iommu_guest) == counted - Counter({"dma": 1}) + Counter({"dma-fq": 1})


@pytest.mark.iommu_rules("FLT-2", "LAY-2", "LAY-3", "LAY-4")
@pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump", devices=("edu1",))
def test_an_identity_domain_has_no_directory(iommu_guest: GuestHandle) -> None:
    """It has no page table to dump. The group's type can only be changed while its device has no driver."""
    iommu_guest.write(f"{MODULE}/control", "reset\n")
    lines = iommu_guest.read(f"{MODULE}/devices").decode().splitlines()
    row = next(line.split() for line in lines if line.startswith("edu1 "))
    address, group = row[1], row[2].partition("=")[2]
    translated = groups(iommu_guest)[group]
    before, counted = directories(iommu_guest), types(iommu_guest)

    iommu_guest.write(f"{DRIVER}/unbind", address)
    try:
        iommu_guest.write(f"{GROUPS}/{group}/type", "identity")
        without = directories(iommu_guest)
        assert without < before
        assert len(before - without) == 1
        assert types(iommu_guest) == expected(iommu_guest) == counted - Counter({TYPES[translated]: 1})
    finally:
        iommu_guest.write(f"{GROUPS}/{group}/type", translated)
        iommu_guest.write(f"{DRIVER}/bind", address)
    after = directories(iommu_guest)
    assert types(iommu_guest) == counted
    assert after > without
    assert not (before - without) & after, "the id that was freed came back at once"
