# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED of the stream table: each field of an STE and a CD, from the configuration and the SMMU's ID registers.

What Linux writes for a domain that a device is attached to: arm_smmu_make_cdtable_ste(), arm_smmu_make_s2_domain_ste()
and arm_smmu_make_s1_cd() in drivers/iommu/arm/arm-smmu-v3; what the fields mean: IHI 0070, 5.2 and 5.4. Fields that
are not named here must be 0. Ids (ASID, VMID) and the pointer to the CD table are the kernel's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_iommu.core.model import TableConfig
from pytest_iommu.formats import smmuv3
from pytest_iommu.formats.base import Field
from pytest_iommu.oracle import entry_words

STE = {
    **smmuv3.STE,
    "S1DSS": Field(1, 1, 0),
    "S1CIR": Field(1, 3, 2),
    "S1COR": Field(1, 5, 4),
    "S1CSH": Field(1, 7, 6),
    "S1STALLD": Field(1, 27, 27),
    "EATS": Field(1, 29, 28),
    "STRW": Field(1, 31, 30),
    "SHCFG": Field(1, 45, 44),
    "S2VMID": Field(2, 15, 0),
    "S2IR0": Field(2, 41, 40),
    "S2OR0": Field(2, 43, 42),
    "S2SH0": Field(2, 45, 44),
    "S2PTW": Field(2, 54, 54),
    "S2S": Field(2, 57, 57),
    "S2R": Field(2, 58, 58),
}
CD = {
    **smmuv3.CD,
    "IRGN0": Field(0, 9, 8),
    "ORGN0": Field(0, 11, 10),
    "SH0": Field(0, 13, 12),
    "EPD1": Field(0, 30, 30),
    "HA": Field(0, 43, 43),
    "S": Field(0, 44, 44),
    "R": Field(0, 45, 45),
    "A": Field(0, 46, 46),
    "ASET": Field(0, 47, 47),
}
SSID0, WBRA, WBWA, INNER, INCOMING = 2, 1, 1, 3, 1
_TG = {size: value for value, size in smmuv3.TG.items()}
_ABORT, _BYPASS, _S1, _S2 = 0, 0b100, 0b101, 0b110
_GRANULES = {1 << 4: 4096, 1 << 5: 16384, 1 << 6: 65536}
"""SMMU_IDR5.GRAN4K, GRAN16K and GRAN64K."""
_OAS_52 = 6
CHOSEN = ("S1ContextPtr", "S1Fmt", "S2VMID", "ASID")
"""Fields whose value is the kernel's to choose."""
_ADDRESSES = ("S2TTB", "TTB0", "S1ContextPtr")
"""Fields whose value is an address: it stands where its bits are."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the ID registers say: IDR0.STALL_MODEL 0 lets devices stall, with IDR1.ATTR_TYPES_OVR SHCFG counts.

    ``nests``: both stages are there. ``granules`` in bytes, ``oas`` in bits; ``vax``: 52 bits of input at stage 1.
    """

    stalls: bool
    overrides: bool
    vmid_bits: int
    asid_bits: int
    nests: bool = True
    fwb: bool = False
    vax: bool = False
    granules: tuple[int, ...] = ()
    oas: int = 48

    @classmethod
    def of(cls, idr0: int, idr1: int, idr3: int = 0, idr5: int = 0) -> Hardware:
        """From SMMU_IDR0, 1, 3 and 5 (IHI 0070, 6.3.1 to 6.3.6); a reserved OAS is 48 bits, as for Linux."""
        oas = idr5 & 7
        return cls(
            stalls=idr0 >> 24 & 3 == 0,
            overrides=bool(idr1 >> 27 & 1),
            vmid_bits=16 if idr0 >> 18 & 1 else 8,
            asid_bits=16 if idr0 >> 12 & 1 else 8,
            nests=idr0 & 3 == 3,
            fwb=bool(idr3 >> 8 & 1),
            vax=idr5 >> 10 & 3 == 1,
            granules=tuple(size for bit, size in _GRANULES.items() if idr5 & bit),
            oas=smmuv3.OUTPUT_BITS[oas] if oas <= _OAS_52 else 48,
        )


def ste_fields(config: TableConfig, top: int, hardware: Hardware) -> dict[str, int]:
    """The fields of the STE of a device on that domain, without those that are the kernel's to choose."""
    if not config.format.endswith("_s2"):
        return {
            "V": 1,
            "Config": _S1,
            "S1CDMax": 0,
            "S1DSS": SSID0,
            "S1CIR": WBRA,
            "S1COR": WBRA,
            "S1CSH": INNER,
            "S1STALLD": int(hardware.stalls),
        }
    return {
        "V": 1,
        "Config": _S2,
        "SHCFG": INCOMING if hardware.overrides else 0,
        "S2FWB": int("fwb" in config.features),
        "S2T0SZ": 64 - config.ias,
        "S2SL0": config.levels - (2 if config.granule == 4096 else 1),
        "S2IR0": WBWA,
        "S2OR0": WBWA,
        "S2SH0": INNER,
        "S2TG": _TG[config.granule],
        "S2PS": smmuv3.OUTPUT_BITS.index(config.oas),
        "S2AA64": 1,
        "S2PTW": 1,
        "S2R": 1,
        "S2TTB": top,
    }


def ste_fields_without_table(passes: bool, hardware: Hardware) -> dict[str, int]:
    """The fields of the STE of a device that bypasses the SMMU, or is blocked."""
    if not passes:
        return {"V": 1, "Config": _ABORT}
    return {"V": 1, "Config": _BYPASS, "SHCFG": INCOMING if hardware.overrides else 0}


def cd_fields(config: TableConfig, top: int, mair: int) -> dict[str, int]:
    """The fields of the CD of a stage-1 domain, without the ASID."""
    dirty = int("hd" in config.features)
    return {
        "V": 1,
        "T0SZ": 64 - config.ias,
        "TG0": _TG[config.granule],
        "IRGN0": WBWA,
        "ORGN0": WBWA,
        "SH0": INNER,
        "EPD1": 1,
        "IPS": smmuv3.OUTPUT_BITS.index(config.oas),
        "AA64": 1,
        "HA": dirty,
        "HD": dirty,
        "R": 1,
        "A": 1,
        "ASET": 1,
        "TTB0": top,
        "MAIR": mair,
    }


def differing(words: Sequence[int], want: Mapping[str, int], fields: Mapping[str, Field]) -> list[str]:
    """What differs in an STE or CD, a line a field; what no field names must be 0."""
    return entry_words.differing(words, want, fields, CHOSEN, _ADDRESSES)
