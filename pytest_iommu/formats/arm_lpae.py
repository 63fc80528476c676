# SPDX-License-Identifier: GPL-2.0-only
"""Arm's long-descriptor (VMSAv8-64) format as used by io-pgtable-arm: stage 1 and 2, granules of 4K, 16K and 64K.

Bits: Arm ARM DDI 0487, D8.3 "Translation table descriptor formats". Arm's level 3 is level 0 here. The kernel's
encoding of a request: drivers/iommu/io-pgtable-arm.c, arm_lpae_prot_to_pte().
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.formats.base import (
    Attributes,
    ConfigError,
    Flag,
    Format,
    Geometry,
    bits,
    lg2,
    no_more,
    take,
    take_options,
)

ARM_LEVELS = 4
PAGE_OR_TABLE, BLOCK = 3, 1
ATTR_INDEX, NS, AP_UNPRIVILEGED, AP_READ_ONLY = bits(4, 2), bits(5), bits(6), bits(7)
HAP_READ, HAP_WRITE, MEMATTR = bits(6), bits(7), bits(5, 2)
SH, AF, NG, DBM, CONT, PXN, UXN, SW55 = bits(9, 8), bits(10), bits(11), bits(51), bits(52), bits(53), bits(54), bits(55)
XN, NS_TABLE = bits(54, 53), bits(63)
SH_OS, SH_IS = 2 << 8, 3 << 8
ADDRESS = bits(47, 12)

#: the MAIR that io-pgtable-arm programs: non-cacheable, write-back, device nGnRE, inner non-cacheable outer write-back
MAIR = 0xF404FF44
IDX_CACHE, IDX_DEVICE = 1, 2
MEMATTR_DEVICE, MEMATTR_NC, MEMATTR_FWB_WB, MEMATTR_WB = 0x1, 0x5, 0x6, 0xF

SHAREABILITY = Flag("SH", SH, names={0: "SH_NS", 2: "SH_OS", 3: "SH_IS"})
VOLATILE = (Flag("AF", AF), Flag("DBM", DBM), Flag("CONT", CONT), Flag("SW55", SW55))

OUTPUT_SIZES = (32, 36, 40, 42, 44, 48, 52)
GRANULES = {
    4096: (1 << 12, 1 << 21, 1 << 30),
    16384: (1 << 14, 1 << 25),
    65536: (1 << 16, 1 << 29),
}


class ArmLpae(Format):
    """Common base of both stages."""

    signature = ("granule", "ias", "oas")
    options_word = "quirks"
    options: frozenset[str] = frozenset()
    frees_covered_tables = False
    volatile = VOLATILE
    max_ias, max_oas = 52, 52

    def configure(self, **parameters: object) -> TableConfig:
        """``granule`` in bytes, ``ias`` and ``oas`` in bits, ``options`` are quirks; as in arm_lpae_alloc_pgtable()."""
        granule = take(parameters, "granule", 4096)
        oas = take(parameters, "oas", min(48, self.max_oas))
        ias = take(parameters, "ias", self.default_ias(oas))
        features = take_options(parameters, self.options)
        no_more(parameters, self.name)
        if granule not in GRANULES or (self.max_ias < 48 and granule != 4096):
            raise ConfigError(f"{self.name} does not support a granule of {granule} bytes")
        if not (granule.bit_length() < ias <= self.max_ias and 32 <= oas <= self.max_oas):
            raise ConfigError(f"{self.name} supports at most ias {self.max_ias} and oas {self.max_oas}")
        limit = 52 if granule == 65536 else 48
        ias, oas = min(ias, limit), min(oas, limit)
        if oas not in OUTPUT_SIZES:
            raise ConfigError(f"Arm does not support an output size of {oas} bits")
        sizes = GRANULES[granule] + ((1 << 42,) if granule == 65536 and oas > 48 else ())
        index_bits = lg2(granule) - 3
        levels = -(-(ias - lg2(granule)) // index_bits)
        config = TableConfig(self.name, granule, ias, oas, sizes, levels, features)
        if self.concatenates(config):
            config = TableConfig(self.name, granule, ias, oas, sizes, levels - 1, features)
        return config

    def default_ias(self, oas: int) -> int:
        """The default input size in bits."""
        return min(48, self.max_ias)

    def concatenates(self, config: TableConfig) -> bool:
        """Whether concatenated tables below the top replace it."""
        return False

    def geometry(self, config: TableConfig) -> Geometry:
        return _geometry(config)

    def aperture(self, config: TableConfig) -> tuple[int, int]:
        if "ttbr1" in config.features:
            return (1 << 64) - (1 << config.ias), (1 << 64) - 1
        return 0, (1 << config.ias) - 1

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        low = raw & 3
        if level == 0:
            return Kind.LEAF if low == PAGE_OR_TABLE else Kind.BAD
        return {PAGE_OR_TABLE: Kind.TABLE, BLOCK: Kind.LEAF}.get(low, Kind.BAD)

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        return PAGE_OR_TABLE if level == 0 else BLOCK

    def table_bits(self, config: TableConfig, level: int) -> int:
        return PAGE_OR_TABLE | (NS_TABLE if "ns" in config.features else 0)

    def address_mask(self, config: TableConfig) -> int:
        return ADDRESS

    def pack(self, config: TableConfig, address: int) -> int:
        # 64K granule: OA[51:48] are in bits 15:12, which a 64K-aligned address leaves free (D8.3, 52-bit OA)
        return (address | address >> 36) & ADDRESS

    def unpack(self, config: TableConfig, raw: int) -> int:
        address = raw & ADDRESS
        if config.granule < 65536:
            return address
        return (address | address << 36) & (ADDRESS << 4)


class Stage1(ArmLpae):
    """EL1&0 stage 1, with the memory types of the MAIR that io-pgtable-arm programs."""

    options = frozenset({"ns", "ttbr1", "hd"})
    flags = (
        SHAREABILITY,
        Flag("NS", NS),
        Flag("nG", NG),
        Flag("ATTR", ATTR_INDEX, number=True, always=True),
        Flag("PXN", PXN),
        Flag("UXN", UXN),
    )

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        raw = NG | AF | (SH_IS if prot.cacheable else SH_OS)
        if prot.read and not prot.write:
            raw |= AP_READ_ONLY
        elif "hd" in config.features:
            raw |= DBM
        if not prot.privileged:
            raw |= AP_UNPRIVILEGED
        if prot.device:
            raw |= IDX_DEVICE << 2
        elif prot.cacheable:
            raw |= IDX_CACHE << 2
        if not prot.execute:
            raw |= XN
        return raw | (NS if "ns" in config.features else 0)

    def cleaned(self, config: TableConfig, attributes: Attributes) -> Attributes:
        # Arm ARM D8.5.9: with DBM set, AP[2] is the state: hardware clears it with the first write.
        return replace(attributes, raw=attributes.raw | AP_READ_ONLY) if attributes.raw & DBM else attributes

    def prot(self, config: TableConfig, raw: int) -> Prot:
        memory = MAIR >> 8 * ((raw & ATTR_INDEX) >> 2) & 0xFF
        device = not memory & 0xF0
        return Prot(
            read=True,
            write=not raw & AP_READ_ONLY or ("hd" in config.features and bool(raw & DBM)),
            execute=not raw & XN,
            cacheable=not device and memory != 0x44,
            device=device,
            privileged=not raw & AP_UNPRIVILEGED,
        )


class Stage2(ArmLpae):
    """Stage 2, where the top may consist of up to 16 concatenated tables."""

    options = frozenset({"fwb"})
    flags = (
        SHAREABILITY,
        Flag("MEMATTR", MEMATTR, number=True, always=True),
        Flag("XN", XN, number=True),
    )

    def configure(self, **parameters: object) -> TableConfig:
        config = super().configure(**parameters)
        if config.ias > config.oas:
            raise ConfigError(
                f"stage 2 translates the output of stage 1, so ias {config.ias} must not exceed oas {config.oas}"
            )
        return config

    def default_ias(self, oas: int) -> int:
        return min(48, self.max_ias, oas)

    def concatenates(self, config: TableConfig) -> bool:
        """Arm ARM R_DXBSH and R_SRKBC: with these widths, the initial lookup cannot be at its regular level."""
        if config.granule == 16384:
            return (config.levels == 4 and 48 in (config.oas, config.ias)) or (config.levels == 3 and config.oas == 40)
        return config.granule == 4096 and config.levels == 4 and config.oas in (40, 42)

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        raw = AF | (SH_IS if prot.cacheable else SH_OS)
        raw |= (HAP_READ if prot.read else 0) | (HAP_WRITE if prot.write else 0)
        if prot.device:
            memory = MEMATTR_DEVICE
        elif prot.cacheable:
            memory = MEMATTR_FWB_WB if "fwb" in config.features else MEMATTR_WB
        else:
            memory = MEMATTR_NC
        return raw | memory << 2 | (0 if prot.execute else XN)

    def prot(self, config: TableConfig, raw: int) -> Prot:
        memory = (raw & MEMATTR) >> 2
        return Prot(
            read=bool(raw & HAP_READ),
            write=bool(raw & HAP_WRITE),
            execute=not raw & UXN,  # XN[1], bit 54
            cacheable=memory == MEMATTR_WB or (memory == MEMATTR_FWB_WB and "fwb" in config.features),
            device=memory < 4,
        )


class Arm64Stage1(Stage1):
    name = "arm_64_lpae_s1"


class Arm64Stage2(Stage2):
    name = "arm_64_lpae_s2"


class Arm32Stage1(Stage1):
    name = "arm_32_lpae_s1"
    max_ias, max_oas = 32, 40


class Arm32Stage2(Stage2):
    name = "arm_32_lpae_s2"
    max_ias, max_oas = 40, 40


@lru_cache(maxsize=256)
def _geometry(config: TableConfig) -> Geometry:
    top = config.levels - 1
    return Geometry(lg2(config.granule), lg2(config.granule) - 3, top, top, config.ias)


FORMATS: tuple[Format, ...] = (Arm64Stage1(), Arm64Stage2(), Arm32Stage1(), Arm32Stage2())
