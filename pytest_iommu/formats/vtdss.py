# SPDX-License-Identifier: GPL-2.0-only
"""Intel VT-d second stage (generic_pt format vtdss).

Bits: Intel Virtualization Technology for Directed I/O, 9.8 "Second-Stage Paging Entries".
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

READ, WRITE, PAGE_SIZE, ACCESSED, DIRTY, SNOOP, ADDRESS = (
    bits(0),
    bits(1),
    bits(7),
    bits(8),
    bits(9),
    bits(11),
    bits(51, 12),
)
FLUSHED = bits(10)
"""Software bit 0 (fmt/vtdss.h): see INCOHERENT."""
READABLE = "readable"
"""Feature of a table whose leaves can all be read, whatever was asked for."""
MAX_LEAF_LEVEL = 2


class VtdSs(Format):
    """``levels`` 3 to 5, ``vasz`` and ``oasz`` in bits, options ``force_coherence`` and ``force_writeable``.

    Hardware domains may have the features INCOHERENT and READABLE.
    """

    name = "vtdss"
    signature = ("levels", "vasz", "oasz")
    flags = (Flag("SNP", SNOOP),)
    volatile = (Flag("A", ACCESSED), Flag("D", DIRTY))

    def configure(self, **parameters: object) -> TableConfig:
        levels = take(parameters, "levels", 4)
        vasz = take(parameters, "vasz", min(57, 12 + 9 * levels))
        oasz = take(parameters, "oasz", 52)
        features = take_options(parameters, frozenset({"force_coherence", "force_writeable"}))
        no_more(parameters, self.name)
        if not 3 <= levels <= 5 or not 3 + 9 * levels < vasz <= 12 + 9 * levels or not 32 <= oasz <= 52:
            raise ConfigError(f"vtdss with {levels} levels does not support vasz {vasz}, oasz {oasz}")
        sizes = generic_sizes(1 << 12 | 1 << 21 | 1 << 30, vasz, oasz)
        return TableConfig(self.name, 4096, vasz, oasz, sizes, levels, features)

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        raw = SNOOP if "force_coherence" in config.features else 0
        read = prot.read or READABLE in config.features
        return raw | (READ if read else 0) | (WRITE if prot.write else 0)

    def prot(self, config: TableConfig, raw: int) -> Prot:
        return Prot(bool(raw & READ), bool(raw & WRITE))

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        if not raw & (READ | WRITE):
            return Kind.BAD
        if level == 0 or raw & PAGE_SIZE:
            return Kind.LEAF if level <= MAX_LEAF_LEVEL else Kind.BAD
        return Kind.TABLE

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        return PAGE_SIZE if level else 0

    def table_bits(self, config: TableConfig, level: int) -> int:
        return READ | WRITE | (FLUSHED if INCOHERENT in config.features else 0)

    def address_mask(self, config: TableConfig) -> int:
        return ADDRESS


FORMATS: tuple[Format, ...] = (VtdSs(),)
