# SPDX-License-Identifier: GPL-2.0-only
"""What a default domain maps beside memory: the page that a device writes its MSIs to, where they pass the IOMMU."""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.default_domains import table_of
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.guest_memory import walk

pytestmark = pytest.mark.iommu_rules("TAB-2")

IN_USE = "serial0"


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(name, marks=pytest.mark.iommu_needs(machine=name, devices=(IN_USE,)))
        for name in ("smmuv3topo", "smmuv3s2")
    ],
)
def test_what_is_no_memory_is_mapped_as_registers(machine: str, iommu_guest: GuestHandle) -> None:
    """It is not cached, nor executed (iommu_dma_get_msi_page())."""
    witness, config, top = table_of(iommu_guest, IN_USE)
    board = iommu_guest.machine
    rows = walk(witness.memory, config, top).ranges
    others = [row for row in rows if not board.ram <= row.oa < board.ram + board.memory]
    if not others:
        pytest.skip(f"nothing but memory is mapped for {IN_USE}: its interrupts do not go through the table")
    for row in others:
        if not row.prot.device or row.prot.cacheable or row.prot.execute:
            what = f"0x{row.first:x} of {IN_USE} leads to 0x{row.oa:x}, which is no memory, with {row.prot}"
            raise CheckFailed(what, ("TAB-2",), verdict=Verdict.MAPPING, because="memory")
