# SPDX-License-Identifier: GPL-2.0-only
"""A part of a block is unmapped, and the kernel puts a table in its place: what is left translates as before.

io-pgtable-arm does so up to Linux 6.12 (arm_lpae_split_blk_unmap()); later kernels refuse it with a warning.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.witnesses.transfers import Transfers

BASE, OA = 0x4000000000, 0x80000000
DEVICE = "edu0"
pytestmark = pytest.mark.iommu_rules("TAB-1", "TAB-2", "TAB-3", "TAB-4", "TAB-6")


def hardware(machine: str) -> pytest.MarkDecorator:
    """The device, on a machine."""
    return pytest.mark.iommu_needs(machine=machine, devices=(DEVICE,))


KINDS = [
    pytest.param("s1", marks=hardware("smmuv3")),
    pytest.param("s2", marks=hardware("smmuv3s2")),
    *("arm_64_lpae_s1-4096", "arm_64_lpae_s2-16384", "arm_64_lpae_s1-65536"),
]


@pytest.fixture
def domain(request: pytest.FixtureRequest, iommu: Iommu) -> Domain:
    """An empty domain of that kind."""
    kind: str = request.param
    if kind in ("s1", "s2"):
        return iommu.domain(stage=kind, device=DEVICE)
    name, granule = kind.split("-")
    return iommu.table(name, granule=int(granule))


def parts(domain: Domain) -> list[tuple[int, int, int]]:
    """What to unmap: the size of the block, where in it, and how much."""
    page, block, *larger = domain.config.page_sizes
    found = [
        (block, 0, page),
        (block, 3 * page, page),
        (block, block - page, page),
        (block, 5 * page, 16 * page),
        (block, page, block - 2 * page),
    ]
    for large in larger:
        if large == block * (block // page):
            found += [
                (large, 0, block),
                (large, 3 * block + 7 * page, page),
                (large, 2 * block - page, block + 2 * page),
            ]
    return found


@pytest.mark.parametrize("domain", KINDS, indirect=True)
@pytest.mark.parametrize("prot", ["rwc", "r", "wcx"])
def test_what_is_left_of_a_block(prot: str, domain: Domain, iommu: Iommu) -> None:
    """Each time two blocks beside the one that is split stay whole."""
    for number, (block, offset, size) in enumerate(parts(domain)):
        start = BASE + number * 8 * max(domain.config.page_sizes[:3])
        domain.map(start, OA, 3 * block, prot)
        domain.split(start + block + offset, size)
        iommu.check(domain)
    domain.split(BASE + domain.config.page_sizes[1] * 2, domain.page)  # the neighbour of the first
    iommu.check(domain)


@pytest.mark.parametrize("domain", KINDS, indirect=True)
def test_a_hole_can_be_mapped_again(domain: Domain, iommu: Iommu) -> None:
    page, block = domain.config.page_sizes[:2]
    domain.map(BASE, OA, block, "rwc")
    domain.split(BASE + page, page)
    domain.map(BASE + page, 2 * OA, page, "r")
    iommu.check(domain)
    domain.unmap(BASE, block)
    iommu.check(domain)
    assert domain.model.snapshot().ranges == ()
    domain.map(BASE, OA, block, "rwc")
    iommu.check(domain)


@pytest.mark.iommu_rules("TLB-1", "ISO-1")
@pytest.mark.parametrize("domain", KINDS[:2], indirect=True)
def test_transfers_beside_the_hole(domain: Domain, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """The block has been used before, so the SMMU may hold a copy of it."""
    transfers = Transfers.of(iommu_guest, iommu, DEVICE)
    assert iommu_guest.machine.scratch is not None
    page, block = domain.config.page_sizes[:2]
    domain.map(BASE, iommu_guest.machine.scratch[0], block, "rwc")
    domain.attach(DEVICE)
    transfers.hold("write", BASE + page)
    domain.split(BASE + page, page)
    for iova in (BASE, BASE + 2 * page, BASE + block - page):
        transfers.hold("write", iova)
    transfers.hold("write", BASE + page, "F_TRANSLATION", rule="TLB-1")
    iommu.check(domain)
