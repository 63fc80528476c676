# SPDX-License-Identifier: GPL-2.0-only
"""A ready kernel, whose headers lack those of drivers/iommu: run with --iommu-image and --iommu-modules, else skipped.

The test module reads from the SMMU's own tables what the driver's header would have told it.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.guest.testmodule import MODULE, parse_domains
from pytest_iommu.session.run import RUN

pytestmark = pytest.mark.iommu_needs(machine="smmuv3", devices=("edu0",))


@pytest.fixture(autouse=True)
def ready(iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    if request.config.stash[RUN].settings.image is None:
        pytest.skip("needs a ready kernel: --iommu-image and --iommu-modules")
    assert request.config.stash[RUN].settings.modules is not None


@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_the_module_knows_where_the_table_of_a_new_domain_is(
    stage: str, iommu_guest: GuestHandle, iommu: Iommu
) -> None:
    """It reads that while the group is on the domain for a moment; afterwards a stream leads to the same table."""
    other = iommu.domain(stage="s1")
    other.attach("edu0")
    domain = iommu.domain(stage=stage)
    rows = parse_domains(iommu_guest.read(f"{MODULE}/domains").decode())
    assert rows[other.name].attached == ("edu0",), "the group did not come back to its domain"
    assert (rows[domain.name].attached, rows[domain.name].levels) == ((), domain.config.levels)
    domain.map(0x1000000, 0x41234000, "2M", "rwc")
    iommu.check(domain)
    iommu.command("detach edu0")
    domain.attach("edu0")
    assert iommu_guest.in_ram is not None
    assert iommu_guest.in_ram.smmu is not None
    found = iommu_guest.in_ram.smmu.table(iommu_guest.machine.device("edu0").sid)
    assert found is not None
    assert found[1] == rows[domain.name].top
    iommu.check(domain)
