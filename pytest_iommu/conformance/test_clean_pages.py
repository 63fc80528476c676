# SPDX-License-Identifier: GPL-2.0-only
"""Dirty tracking: pages that were written are made clean, stay writable, and only those that were asked for.

Arm's stage 1 with hardware management of the dirty state (Arm ARM D8.5.9): a page that may be written has DBM set, and
while it is clean AP[2] says read-only. Nothing in QEMU makes such a page dirty again, so this is about the kernel's own
walk (io-pgtable-arm: arm_lpae_read_and_clear_dirty()), and about a dump that must go on to say rw.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.core.outcomes import CheckFailed, Verdict

BASE, OA = 0x4000000000, 0x80000000
GRANULES = (4096, 16384, 65536)
pytestmark = [
    pytest.mark.iommu_rules("TAB-1", "TAB-2", "TAB-3", "TAB-6", "RNG-3", "PRT-1", "ENT-1"),
    pytest.mark.parametrize("domain", GRANULES, ids=["4k", "16k", "64k"], indirect=True),
]


@pytest.fixture
def domain(request: pytest.FixtureRequest, iommu: Iommu) -> Domain:
    """A table with pages and blocks that may be written, and pages that may not."""
    domain = iommu.table("arm_64_lpae_s1", "hd", granule=request.param)
    page, block = domain.config.page_sizes[:2]
    domain.map(BASE, OA, 40 * page, "rwc")
    domain.map(BASE + 40 * page, OA + 40 * page, 8 * page, "rc")
    domain.map(BASE + 4 * block, OA + 4 * block, 2 * block, "rw")
    return domain


def clean(iommu: Iommu, domain: Domain, iova: int, size: int) -> None:
    """What the kernel says was dirty, and the table afterwards."""
    dirty = domain.model.clean(iova, size)
    want = f"{dirty[0]:#x}-{dirty[1]:#x}" if dirty else "none"
    line = f"clean {domain.name} {iova:#x} {size:#x}"
    said = iommu.command(line)["dirty"]
    iommu.check(domain)
    if said != want:
        what = f"{line}: the kernel says that {said} was dirty, expected {want}"
        raise CheckFailed(what, ("TAB-2",), verdict=Verdict.MAPPING, because="what read_and_clear_dirty() returns")


def test_pages_that_are_clean_may_be_written(domain: Domain, iommu: Iommu) -> None:
    """In the middle of a range, over its end, in a block, a second time, and where nothing may be written."""
    page, block = domain.config.page_sizes[:2]
    clean(iommu, domain, BASE + 5 * page, 3 * page)
    clean(iommu, domain, BASE + 38 * page, 8 * page)
    clean(iommu, domain, BASE + 4 * block, block)
    clean(iommu, domain, BASE + 5 * page, 3 * page)
    clean(iommu, domain, BASE + 41 * page, page)


def test_clean_pages_are_unmapped_and_mapped_again(domain: Domain, iommu: Iommu) -> None:
    page = domain.page
    clean(iommu, domain, BASE, 48 * page)
    domain.unmap(BASE + 8 * page, 4 * page)
    domain.map(BASE + 9 * page, 2 * OA, page, "rwc")
    iommu.check(domain)
    clean(iommu, domain, BASE, 8 * page)
    clean(iommu, domain, BASE + 9 * page, page)
