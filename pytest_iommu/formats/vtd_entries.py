# SPDX-License-Identifier: GPL-2.0-only
"""In-memory structures of Intel VT-d besides page tables: root, context and PASID entries.

Fields: Intel Virtualization Technology for Directed I/O, 9.1 "Root Entry" to 9.6 "Scalable-Mode PASID Table Entry".
Bit N of an entry there is bit N % 64 of word N / 64 here.
"""

from __future__ import annotations

from pytest_iommu.formats.base import Field

ROOT_WORDS, CONTEXT_WORDS, SCALABLE_CONTEXT_WORDS, PASID_WORDS = 2, 2, 4, 8
RTADDR = {"TTM": Field(0, 11, 10), "RTA": Field(0, 63, 12)}
SCALABLE = 1
"""RTADDR.TTM of scalable mode; 0 is legacy mode."""
TABLE = {"P": Field(0, 0, 0), "Pointer": Field(0, 63, 12)}
"""Half of a root entry, or an entry of a PASID directory."""
CONTEXT = {
    "P": Field(0, 0, 0),
    "FPD": Field(0, 1, 1),
    "TT": Field(0, 3, 2),
    "SSPTPTR": Field(0, 63, 12),
    "AW": Field(1, 2, 0),
    "DID": Field(1, 23, 8),
}
SCALABLE_CONTEXT = {
    "P": Field(0, 0, 0),
    "FPD": Field(0, 1, 1),
    "DTE": Field(0, 2, 2),
    "PASIDE": Field(0, 3, 3),
    "PRE": Field(0, 4, 4),
    "PDTS": Field(0, 11, 9),
    "PASIDDIRPTR": Field(0, 63, 12),
    "RID_PASID": Field(1, 19, 0),
    "RID_PRIV": Field(1, 20, 20),
}
PASID = {
    "P": Field(0, 0, 0),
    "FPD": Field(0, 1, 1),
    "AW": Field(0, 4, 2),
    "PGTT": Field(0, 8, 6),
    "SSADE": Field(0, 9, 9),
    "SSPTPTR": Field(0, 63, 12),
    "DID": Field(1, 15, 0),
    "PWSNP": Field(1, 23, 23),
    "PGSNP": Field(1, 24, 24),
    "SRE": Field(2, 0, 0),
    "FSPM": Field(2, 3, 2),
    "WPE": Field(2, 4, 4),
    "EAFE": Field(2, 7, 7),
    "FSPTPTR": Field(2, 63, 12),
}
ADDRESSES = ("SSPTPTR", "FSPTPTR", "PASIDDIRPTR")
UNTRANSLATED, WITH_IOTLB, PASS_THROUGH = 0, 1, 2
"""CONTEXT.TT: requests are translated; so are those of a device TLB; nothing is."""
FIRST_ONLY, SECOND_ONLY, NESTED, PASSES = 1, 2, 3, 4
"""PASID.PGTT."""
MOST_LEVELS = 5


def levels_of_aw(aw: int) -> int | None:
    """Return the levels of a second-stage table: 3 for 39 bits and so on; None for a reserved address width."""
    return aw + 2 if 1 <= aw <= MOST_LEVELS - 2 else None
