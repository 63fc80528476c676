# SPDX-License-Identifier: GPL-2.0-only
"""The x86 page table as used by AMD and VT-d IOMMUs for first-stage translation (generic_pt format x86_64).

Bits: Intel SDM volume 3, 4.5 "4-Level Paging and 5-Level Paging". With the option ``sign_extend`` the upper half of the
table holds sign-extended IOVAs (RNG-5).
"""

from __future__ import annotations

from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.formats.base import (
    INCOHERENT,
    ConfigError,
    Flag,
    Format,
    bits,
    generic_sizes,
    no_more,
    take,
    take_options,
)

PRESENT, READ_WRITE, USER, PWT, PCD, ACCESSED, DIRTY, PAGE_SIZE = (
    bits(0),
    bits(1),
    bits(2),
    bits(3),
    bits(4),
    bits(5),
    bits(6),
    bits(7),
)
FLUSHED = bits(9)
"""Software bit 0 (fmt/x86_64.h): see INCOHERENT."""
ADDRESS, EXECUTE_DISABLE = bits(51, 12), bits(63)
MAX_LEAF_LEVEL = 2


class X8664(Format):
    """``levels`` 4 or 5, ``vasz`` (the sign bit included, where it is extended) and ``oasz`` in bits.

    Hardware domains may have the feature INCOHERENT.
    """

    name = "x86_64"
    signature = ("levels", "vasz", "oasz")
    default_options = frozenset({"sign_extend"})
    flags = (Flag("PWT", PWT),)
    volatile = (Flag("A", ACCESSED), Flag("D", DIRTY))

    def configure(self, **parameters: object) -> TableConfig:
        levels = take(parameters, "levels", 4)
        vasz = take(parameters, "vasz", 12 + 9 * levels)
        oasz = take(parameters, "oasz", 52)
        features = take_options(parameters, frozenset({"sign_extend"}), self.default_options)
        no_more(parameters, self.name)
        if not 4 <= levels <= 5 or not 3 + 9 * levels < vasz <= 12 + 9 * levels or not 32 <= oasz <= 52:
            raise ConfigError(f"x86_64 with {levels} levels does not support vasz {vasz}, oasz {oasz}")
        sizes = generic_sizes(1 << 12 | 1 << 21 | 1 << 30, vasz, oasz)
        return TableConfig(self.name, 4096, vasz, oasz, sizes, levels, features)

    def aperture(self, config: TableConfig) -> tuple[int, int]:
        return 0, (1 << config.ias - ("sign_extend" in config.features)) - 1

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        return USER | ACCESSED | (READ_WRITE | DIRTY if prot.write else 0)

    def prot(self, config: TableConfig, raw: int) -> Prot:
        return Prot(
            read=True,
            write=bool(raw & READ_WRITE),
            execute=not raw & EXECUTE_DISABLE,
            cacheable=not raw & PCD,
            privileged=not raw & USER,
        )

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        if not raw & PRESENT:
            return Kind.BAD
        if level == 0 or raw & PAGE_SIZE:
            return Kind.LEAF if level <= MAX_LEAF_LEVEL else Kind.BAD
        return Kind.TABLE

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        return PRESENT | (PAGE_SIZE if level else 0)

    def table_bits(self, config: TableConfig, level: int) -> int:
        return PRESENT | READ_WRITE | USER | ACCESSED | (FLUSHED if INCOHERENT in config.features else 0)

    def address_mask(self, config: TableConfig) -> int:
        return ADDRESS


FORMATS: tuple[Format, ...] = (X8664(),)
