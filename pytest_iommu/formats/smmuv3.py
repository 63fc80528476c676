# SPDX-License-Identifier: GPL-2.0-only
"""In-memory structures of an Arm SMMUv3 besides page tables: stream table entries, context descriptors, event records.

Fields: Arm System Memory Management Unit Architecture Specification, IHI 0070, 5.1 to 5.4 (descriptors), 7.3 (events).
Bit N of a descriptor there is bit N % 64 of word N / 64 here. Decoding needs only the words, and they also determine
the configuration of a page table.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.core.model import Cd, Event, Ste, TableConfig
from pytest_iommu.formats.arm_lpae import GRANULES
from pytest_iommu.formats.base import ConfigError, Field, lg2

WORDS = 8
STE_BYTES = CD_BYTES = 64
EVENT_BYTES = 32
L1_BYTES = 8

STE = {
    "V": Field(0, 0, 0),
    "Config": Field(0, 3, 1),
    "S1Fmt": Field(0, 5, 4),
    "S1ContextPtr": Field(0, 51, 6),
    "S1CDMax": Field(0, 63, 59),
    "S1DSS": Field(1, 1, 0),
    "S2FWB": Field(1, 25, 25),
    "S2T0SZ": Field(2, 37, 32),
    "S2SL0": Field(2, 39, 38),
    "S2TG": Field(2, 47, 46),
    "S2PS": Field(2, 50, 48),
    "S2AA64": Field(2, 51, 51),
    "S2ENDI": Field(2, 52, 52),
    "S2TTB": Field(3, 51, 4),
}
CD = {
    "T0SZ": Field(0, 5, 0),
    "TG0": Field(0, 7, 6),
    "EPD0": Field(0, 14, 14),
    "ENDI": Field(0, 15, 15),
    "V": Field(0, 31, 31),
    "IPS": Field(0, 34, 32),
    "AA64": Field(0, 41, 41),
    "HD": Field(0, 42, 42),
    "ASID": Field(0, 63, 48),
    "TTB0": Field(1, 51, 4),
    "MAIR": Field(3, 63, 0),
}
EVENT = {
    "type": Field(0, 7, 0),
    "SSV": Field(0, 11, 11),
    "SubstreamID": Field(0, 31, 12),
    "StreamID": Field(0, 63, 32),
    "RnW": Field(1, 35, 35),
    "S2": Field(1, 39, 39),
    "CLASS": Field(1, 41, 40),
    "InputAddr": Field(2, 63, 0),
    "IPA": Field(3, 51, 12),
    "FetchAddr": Field(3, 51, 3),
}
#: the level-1 descriptors of stream tables (5.1) and context descriptor tables (5.3)
L1STD_SPAN, L1STD_L2PTR = Field(0, 4, 0), Field(0, 51, 6)
L1CD_V, L1CD_L2PTR = Field(0, 0, 0), Field(0, 51, 12)

CONFIGS = {0b000: "ABORT", 0b100: "BYPASS", 0b101: "only S1_TRANS", 0b110: "only S2_TRANS", 0b111: "S1+S2_TRANS"}
UNKNOWN = "UNKNOWN"
WITH_STAGE1 = ("only S1_TRANS", "S1+S2_TRANS")
WITH_STAGE2 = ("only S2_TRANS", "S1+S2_TRANS")
#: what it means that an STE or CD has no domain (abi.md, STE-3)
WITHOUT_DOMAIN = ("none", "blocked", "identity", "cd", "unknown")
_WITHOUT = {"ABORT": "blocked", "BYPASS": "identity", "only S1_TRANS": "cd"}
#: S1DSS, what a transaction without a substream gets where there are several CDs; 0b10 is the CD of SSID 0
_WITHOUT_SUBSTREAM = {0b00: "blocked", 0b01: "identity"}

#: TG0 and S2TG; the fourth value is reserved
TG = {0b00: 4096, 0b01: 65536, 0b10: 16384}
#: IPS and S2PS, in bits
OUTPUT_BITS = (32, 36, 40, 42, 44, 48, 52, 56)
#: S1Fmt of a two-level table: how many bits of SSID its level 2 decodes
CD_SPLIT = {0b01: 6, 0b10: 10}
MIN_INPUT_BITS = 25

EVENTS = {
    0x01: "F_UUT",
    0x02: "C_BAD_STREAMID",
    0x03: "F_STE_FETCH",
    0x04: "C_BAD_STE",
    0x05: "F_BAD_ATS_TREQ",
    0x06: "F_STREAM_DISABLED",
    0x07: "F_TRANSL_FORBIDDEN",
    0x08: "C_BAD_SUBSTREAMID",
    0x09: "F_CD_FETCH",
    0x0A: "C_BAD_CD",
    0x0B: "F_WALK_EABT",
    0x10: "F_TRANSLATION",
    0x11: "F_ADDR_SIZE",
    0x12: "F_ACCESS",
    0x13: "F_PERMISSION",
    0x20: "F_TLB_CONFLICT",
    0x21: "F_CFG_CONFLICT",
    0x24: "E_PAGE_REQUEST",
    0x25: "F_VMS_FETCH",
}
_CLASSES = {0: "CD", 1: "TTD", 2: "IN"}
_FAULTS = ("F_WALK_EABT", "F_TRANSLATION", "F_ADDR_SIZE", "F_ACCESS", "F_PERMISSION")
_WITH_INPUT = (*_FAULTS, "F_UUT", "F_TRANSL_FORBIDDEN", "F_TLB_CONFLICT")
_WITH_FETCH = ("F_STE_FETCH", "F_CD_FETCH", "F_VMS_FETCH", "F_WALK_EABT")


def decode_ste(sid: int, words: Sequence[int]) -> Ste:
    """Decode a stream table entry (5.2) from its eight words; Config is decoded regardless of V."""
    config = CONFIGS.get(STE["Config"].of(words), UNKNOWN)
    return Ste(
        sid=sid,
        valid=bool(STE["V"].of(words)),
        config=config,
        s1_context_ptr=STE["S1ContextPtr"].address(words) if config in WITH_STAGE1 else 0,
        s2ttb=STE["S2TTB"].address(words) if config in WITH_STAGE2 else 0,
        words=tuple(words),
        without=_ste_without(words, config),
    )


def _ste_without(words: Sequence[int], config: str) -> str:
    if not STE["V"].of(words):
        return "none"
    if config == "only S1_TRANS" and STE["S1CDMax"].of(words):
        return _WITHOUT_SUBSTREAM.get(STE["S1DSS"].of(words), "cd")
    return _WITHOUT.get(config, "unknown")


def decode_cd(sid: int, ssid: int, words: Sequence[int]) -> Cd:
    """Decode a context descriptor (5.4) from its eight words."""
    return Cd(
        sid=sid,
        ssid=ssid,
        valid=bool(CD["V"].of(words)),
        asid=CD["ASID"].of(words),
        t0sz=CD["T0SZ"].of(words),
        tg0=TG.get(CD["TG0"].of(words)),
        ips=OUTPUT_BITS[CD["IPS"].of(words)],
        epd0=bool(CD["EPD0"].of(words)),
        ttb0=CD["TTB0"].address(words),
        mair=CD["MAIR"].of(words),
        words=tuple(words),
        without="blocked" if CD["EPD0"].of(words) else "unknown",
    )


def decode_event(words: Sequence[int]) -> Event:
    """Decode an event record (7.3) from its four words."""
    number = EVENT["type"].of(words)
    name = EVENTS.get(number, f"0x{number:02x}")
    fault, ssv = name in _FAULTS, EVENT["SSV"].of(words)
    address = None
    if name in _WITH_FETCH:
        address = EVENT["FetchAddr"].address(words)
    elif fault and EVENT["S2"].of(words):
        address = EVENT["IPA"].address(words)
    return Event(
        name=name,
        sid=EVENT["StreamID"].of(words),
        words=tuple(words),
        ssid=EVENT["SubstreamID"].of(words) if ssv else None,
        iova=EVENT["InputAddr"].of(words) if name in _WITH_INPUT else None,
        write=not EVENT["RnW"].of(words) if name in _WITH_INPUT else None,
        stage=1 + EVENT["S2"].of(words) if fault else None,
        access=_CLASSES.get(EVENT["CLASS"].of(words)) if fault else None,
        address=address,
    )


def stage1_table(cd: Cd) -> tuple[TableConfig, int]:
    """Return configuration and top of the table at TTB0. ConfigError if the SMMU would report C_BAD_CD."""
    if not cd.valid or not CD["AA64"].of(cd.words) or CD["ENDI"].of(cd.words):
        raise ConfigError("not a valid context descriptor of a little-endian AArch64 table")
    if cd.epd0 or cd.tg0 is None:
        raise ConfigError("TTB0 walks are disabled" if cd.epd0 else "TG0 has the reserved value")
    ias = _input_bits("T0SZ", cd.t0sz, cd.tg0)
    item_bits = lg2(cd.tg0) - 3
    levels = -(-(ias - lg2(cd.tg0)) // item_bits)
    features = frozenset({"hd"} if CD["HD"].of(cd.words) else ())
    return _config("arm_64_lpae_s1", cd.tg0, ias, cd.ips, levels, features), cd.ttb0


def stage2_table(ste: Ste) -> tuple[TableConfig, int]:
    """Return configuration and top of the table at S2TTB. ConfigError if the SMMU would report C_BAD_STE."""
    words = ste.words
    if not ste.valid or not STE["S2AA64"].of(words) or STE["S2ENDI"].of(words) or ste.config not in WITH_STAGE2:
        raise ConfigError("not a valid stream table entry of a little-endian AArch64 stage 2")
    granule, start = TG.get(STE["S2TG"].of(words)), STE["S2SL0"].of(words)
    if granule is None or start == 3:
        raise ConfigError("S2TG has the reserved value" if granule is None else "S2SL0 has the reserved value")
    ias = _input_bits("S2T0SZ", STE["S2T0SZ"].of(words), granule)
    # S2SL0 counts from Arm's level 2 up with 4K, from level 3 up with 16K and 64K: from 2 levels, or from 1
    levels = start + (2 if granule == 4096 else 1)
    top_bits = ias - lg2(granule) - (lg2(granule) - 3) * (levels - 1)
    if not 0 < top_bits <= lg2(granule) - 3 + 4:
        raise ConfigError(f"S2SL0 {start} would need a table of {1 << max(0, top_bits)} items for {ias} bits")
    features = frozenset({"fwb"} if STE["S2FWB"].of(words) else ())
    oas = OUTPUT_BITS[STE["S2PS"].of(words)]
    return _config("arm_64_lpae_s2", granule, ias, oas, levels, features), ste.s2ttb


def _input_bits(name: str, tsz: int, granule: int) -> int:
    ias = 64 - tsz
    if not MIN_INPUT_BITS <= ias <= _limit(granule):
        raise ConfigError(f"{name} {tsz} is out of range")
    return ias


def _limit(granule: int) -> int:
    """Return input and output bits without LPA2."""
    return 52 if granule == 65536 else 48


def _config(name: str, granule: int, ias: int, oas: int, levels: int, features: frozenset[str]) -> TableConfig:
    oas = min(oas, _limit(granule))
    # blocks of 4T are of the 52-bit extension
    sizes = GRANULES[granule] + ((1 << 42,) if granule == 65536 and oas > 48 else ())
    return TableConfig(name, granule, ias, oas, sizes, levels, features)
