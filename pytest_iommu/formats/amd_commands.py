# SPDX-License-Identifier: GPL-2.0-only
"""Commands of an AMD IOMMU's command buffer: two 64-bit words each.

AMD I/O Virtualization Technology (IOMMU) Specification, 2.4 "Commands".
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.formats.base import Field
from pytest_iommu.formats.invalidations import ALL, Invalidation, napot

COMMAND_BYTES = 16
DTE = "device table entry"
WAIT = "COMPLETION_WAIT"
FIELDS = {
    "Opcode": Field(0, 63, 60),
    "s": Field(0, 0, 0),
    "i": Field(0, 1, 1),
    "DeviceID": Field(0, 15, 0),
    "PASID": Field(0, 19, 0),
    "DomainID": Field(0, 47, 32),
    "S": Field(1, 0, 0),
    "PDE": Field(1, 1, 1),
    "GN": Field(1, 2, 2),
    "Address": Field(1, 63, 12),
}


def decode_command(words: Sequence[int]) -> Invalidation:
    """Decode one command from its two words. Those of device TLBs and interrupts are of no kind here."""
    value = {name: field.of(words) for name, field in FIELDS.items()}
    match value["Opcode"]:
        case 1:
            # one that neither stores nor interrupts tells nobody
            return Invalidation(WAIT, waits=bool(value["s"] or value["i"]))
        case 2:
            return Invalidation("INVALIDATE_DEVTAB_ENTRY", entry=DTE, requester=value["DeviceID"])
        case 3:
            first = FIELDS["Address"].address(words)
            first, last = napot(first) if value["S"] else (first, first + 0xFFF)
            leaf = not value["PDE"]
            everything = (first, last) == (0, ALL) and not leaf
            return Invalidation(
                "INVALIDATE_IOMMU_PAGES",
                translations=True,
                number=value["DomainID"],
                pasid=value["PASID"] if value["GN"] else None,
                first=None if everything else first,
                last=None if everything else last,
                leaf=leaf,
            )
        case 8:
            return Invalidation("INVALIDATE_IOMMU_ALL", translations=True, entry=DTE)
    return Invalidation(f"command {value['Opcode']}")
