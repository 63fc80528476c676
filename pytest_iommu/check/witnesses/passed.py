# SPDX-License-Identifier: GPL-2.0-only
"""DMA that QEMU passes although the entries say otherwise: of devices that have been on an identity domain.

QEMU's VT-d decides whether it translates a device's DMA when a context entry is invalidated. In scalable mode that is
for the PASID entry to say, whose invalidations do not make QEMU look again (docs/findings.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_iommu.guest import ops
from pytest_iommu.oracle.context_table import ContextTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.protocol import Guest, Op, Reply
    from pytest_iommu.oracle.iommu import Iommu

WHY = "QEMU's VT-d in scalable mode goes on passing the DMA of a device that has been on an identity domain"
IDENTITY = "identity"
"""Type of a default domain, as written in sysfs."""


def goes_on(iommu: Iommu | None) -> bool:
    """Whether QEMU goes on passing a device's DMA when it leaves an identity domain of this IOMMU."""
    return isinstance(iommu, ContextTable) and iommu.scalable


def is_passed(run: Callable[[Sequence[Op]], Reply], machine: Machine, iommu: Iommu | None, device: str) -> bool:
    """Whether a device's DMA says nothing of its entries, since its default domain is an identity domain."""
    if not goes_on(iommu):
        return False
    address = machine.device(device).address
    (kind,) = run([ops.read_file(f"/sys/bus/pci/devices/0000:{address}/iommu_group/type")]).results
    return kind.ok and ops.text_of(kind).strip() == IDENTITY


def passing(guest: Guest, machine: Machine) -> bool:
    """Whether this holds of a guest's devices from its boot on, since its kernel makes identity domains of itself."""
    from pytest_iommu.check.witnesses.in_ram import in_ram

    if machine.iommu_type != "vtd":
        return False  # no other guest is asked anything at its start
    witness = in_ram(guest, machine)
    if witness is None or not goes_on(witness.iommu):
        return False
    edus = [one.name for one in machine.devices if one.driver.startswith("edu") and not one.hotplug]
    return all(is_passed(guest.run, machine, witness.iommu, name) for name in edus)
