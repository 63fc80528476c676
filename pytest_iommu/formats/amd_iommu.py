# SPDX-License-Identifier: GPL-2.0-only
"""In-memory structures of an AMD IOMMU besides page tables: device table entries and event log entries.

Fields: AMD I/O Virtualization Technology (IOMMU) Specification, 2.2.2.1 "Device Table Entry Format" and 2.5 "Event
Logging".
Bit N of an entry there is bit N % 64 of word N / 64 here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.core.model import Event
from pytest_iommu.formats.base import Field

DTE_WORDS, EVENT_BYTES = 4, 16
BASE = {"Size": Field(0, 8, 0), "Base": Field(0, 51, 12)}
DTE = {
    "V": Field(0, 0, 0),
    "TV": Field(0, 1, 1),
    "HAD": Field(0, 8, 7),
    "Mode": Field(0, 11, 9),
    "Host page table root": Field(0, 51, 12),
    "PPR": Field(0, 52, 52),
    "GIOV": Field(0, 54, 54),
    "GV": Field(0, 55, 55),
    "IR": Field(0, 61, 61),
    "IW": Field(0, 62, 62),
    "DomainID": Field(1, 15, 0),
    "I": Field(1, 32, 32),
    "SysMgt": Field(1, 41, 40),
    # What becomes of interrupts, and flags that firmware asks for.
    "words 2": Field(2, 63, 0),
    "words 3": Field(3, 63, 0),
}
PASSES = 0
"""DTE.Mode without translation: what is left are the permissions IR and IW."""
MOST_LEVELS = 6
_EVENT = {
    "DeviceID": Field(0, 15, 0),
    "PR": Field(0, 52, 52),
    "RW": Field(0, 53, 53),
    "PE": Field(0, 54, 54),
    "Code": Field(0, 63, 60),
    "Address": Field(1, 63, 0),
}
IO_PAGE_FAULT = 2
NAMES = {1: "ILLEGAL_DEV_TABLE_ENTRY", 3: "DEV_TAB_HARDWARE_ERROR", 4: "PAGE_TAB_HARDWARE_ERROR", 5: "ILLEGAL_COMMAND"}


def decode_event(words: Sequence[int]) -> Event:
    """Return one record of the event log; ``words`` are its two."""
    code = _EVENT["Code"].of(words)
    name = "IO_PAGE_FAULT" if code == IO_PAGE_FAULT else NAMES.get(code, f"event {code}")
    write = bool(_EVENT["RW"].of(words)) if code == IO_PAGE_FAULT else None
    return Event(name, _EVENT["DeviceID"].of(words), tuple(words), iova=_EVENT["Address"].of(words), write=write)
