# SPDX-License-Identifier: GPL-2.0-only
"""In-memory structures of a RISC-V IOMMU besides page tables: device contexts and fault records.

Fields: RISC-V IOMMU Architecture Specification, 3.1 "Device-Directory-Table", 4.2 "Fault/Event-Queue".
Bit N of word M is bit N of the doubleword of that number.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.core.model import Event
from pytest_iommu.formats.base import Field

BASE_WORDS, EXTENDED_WORDS, FAULT_BYTES = 4, 8, 32
DDTP = {"Mode": Field(0, 3, 0), "PPN": Field(0, 53, 10)}
DDTE = {"V": Field(0, 0, 0), "PPN": Field(0, 53, 10)}
BARE = 1
LEVELS = {2: 1, 3: 2, 4: 3}
"""Levels of the directory by DDTP.Mode."""
DC = {
    "tc.V": Field(0, 0, 0),
    "tc.DTF": Field(0, 4, 4),
    "tc.PDTV": Field(0, 5, 5),
    "iohgatp.PPN": Field(1, 43, 0),
    "iohgatp.GSCID": Field(1, 59, 44),
    "iohgatp.MODE": Field(1, 63, 60),
    "ta.PSCID": Field(2, 31, 12),
    "fsc.PPN": Field(3, 43, 0),
    "fsc.MODE": Field(3, 63, 60),
}
SV39 = 8
"""fsc.MODE of a table of 39 bits, three levels; one more for each further level."""
_FAULT = {
    "CAUSE": Field(0, 11, 0),
    "DID": Field(0, 63, 40),
    "iotval": Field(2, 63, 0),
}
NOT_VALID = "DDT entry not valid"
CAUSES = {
    5: "read access fault",
    7: "write access fault",
    13: "read page fault",
    15: "write page fault",
    256: "all inbound transactions disallowed",
    257: "DDT entry load access fault",
    258: NOT_VALID,
    259: "DDT entry misconfigured",
    260: "transaction type disallowed",
}
PAGE_FAULTS = ("read page fault", "write page fault")
_WRITES = {5: False, 13: False, 21: False, 7: True, 15: True, 23: True}
"""Causes of reads and writes. TTYP says it of all, but is that of a write with QEMU, whatever the device did."""


def decode_fault(words: Sequence[int]) -> Event:
    """Return one record of the fault queue; ``words`` are its four."""
    cause = _FAULT["CAUSE"].of(words)
    write = _WRITES.get(cause)
    name = CAUSES.get(cause, f"cause {cause}")
    return Event(name, _FAULT["DID"].of(words), tuple(words), iova=_FAULT["iotval"].of(words), write=write)
