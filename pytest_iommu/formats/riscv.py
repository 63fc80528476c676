# SPDX-License-Identifier: GPL-2.0-only
"""The RISC-V page table, Sv39, Sv48 and Sv57 (generic_pt format riscv_64).

Bits: The RISC-V Instruction Set Manual, volume II, 12.4 to 12.6 and chapters "Svnapot" and "Svpbmt".
"""

from __future__ import annotations

from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.formats.base import ConfigError, Flag, Format, bits, generic_sizes, no_more, take, take_options

VALID, READ, WRITE, EXECUTE, USER, GLOBAL, ACCESSED, DIRTY = (
    bits(0),
    bits(1),
    bits(2),
    bits(3),
    bits(4),
    bits(5),
    bits(6),
    bits(7),
)
PPN, PBMT, NAPOT = bits(53, 10), bits(62, 61), bits(63)
PBMT_NC, PBMT_IO = 1 << 61, 2 << 61
NAPOT_SIZE, NAPOT_64K = bits(13, 10), 0x8 << 10
LEVELS = {39: 3, 48: 4, 57: 5}


class RiscV64(Format):
    """``levels`` 3 to 5 with ``vasz`` 39, 48 or 57, ``oasz`` in bits, options ``svnapot svpbmt sign_extend``."""

    name = "riscv_64"
    signature = ("levels", "vasz", "oasz")
    default_options = frozenset({"sign_extend", "svnapot"})
    flags = (Flag("G", GLOBAL), Flag("PBMT", PBMT, number=True), Flag("NAPOT", NAPOT))
    volatile = (Flag("A", ACCESSED), Flag("D", DIRTY))

    def configure(self, **parameters: object) -> TableConfig:
        levels = take(parameters, "levels", 4)
        vasz = take(parameters, "vasz", 12 + 9 * levels)
        oasz = take(parameters, "oasz", 56)
        features = take_options(parameters, frozenset({"svnapot", "svpbmt", "sign_extend"}), self.default_options)
        no_more(parameters, self.name)
        if LEVELS.get(vasz) != levels or not 32 <= oasz <= 56:
            raise ConfigError(f"riscv_64 with {levels} levels does not support vasz {vasz}, oasz {oasz}")
        possible = sum(1 << 12 + 9 * level for level in range(LEVELS[vasz])) | (1 << 16 if "svnapot" in features else 0)
        sizes = generic_sizes(possible, vasz, oasz)
        return TableConfig(self.name, 4096, vasz, oasz, sizes, LEVELS[vasz], features)

    def aperture(self, config: TableConfig) -> tuple[int, int]:
        return 0, (1 << config.ias - ("sign_extend" in config.features)) - 1

    def request_bits(self, config: TableConfig, prot: Prot) -> int:
        raw = ACCESSED | USER | (EXECUTE if prot.execute else 0)
        raw |= (READ if prot.read else 0) | (READ | WRITE | DIRTY if prot.write else 0)
        if "svpbmt" in config.features:
            raw |= PBMT_IO if prot.device else 0 if prot.cacheable else PBMT_NC
        return raw

    def prot(self, config: TableConfig, raw: int) -> Prot:
        return Prot(
            read=bool(raw & READ),
            write=bool(raw & WRITE),
            execute=bool(raw & EXECUTE),
            cacheable=not raw & PBMT,
            device=raw & PBMT == PBMT_IO,
            privileged=not raw & USER,
        )

    def kind(self, config: TableConfig, level: int, raw: int) -> Kind | None:
        if raw == 0:
            return None
        if not raw & VALID:
            return Kind.BAD
        # Svnapot: reserved but for 64K at level 0; without the extension, at all
        if raw & NAPOT and (level or "svnapot" not in config.features or raw & NAPOT_SIZE != NAPOT_64K):
            return Kind.BAD
        if raw & (READ | WRITE | EXECUTE):
            return Kind.BAD if raw & (READ | WRITE) == WRITE else Kind.LEAF
        return Kind.TABLE if level else Kind.BAD

    def leaf_bits(self, config: TableConfig, level: int, size: int) -> int:
        return VALID | (NAPOT | NAPOT_64K if level == 0 and size == 1 << 16 else 0)

    def table_bits(self, config: TableConfig, level: int) -> int:
        return VALID

    def address_mask(self, config: TableConfig) -> int:
        return PPN

    def pack(self, config: TableConfig, address: int) -> int:
        return address >> 2 & PPN

    def unpack(self, config: TableConfig, raw: int) -> int:
        return (raw & PPN) << 2

    def leaf_span(self, config: TableConfig, level: int, raw: int) -> tuple[int, int]:
        size = 1 << 16 if raw & NAPOT else 1 << self.geometry(config).item_lg2(level)
        return self.unpack(config, raw) & -size, size


FORMATS: tuple[Format, ...] = (RiscV64(),)
