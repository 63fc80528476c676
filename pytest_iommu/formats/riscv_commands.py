# SPDX-License-Identifier: GPL-2.0-only
"""Commands of a RISC-V IOMMU's command queue: two 64-bit words each.

RISC-V IOMMU Architecture Specification, 4.1 "Command-Queue (CQ)".
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.formats.base import Field
from pytest_iommu.formats.invalidations import Invalidation, napot

COMMAND_BYTES = 16
DC = "device context"
WAIT = "IOFENCE.C"
FIELDS = {
    "opcode": Field(0, 6, 0),
    "func3": Field(0, 9, 7),
    "AV": Field(0, 10, 10),
    "PSCID": Field(0, 31, 12),
    "PSCV": Field(0, 32, 32),
    "GV": Field(0, 33, 33),
    "NL": Field(0, 34, 34),
    "DV": Field(0, 33, 33),
    "DID": Field(0, 63, 40),
    "S": Field(1, 9, 9),
    "ADDR": Field(1, 61, 10),
}


def decode_command(words: Sequence[int]) -> Invalidation:
    """Decode one command from its two words. Those of guests, processes and device TLBs are of no kind here.

    An address alone names the leaf that holds it.
    """
    value = {name: field.of(words) for name, field in FIELDS.items()}
    match value["opcode"], value["func3"]:
        case 1, 0 if not value["GV"]:
            first: int | None = None
            last: int | None = None
            if value["AV"]:
                first = value["ADDR"] << 12
                if value["S"]:
                    first, last = napot(first)
            return Invalidation(
                "IOTINVAL.VMA",
                translations=True,
                number=value["PSCID"] if value["PSCV"] else None,
                first=first,
                last=last,
                leaf=bool(value["AV"] and not value["NL"]),
            )
        case 2, 0:
            return Invalidation(WAIT, waits=True)
        case 3, 0:
            return Invalidation("IODIR.INVAL_DDT", entry=DC, requester=value["DID"] if value["DV"] else None)
    return Invalidation(f"command {value['opcode']}.{value['func3']}")
