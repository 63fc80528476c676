# SPDX-License-Identifier: GPL-2.0-only
"""Commands of the queues of VT-d, AMD's and RISC-V's IOMMU in the terms that they share.

An SMMUv3 has more: two ids a translation, level hints, ranges of streams (smmuv3_commands.py).
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = (1 << 64) - 1
"""The last address of a range without an end."""


@dataclass(frozen=True, slots=True)
class DomainTag:
    """What marks a domain's translations in the IOTLB: its id, and the PASID where commands name that as well."""

    name: str
    number: int
    pasid: int | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One command. Without ``translations``, ``entry`` and ``waits`` it is none that counts here.

    ``translations``: it concerns the IOTLB, all addresses without ``first``, and with ``leaf`` only what comes from
    leaves. ``entry``: it concerns cached entries of that kind; ``requester`` is whose, those that differ from it in
    bits of ``mask`` included. ``number`` and ``pasid`` are the only domain id and PASID concerned. What is None does
    not matter. ``waits``: once it has completed, so have those before it, and software can tell.
    """

    name: str
    waits: bool = False
    translations: bool = False
    entry: str = ""
    number: int | None = None
    pasid: int | None = None
    requester: int | None = None
    mask: int = 0
    first: int | None = None
    last: int | None = None
    leaf: bool = False
    ttl: int = 0

    def of_tag(self, tag: DomainTag) -> bool:
        """Whether it invalidates translations with this tag."""
        return self.translations and self.number in (None, tag.number) and self.pasid in (None, tag.pasid)

    def of_entry(self, entry: str, requester: int, number: int | None = None, pasid: int = 0) -> bool:
        """Whether it invalidates a requester's entry of that kind, which is for that PASID.

        ``number`` is the domain id that the entry had, None if it has no such field.
        """
        if self.entry != entry or (number is not None and self.number not in (None, number)):
            return False
        if self.pasid not in (None, pasid):
            return False
        return self.requester is None or not (self.requester ^ requester) & ~self.mask


def napot(address: int, lowest: int = 12) -> tuple[int, int]:
    """Return first and last address of a naturally aligned range of at least two units of 2^``lowest`` bytes.

    Its size is in the address: the lowest bit from ``lowest`` on that is 0 is the highest bit below it.
    """
    at = lowest
    while address >> at & 1:
        at += 1
    size = 2 << at
    return address & -size & ALL, (address & -size) + size - 1 & ALL
