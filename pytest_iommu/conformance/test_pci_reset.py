# SPDX-License-Identifier: GPL-2.0-only
"""What an SMMUv3's debugfs says after a PCI reset. test_plugging.py judges the reset itself, on every IOMMU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_iommu.check import reading
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.witnesses.streams import Wanted
from pytest_iommu.guest import ops

pytestmark = pytest.mark.iommu_needs(machine="smmuv3topo", dialect="io_ptdump", devices=("edu6",))

DEVICE = "edu6"
PATH = "/sys/bus/pci/devices/0000:02:00.0"


@pytest.fixture
def plugged(iommu_guest: GuestHandle) -> Iterator[None]:
    """The device behind a root port: alone on its bus, it is reset by resetting the bus."""
    iommu_guest.plug(DEVICE)
    yield
    if iommu_guest.alive:
        iommu_guest.plug(DEVICE, add=False)


@pytest.mark.iommu_rules("STE-4")
@pytest.mark.parametrize("stage", ["s1", "s2"])
def test_after_a_reset_the_stream_is_what_it_was(
    iommu_guest: GuestHandle, plugged: None, iommu: Iommu, stage: str
) -> None:
    streams = iommu_guest.streams
    domain = iommu.domain(device=DEVICE, stage=stage)
    domain.map(0x31230000, 0x912340000, 3 * domain.page, "rw")
    domain.attach(DEVICE)
    before = streams.read([streams.sid(DEVICE)])
    (method,) = iommu_guest.run([ops.read_file(f"{PATH}/reset_method")]).results
    if not method.data.strip():
        pytest.skip("the kernel has no way to reset this device")
    (result,) = iommu_guest.run([ops.write_file(f"{PATH}/reset", b"1")]).results
    assert result.ok, f"the reset fails with {ops.errno_name(result.value)}"
    problems = streams.check([Wanted(DEVICE, domain=domain.id)])
    if problems:
        raise reading.joined(problems, streams.files)
    assert streams.read([streams.sid(DEVICE)]) == before
    iommu.check(domain)
