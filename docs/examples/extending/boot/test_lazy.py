# SPDX-License-Identifier: GPL-2.0-only
import pytest


@pytest.mark.iommu_rules("RNG-1")
@pytest.mark.iommu_boot_mode("one-cpu")
@pytest.mark.iommu_flavour("lazy")
def test_one_page(iommu, iommu_check):
    domain = iommu.domain(stage="s1")
    domain.map(0x1000, 0x41000000, "4K", "rw")
    iommu_check(domain)
