# SPDX-License-Identifier: GPL-2.0-only
"""DONE, page by page: a device of QEMU 11 that the host drives writes at every IOVA, mapped or not.

It tells whether the bytes came out at the physical address that the model has for the IOVA; it can only write.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.guest.testdev import Probe, TestDevice

pytestmark = [
    pytest.mark.iommu_needs(machine="smmuv3", devices=("edu2", "testdev0")),
    pytest.mark.iommu_rules("RNG-1", "RNG-4", "PRT-1", "LVL-2"),
]

PAGE, BLOCK = 4096, 2 << 20
PAGES = 64
STRIDE = 37
"""Coprime to PAGES: neighbours in IOVA are strangers in PA."""


@pytest.fixture
def device(iommu_guest: GuestHandle) -> TestDevice:
    """The device in the group of edu2."""
    if iommu_guest.memory is None:
        pytest.skip("needs a guest whose registers the host can reach")
    return TestDevice(iommu_guest.memory, iommu_guest.machine, "testdev0")


def scratch(guest: GuestHandle) -> int:
    """Where memory begins that Linux does not use."""
    assert guest.machine.scratch is not None
    return guest.machine.scratch[0]


def wanted(domain: Domain, iova: int, elsewhere: int) -> tuple[Probe, int]:
    """What a write at an IOVA must come to by the model, and the PA to look at."""
    for row in domain.model.snapshot().ranges:
        if row.first <= iova <= row.last:
            return Probe.OK if row.prot.write else Probe.WRITE_FAULT, row.oa + iova - row.first
    return Probe.WRITE_FAULT, elsewhere


def hold(device: TestDevice, domain: Domain, iovas: range, elsewhere: int) -> None:
    """Probe at each of the IOVAs."""
    for iova in iovas:
        want, pa = wanted(domain, iova, elsewhere)
        came = device.probe(iova, pa)
        assert came is want, f"a write to 0x{iova:x}, PA 0x{pa:x}: {came.name}, must be {want.name}"


@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_pages_in_another_order(iommu: Iommu, iommu_guest: GuestHandle, device: TestDevice, stage: str) -> None:
    """Each page at its own place, some not writable, some missing; then some are unmapped and some mapped anew."""
    base, iova = scratch(iommu_guest), 0x7654300000
    domain = iommu.domain(device="edu2", stage=stage)
    for number in range(PAGES):
        if number % 7 != 3:
            prot = "r" if number % 5 == 2 else "rw"
            domain.map(iova + number * PAGE, base + number * STRIDE % PAGES * PAGE, PAGE, prot)
    domain.attach("edu2")
    everything = range(iova - PAGE, iova + (PAGES + 1) * PAGE, PAGE)
    hold(device, domain, everything, base + PAGES * PAGE)
    iommu.check(domain)
    for number in range(0, PAGES, 9):
        if number % 7 != 3:
            domain.unmap(iova + number * PAGE, PAGE)
    for number in range(3, PAGES, 14):
        domain.map(iova + number * PAGE, base + (PAGES + number) * PAGE, PAGE, "rw")
    hold(device, domain, everything, base + 2 * PAGES * PAGE)
    iommu.check(domain)


@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_blocks_and_what_is_beside_them(iommu: Iommu, iommu_guest: GuestHandle, device: TestDevice, stage: str) -> None:
    base, iova = scratch(iommu_guest), 0x40000000
    domain = iommu.domain(device="edu2", stage=stage)
    domain.map(iova, base + BLOCK, BLOCK, "rw")
    domain.map(iova + BLOCK, base, BLOCK, "rw")
    domain.map(iova + 3 * BLOCK, base + 2 * BLOCK, BLOCK, "r")
    domain.attach("edu2")
    hold(device, domain, range(iova - 8 * PAGE, iova + 4 * BLOCK + 8 * PAGE, 16 * PAGE - 4), base + 4 * BLOCK)
    for edge in range(iova, iova + 4 * BLOCK + 1, BLOCK):
        hold(device, domain, range(edge - PAGE, edge + PAGE, PAGE), base + 4 * BLOCK)
    iommu.check(domain)


@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_one_page_at_many_iovas(iommu: Iommu, iommu_guest: GuestHandle, device: TestDevice, stage: str) -> None:
    """At the edges of every level of the table."""
    base = scratch(iommu_guest)
    domain = iommu.domain(device="edu2", stage=stage)
    edges = [1 << bit for bit in (12, 21, 30, 39, 43)]
    for edge in edges:
        for iova in (edge - PAGE, edge):
            if iova + PAGE <= 1 << domain.config.ias and not domain.model.snapshot().requested(iova):
                domain.map(iova, base, PAGE, "rw")
    domain.attach("edu2")
    for edge in edges:
        hold(device, domain, range(max(0, edge - 3 * PAGE), edge + 3 * PAGE, PAGE), base)
    iommu.check(domain)
