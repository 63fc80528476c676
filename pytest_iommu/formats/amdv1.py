# SPDX-License-Identifier: GPL-2.0-only
"""AMD's I/O page table for host translations (generic_pt format amdv1).

Bits: AMD I/O Virtualization Technology (IOMMU) Specification, 2.2.3, tables 14 and 15. A leaf with next level 7 is a
group of contiguous items, whose size is encoded in the low address bits. The top grows with the IOVAs.
"""

from __future__ import annotations

from functools import lru_cache

from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.formats.base import ConfigError, Flag, Format, Geometry, bits, generic_sizes, no_more, take

PRESENT, ACCESSED, DIRTY, NEXT_LEVEL, ADDRESS = bits(0), bits(5), bits(6), bits(11, 9), bits(51, 12)
FORCE_COHERENT, READ, WRITE = bits(60), bits(61), bits(62)
NEXT_LEVEL_GROUP = 7
MAX_TOP = 5
GRANULE_LG2, INDEX_BITS = 12, 9
#: every power of two from 4K on, up to what 52 bits hold, but 512G: a hardware bug (fmt/amdv1.h)
POSSIBLE = bits(51, 12) & ~(1 << 39)


class AmdV1(Format):
    """``levels`` of a new table (2 to 6), ``vasz`` and ``oasz`` in bits."""

    name = "amdv1"
    signature = ("levels", "vasz", "oasz")
    flags = (Flag("FC", FORCE_COHERENT),)
    volatile = (Flag("A", ACCESSED), Flag("D", DIRTY))

    def configure(self, **parameters: object) -> TableConfig:
        levels = take(parameters, "levels", 3)
        vasz = take(parameters, "vasz", 64)
        oasz = take(parameters, "oasz", 52)
        no_more(parameters, self.name)
        if not 2 <= levels <= MAX_TOP + 1:
            raise ConfigError(f"amdv1 has 2 to {MAX_TOP + 1} levels, not {levels}")
        if not GRANULE_LG2 + INDEX_BITS * (levels - 1) < vasz <= 64 or not 32 <= oasz <= 52:
            raise ConfigError(f"amdv1 with {levels} levels does not support vasz {vasz}, oasz {oasz}")
        # The kernel is built with PT_FORCE_ENABLED_FEATURES, so FC is in every leaf whatever the caller asks
        features = frozenset({"force_coherence"})
        return TableConfig(self.name, 4096, vasz, oasz, generic_sizes(POSSIBLE, vasz, oasz), levels, features)

    def geometry(self, config: TableConfig) -> Geometry:
        return _geometry(config)

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        raw = FORCE_COHERENT if "force_coherence" in config.features else 0
        return raw | (READ if prot.read else 0) | (WRITE if prot.write else 0)

    def prot(self, config: TableConfig, raw: int) -> Prot:
        return Prot(bool(raw & READ), bool(raw & WRITE))

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        if not raw & PRESENT:
            return Kind.BAD
        next_level = (raw & NEXT_LEVEL) >> 9
        if next_level in (0, NEXT_LEVEL_GROUP):
            return Kind.LEAF if level < MAX_TOP else Kind.BAD
        return Kind.TABLE if next_level == level else Kind.BAD

    def leaf_fits(self, config: TableConfig, level: int, raw: int) -> bool:
        if (raw & NEXT_LEVEL) >> 9 == NEXT_LEVEL_GROUP:
            # its size is in the address: more than one item of this level, and not more than a table
            return 1 << _geometry(config).item_lg2(level) < self.leaf_span(config, level, raw)[1]
        return super().leaf_fits(config, level, raw)

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        if size == 1 << _geometry(config).item_lg2(level):
            return PRESENT
        return PRESENT | NEXT_LEVEL_GROUP << 9 | (size // 2 - 1) & ADDRESS

    def table_bits(self, config: TableConfig, level: int) -> int:
        return PRESENT | level << 9 | READ | WRITE

    def address_mask(self, config: TableConfig) -> int:
        return ADDRESS

    def leaf_span(self, config: TableConfig, level: int, raw: int) -> tuple[int, int]:
        address = raw & ADDRESS
        if (raw & NEXT_LEVEL) >> 9 != NEXT_LEVEL_GROUP:
            return address, 1 << _geometry(config).item_lg2(level)
        ones = (address >> 12) + 1
        size = (ones & -ones) << 13
        return address & -size, size


@lru_cache(maxsize=256)
def _geometry(config: TableConfig) -> Geometry:
    return Geometry(GRANULE_LG2, INDEX_BITS, config.levels - 1, MAX_TOP, config.ias)


FORMATS: tuple[Format, ...] = (AmdV1(),)
