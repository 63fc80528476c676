# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors of VT-d's invalidation queue: two 64-bit words each, or four of which two are used.

Intel Virtualization Technology for Directed I/O, 6.5.2 "Queued Invalidation Interface".
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.formats.base import Field
from pytest_iommu.formats.invalidations import Invalidation

CONTEXT, PASID = "context entry", "PASID entry"
WAIT = "wait descriptor"
WIDE = 1 << 11
"""Bit of the queue's address register (IQA.DW): descriptors have four words."""
FIELDS = {
    "Type": Field(0, 3, 0),
    "G": Field(0, 5, 4),
    "IF": Field(0, 4, 4),
    "SW": Field(0, 5, 5),
    "DID": Field(0, 31, 16),
    "SID": Field(0, 47, 32),
    "FM": Field(0, 49, 48),
    "PASID": Field(0, 51, 32),
    "AM": Field(1, 5, 0),
    "IH": Field(1, 6, 6),
    "ADDR": Field(1, 63, 12),
}
_MASKS = (0, 4, 6, 7)
"""Bits of the function number that do not matter, by FM."""


def decode_descriptor(words: Sequence[int]) -> Invalidation:
    """Decode one descriptor from its first two words. Those of device TLBs and interrupts are of no kind here."""
    value = {name: field.of(words) for name, field in FIELDS.items()}
    kind, granularity, did = value["Type"], value["G"], value["DID"]
    match kind:
        case 1:  # global, domain-selective, device-selective
            of_device = granularity == 3
            return Invalidation(
                "context-cache invalidate",
                entry=CONTEXT,
                number=None if granularity == 1 else did,
                requester=value["SID"] if of_device else None,
                mask=_MASKS[value["FM"]] if of_device else 0,
            )
        case 2:  # global, domain-selective, page-selective
            number = None if granularity == 1 else did
            return _translations("IOTLB invalidate", words, number, None, granularity == 3)
        case 5:
            # one that neither writes a status nor interrupts tells nobody
            return Invalidation(WAIT, waits=bool(value["IF"] or value["SW"]))
        case 6:  # PASID-selective, page-selective
            return _translations("PASID-based IOTLB invalidate", words, did, value["PASID"], granularity == 3)
        case 7:  # domain-selective, PASID-selective, global
            number = None if granularity == 3 else did
            pasid = value["PASID"] if granularity == 1 else None
            return Invalidation("PASID-cache invalidate", entry=PASID, number=number, pasid=pasid)
    return Invalidation(f"descriptor {kind}")


def _translations(name: str, words: Sequence[int], number: int | None, pasid: int | None, pages: bool) -> Invalidation:
    if not pages:
        return Invalidation(name, translations=True, number=number, pasid=pasid)
    size = 4096 << FIELDS["AM"].of(words)
    first = FIELDS["ADDR"].address(words) & -size
    leaf = bool(FIELDS["IH"].of(words))
    return Invalidation(
        name, translations=True, number=number, pasid=pasid, first=first, last=first + size - 1, leaf=leaf
    )
