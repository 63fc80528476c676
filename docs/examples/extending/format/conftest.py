# SPDX-License-Identifier: GPL-2.0-only
"""The page table of the Toy IOMMU: two levels of 512 items, pages of 4K and blocks of 2M."""

from pytest_iommu import Format, Prot, TableConfig
from pytest_iommu.core.model import Kind
from pytest_iommu.formats.base import Flag, bits, no_more

VALID, WRITE, BLOCK, SNOOP, DIRTY = bits(0), bits(1), bits(2), bits(3), bits(4)
ADDRESS = bits(39, 12)


class Toy(Format):
    """It takes no parameters: the test module's command is `domain NAME format=toy`."""

    name = "toy"
    volatile = (Flag("D", DIRTY),)  # shown in `entries` only: the hardware sets it

    def configure(self, **parameters: object) -> TableConfig:
        no_more(parameters, self.name)
        return TableConfig(
            self.name, 4096, ias=30, oas=40, page_sizes=(4096, 2 << 20), levels=2
        )

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        return (WRITE if prot.write else 0) | (SNOOP if prot.cacheable else 0)

    def prot(self, config: TableConfig, raw: int) -> Prot:
        return Prot(
            read=True, write=bool(raw & WRITE), execute=True, cacheable=bool(raw & SNOOP)
        )

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        if not raw & VALID:
            return Kind.BAD
        return Kind.LEAF if level == 0 or raw & BLOCK else Kind.TABLE

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        return VALID | (BLOCK if level else 0)

    def table_bits(self, config: TableConfig, level: int) -> int:
        return VALID

    def address_mask(self, config: TableConfig) -> int:
        return ADDRESS


def pytest_iommu_formats(config):
    return [Toy()]
