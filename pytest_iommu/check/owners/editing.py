# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of user space's tables map and unmap, and the comparison of the result with the guest's memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_iommu.check.handles import GuestHandle
from pytest_iommu.check.owners.guest_program import Owner, OwnerMemory, Space
from pytest_iommu.check.reading import Compared
from pytest_iommu.compare.comparison import compare_table
from pytest_iommu.guest.testmodule import DomainRow
from pytest_iommu.oracle import TableModel

TYPE1 = ("VFIO_PCI", "VFIO_CONTAINER", "VFIO_IOMMU_TYPE1")
IOMMUFD = ("VFIO_PCI", "VFIO_DEVICE_CDEV", "IOMMUFD")
#: neither is near where the SMMU driver has its MSIs (128M)
LOW, HIGH = 0x1000000, 0x8000000000
PAGES = 16


def buffer(guest: GuestHandle, owner: Owner) -> OwnerMemory:
    """PAGES pages of the owner's memory."""
    return owner.memory("m", PAGES * guest.page)


def edit(space: Space, memory: OwnerMemory) -> Iterator[bool]:
    """Maps and unmaps in some ways; after each the tables are to be compared. Yields whether it was an unmap."""
    page = memory.page
    # Well inside the narrowest aperture.
    high = min([HIGH, *(1 << model.config.ias - 1 for model in space.models.values())])
    space.map(LOW, memory)
    yield False
    space.map(LOW + memory.size + page, memory, "r", 0, 4 * page)
    space.map(high - page, memory, "w", 3 * page, 3 * page)
    yield False
    space.unmap(LOW)
    yield True


def hold(guest: GuestHandle, compared: Compared, name: str, model: TableModel, device: str, unmapped: bool) -> None:
    """Compare the table that a device's stream leads to with the model. Skips where memory cannot be read."""
    if guest.in_ram is None:
        pytest.skip("the guest's memory cannot be read")
    memory = guest.in_ram.texts(model.config, DomainRow(name, "-", (device,), None, None))
    comparison = compare_table(model.snapshot(), memory, unmapped)
    compared(comparison)
    if not comparison.ok:
        raise comparison.failure(f"table {name}:\n", (name,))
