# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED of a hardware domain's page table: its sizes, from the IOMMU's ID registers and the kernel's configuration.

What Linux does for an SMMUv3: arm_smmu_domain_finalise() in drivers/iommu/arm/arm-smmu-v3 and
arm_lpae_restrict_pgsizes() in io-pgtable-arm.c. The other IOMMUs know it themselves (``config`` of their hardware); the
kernel's sizes do not matter to them. Nothing of it is taken from a domain, which is the subject of the tests.
"""

from __future__ import annotations

from pytest_iommu import formats
from pytest_iommu.core.flavours import Sizes
from pytest_iommu.core.model import TableConfig
from pytest_iommu.oracle.context_table import VtdHardware
from pytest_iommu.oracle.device_table import AmdHardware
from pytest_iommu.oracle.iommus import IommuHardware
from pytest_iommu.oracle.stream_model import Hardware


def hardware_config(name: str, hardware: IommuHardware, sizes: Sizes) -> TableConfig:
    """The table of a domain in that format. ConfigError if the IOMMU has none that such a kernel can use."""
    if isinstance(hardware, (VtdHardware, AmdHardware)) and sizes.own_tables:
        return hardware.own_config(name)
    if not isinstance(hardware, Hardware):
        return hardware.config(name)
    granule = _granule(hardware.granules, sizes.page)
    if name.endswith("_s1"):
        # Stage 1 is to be shared with a process, so it takes no more bits than the CPU's own tables.
        ias = min(52 if hardware.vax else 48, sizes.va_bits)
        return formats.configure(name, granule=granule, ias=ias, oas=hardware.oas)
    # Stage 2 is made as a nest parent, where both stages are there.
    options = ("fwb",) if hardware.fwb and hardware.nests else ()
    return formats.configure(name, granule=granule, ias=hardware.oas, oas=hardware.oas, options=options)


def _granule(granules: tuple[int, ...], page: int) -> int:
    """The kernel's page if the SMMU has it, otherwise the largest granule below it, or the smallest above it."""
    if not granules:
        raise formats.ConfigError("the SMMU has no granule at all (SMMU_IDR5)")
    below = [size for size in granules if size <= page]
    return max(below) if below else min(granules)
