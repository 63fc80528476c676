# SPDX-License-Identifier: GPL-2.0-only
"""Tables that work and have no dump: of a format that has none, or with pages that are free without a grace period."""

from __future__ import annotations

import pytest

from pytest_iommu import formats
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.directories import directories
from pytest_iommu.conformance.helpers import assert_table_in_memory

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_rules("FLT-2", "LAY-2"),
]

BASE, OA, SIZE = 0x31200000, 0x912400000, 4 << 20
ARM = [name for name in formats.names() if name.startswith("arm_")]


@pytest.mark.parametrize("kind", ARM)
def test_a_table_with_pages_of_its_own_has_no_directory(kind: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Its like with RCU-freed tables has one, so it is not missed for another reason."""
    before = directories(iommu_guest)
    without = iommu.table_of_own_pages(kind)
    assert without.id == "-", f"it has the directory {without.id}"
    assert directories(iommu_guest) == before
    like = iommu.table(kind)
    assert len(directories(iommu_guest) - before) == 1

    without.map(BASE, OA, SIZE, "rw", leaf="4K")
    without.unmap(BASE, SIZE // 2)
    without.map(BASE, OA, "2M", "r")
    if iommu_guest.in_ram is not None:
        assert_table_in_memory(iommu_guest, without)
    assert len(directories(iommu_guest) - before) == 1
    iommu.command(f"destroy {without.name}")
    iommu.command(f"destroy {like.name}")
    assert directories(iommu_guest) == before


def test_a_table_of_a_format_without_a_dump_has_no_directory(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Mali's is made by the same code as the Arm's stages."""
    before = directories(iommu_guest)
    made = iommu.command("domain without format=arm_mali_lpae")
    assert made["id"] == "-", f"it has the directory {made['id']}"
    assert directories(iommu_guest) == before
    like = iommu.table("arm_64_lpae_s1")
    assert len(directories(iommu_guest) - before) == 1

    iommu.command(f"map without {BASE:#x} {OA:#x} {SIZE:#x} rw leaf=4K")
    iommu.command(f"unmap without {BASE:#x} {SIZE // 2:#x}")
    iommu.command(f"map without {BASE:#x} {OA:#x} 2M r")
    assert len(directories(iommu_guest) - before) == 1
    iommu.command("destroy without")
    iommu.command(f"destroy {like.name}")
    assert directories(iommu_guest) == before
