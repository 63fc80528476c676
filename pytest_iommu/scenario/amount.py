# SPDX-License-Identifier: GPL-2.0-only
"""Addresses and sizes of a scenario, which may depend on the page table.

Terms joined by + and -: a number (0x hex or decimal, K M G T P); ``page``, ``block`` or ``huge`` (the size that an item
at level 0, 1 or 2 maps; ``3page`` is three pages); ``end`` (the aperture's last IOVA plus 1; for a physical address, 1
<< oas); and ``last``, the IOVA of a mapping that ends at the aperture's last byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.core.model import SUFFIXES, TableConfig

_TERM = re.compile(r"\s*([+-]?)\s*(?:(0x[0-9a-fA-F]+|\d+)([KMGTP]?)|(\d*)(page|block|huge|end|last))\b\s*")
_LEVELS = {"page": 0, "block": 1, "huge": 2}


@dataclass(frozen=True, slots=True)
class Amount:
    """``fixed`` bytes plus terms of (factor, word); ``text`` is the text in the file."""

    text: str
    fixed: int
    terms: tuple[tuple[int, str], ...] = ()

    def value(self, config: TableConfig, end: int, size: int = 0) -> int:
        """Return the value in bytes for a table; ``end`` is the address after the last, ``size`` the mapping's."""
        total = self.fixed
        for factor, word in self.terms:
            if word in _LEVELS:
                total += factor << formats.get(config.format).geometry(config).item_lg2(_LEVELS[word])
            else:
                total += factor * (end - (size if word == "last" else 0))
        return total


def parse_amount(text: str) -> Amount:
    """Parse an amount. ValueError if it is malformed."""
    at, fixed = 0, 0
    terms: list[tuple[int, str]] = []
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or (at > 0 and not match[1]):
            raise ValueError(f"{text!r} is not an address or size")
        sign = -1 if match[1] == "-" else 1
        if match[2]:
            fixed += sign * int(match[2], 0) * SUFFIXES.get(match[3], 1)
        else:
            terms.append((sign * int(match[4] or 1), match[5]))
        at = match.end()
    if not text.strip():
        raise ValueError("an address or size must not be empty")
    return Amount(text, fixed, tuple(terms))
