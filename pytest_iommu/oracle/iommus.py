# SPDX-License-Identifier: GPL-2.0-only
"""The IOMMUs that can be read in memory, by the type that a machine description gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_iommu.core.machines import IommuRegisters
from pytest_iommu.core.protocol import Faults, Memory
from pytest_iommu.oracle.context_table import ContextTable, VtdHardware
from pytest_iommu.oracle.device_directory import DeviceDirectory, RiscvHardware
from pytest_iommu.oracle.device_table import AmdHardware, DeviceTable
from pytest_iommu.oracle.stream_model import Hardware
from pytest_iommu.oracle.stream_table import SmmuV3

IommuHardware = Hardware | VtdHardware | AmdHardware | RiscvHardware

_OF: Mapping[str, Callable[..., IommuHardware]] = {
    "smmuv3": Hardware.of,
    "vtd": VtdHardware.of,
    "amd": AmdHardware.of,
    "riscv": RiscvHardware.of,
}


def hardware_of(type_: str, ids: Mapping[str, int]) -> IommuHardware:
    """Return what the ID registers of an IOMMU of that type say; ``ids`` as in a machine description."""
    return _OF[type_](**ids)


def iommu_at(
    registers: IommuRegisters, memory: Memory, faults: Faults | None = None
) -> SmmuV3 | ContextTable | DeviceTable | DeviceDirectory:
    """Return the IOMMU with these registers; ``faults`` where it does not keep what it reports."""
    match registers.type:
        case "smmuv3":
            return SmmuV3(memory, registers.base)
        case "vtd":
            return ContextTable(memory, registers.base, faults)
        case "amd":
            return DeviceTable(memory, registers.base, faults)
        case "riscv":
            return DeviceDirectory(memory, registers.base)
    raise ValueError(f"no IOMMU of type {registers.type}")
