# SPDX-License-Identifier: GPL-2.0-only
"""The fields in the words of an in-memory structure of an IOMMU, and those that it must have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pytest_iommu.formats.base import Field

Seen = tuple[tuple[str, int], ...]
"""Fields that count for hardware, by name, as the other fields are; none where the structure is not valid."""


def differing(
    words: Sequence[int],
    want: Mapping[str, int],
    fields: Mapping[str, Field],
    chosen: Collection[str] = (),
    addresses: Collection[str] = (),
) -> list[str]:
    """What differs, a line a field: ``S2SH0 is 0, must be 3``. A field that is not wanted, or has no name, must be 0.

    Fields that are ``chosen`` by the kernel may have any value; those in ``addresses`` are addresses in place.
    """
    left, found = list(words), []
    for name, field in fields.items():
        mask = (1 << field.high + 1) - (1 << field.low)
        have = words[field.word] & mask
        left[field.word] &= ~mask
        shift = 0 if name in addresses else field.low
        must = want.get(name, 0) << shift
        if name not in chosen and have != must:
            found.append(f"{name} is {have >> shift:#x}, must be {must >> shift:#x}")
    found += [f"word {number} has bits that no field allows: {word:#x}" for number, word in enumerate(left) if word]
    return found


def values(words: Sequence[int], fields: Mapping[str, Field], names: Collection[str]) -> Seen:
    """Return the values of these fields."""
    return tuple((name, fields[name].of(words)) for name in names)
