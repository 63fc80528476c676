# SPDX-License-Identifier: GPL-2.0-only
import pytest
from pgtbl import DIALECT
from pytest_iommu.check.witnesses.other_dumps import judge


@pytest.mark.iommu_needs(dialect="pgtbl")
@pytest.mark.iommu_rules(*DIALECT.rules)
def test_what_the_kernel_prints(iommu_guest):
    assert judge(iommu_guest, DIALECT).tables
