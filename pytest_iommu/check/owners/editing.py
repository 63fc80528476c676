# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of user space's tables map and unmap, and the comparison of the result with the guest's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.guest_program import Owner, OwnerMemory, Space
from pytest_iommu.check.reading import Compared
from pytest_iommu.compare.comparison import compare_table
from pytest_iommu.core.outcomes import CheckFailed
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
    memory = _memory(guest, name, model, device)
    comparison = compare_table(model.snapshot(), memory, unmapped)
    compared(comparison)
    if not comparison.ok:
        raise comparison.failure(f"table {name}:\n", (name,))


def hold_leaves(guest: GuestHandle, name: str, model: TableModel, device: str, rule: str = "") -> None:
    """The same for the leaves alone: after a map that failed nobody knows which empty tables there are.

    ``rule`` is named first for a difference that a map which failed has made.
    """
    memory = _memory(guest, name, model, device)
    comparison = compare_table(model.snapshot(), {"page_table": memory["page_table"]})
    if not comparison.ok:
        failure = comparison.failure(f"table {name}:\n", (name,))
        if not rule:
            raise failure
        because = "a map that failed has an effect"
        raise CheckFailed(failure.message, (rule,), failure.rules, verdict=failure.verdict, because=because)


def _memory(guest: GuestHandle, name: str, model: TableModel, device: str) -> Mapping[str, str]:
    if guest.in_ram is None:
        pytest.skip("the guest's memory cannot be read")
    memory = guest.in_ram.texts(model.config, DomainRow(name, "-", (device,), None, model.top + 1))
    assert memory is not None
    return memory
