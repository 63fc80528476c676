# SPDX-License-Identifier: GPL-2.0-only
"""Commands of an Arm SMMUv3's command queue: two 64-bit words each (IHI 0070, chapter 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_iommu.formats.base import Field

COMMAND_BYTES = 16

OPCODES = {
    0x01: "PREFETCH_CFG",
    0x03: "CFGI_STE",
    0x04: "CFGI_STE_RANGE",
    0x05: "CFGI_CD",
    0x06: "CFGI_CD_ALL",
    0x10: "TLBI_NH_ALL",
    0x11: "TLBI_NH_ASID",
    0x12: "TLBI_NH_VA",
    0x13: "TLBI_NH_VAA",
    0x20: "TLBI_EL2_ALL",
    0x21: "TLBI_EL2_ASID",
    0x22: "TLBI_EL2_VA",
    0x23: "TLBI_EL2_VAA",
    0x28: "TLBI_S12_VMALL",
    0x2A: "TLBI_S2_IPA",
    0x30: "TLBI_NSNH_ALL",
    0x40: "ATC_INV",
    0x41: "PRI_RESP",
    0x44: "RESUME",
    0x46: "SYNC",
}
FIELDS = {
    "OPCODE": Field(0, 7, 0),
    "NUM": Field(0, 16, 12),
    "SCALE": Field(0, 24, 20),
    "SSID": Field(0, 31, 12),
    "SID": Field(0, 63, 32),
    "VMID": Field(0, 47, 32),
    "ASID": Field(0, 63, 48),
    "LEAF": Field(1, 0, 0),
    "RANGE": Field(1, 4, 0),
    "TTL": Field(1, 9, 8),
    "TG": Field(1, 11, 10),
    "ADDRESS": Field(1, 63, 12),
}
SYNC = "SYNC"
BY_ADDRESS = ("TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_EL2_VA", "TLBI_EL2_VAA", "TLBI_S2_IPA")
BY_ASID = ("TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_EL2_ASID", "TLBI_EL2_VA")
CONFIGURATION = ("CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL")
_STAGE1 = ("TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_NH_ASID", "TLBI_NH_ALL", "TLBI_S12_VMALL", "TLBI_NSNH_ALL")
_STAGE2 = ("TLBI_S2_IPA", "TLBI_S12_VMALL", "TLBI_NSNH_ALL")
BY_VMID = ("TLBI_NH_ALL", "TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_S12_VMALL", "TLBI_S2_IPA")
_BY_SID = ("CFGI_STE", "CFGI_STE_RANGE", "CFGI_CD", "CFGI_CD_ALL", "ATC_INV")


@dataclass(frozen=True, slots=True)
class Tag:
    """What marks a domain's translations in the TLB: VMID, and the ASID at stage 1."""

    vmid: int
    asid: int | None = None

    def __str__(self) -> str:
        return f"VMID {self.vmid}" if self.asid is None else f"ASID {self.asid}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command; a field that its opcode does not have is None.

    ``first`` and ``last`` are addresses of a TLBI; ``last`` is None if it names one address and no range. ``ttl`` is
    the level of the leaf in Arm's numbering, 0 for any. ``leaf``: items above the leaf may stay cached. Of CFGI
    commands, ``sids`` has the first stream and the last one.
    """

    name: str
    sids: tuple[int, int] | None = None
    ssid: int | None = None
    asid: int | None = None
    vmid: int | None = None
    first: int | None = None
    last: int | None = None
    leaf: bool | None = None
    ttl: int = 0

    @property
    def waits(self) -> bool:
        """Whether the commands before it have completed once it has."""
        return self.name == SYNC

    def of_stream(self, sid: int) -> bool:
        """Whether it names this stream."""
        return self.sids is not None and self.sids[0] <= sid <= self.sids[1]

    def of_tag(self, tag: Tag) -> bool:
        """Whether it is a TLBI that concerns the translations with this tag."""
        if self.name not in (_STAGE2 if tag.asid is None else _STAGE1):
            return False
        return self.vmid in (None, tag.vmid) and self.asid in (None, tag.asid)

    def __str__(self) -> str:
        words = [self.name]
        if self.sids is not None:
            words.append(f"SID {self.sids[0]}" + (f"-{self.sids[1]}" if self.sids[1] != self.sids[0] else ""))
        words += [f"{name} {value}" for name, value in (("ASID", self.asid), ("VMID", self.vmid)) if value is not None]
        if self.first is not None:
            words.append(f"0x{self.first:x}" + (f"-0x{self.last:x}" if self.last is not None else ""))
            words.append(f"leaf {int(bool(self.leaf))} TTL {self.ttl}")
        return " ".join(words)


def decode_command(words: Sequence[int]) -> Command:
    """Decode one command from its two words. An opcode without a name here gets one like ``0x99``."""
    value = {name: field.of(words) for name, field in FIELDS.items()}
    name = OPCODES.get(value["OPCODE"], f"0x{value['OPCODE']:02x}")
    if name in _BY_SID:
        first = last = value["SID"]
        if name == "CFGI_STE_RANGE":
            span = 1 << value["RANGE"] + 1
            first, last = first & -span, first | span - 1
        cd = name == "CFGI_CD"
        leaf = bool(value["LEAF"]) if name in ("CFGI_STE", "CFGI_CD") else None
        return Command(name, (first, last), value["SSID"] if cd else None, leaf=leaf)
    asid = value["ASID"] if name in BY_ASID else None
    vmid = value["VMID"] if name in BY_VMID else None
    if name not in BY_ADDRESS:
        return Command(name, asid=asid, vmid=vmid)
    start, tg = FIELDS["ADDRESS"].address(words), value["TG"]
    # 1, 2 and 3 are granules of 4K, 16K and 64K; the range is (NUM + 1) * 2^SCALE of them
    last_byte = None if tg == 0 else start + (value["NUM"] + 1 << value["SCALE"] + 10 + 2 * tg) - 1
    ttl = value["TTL"] if tg else 0
    return Command(name, None, None, asid, vmid, start, last_byte, bool(value["LEAF"]), ttl)
