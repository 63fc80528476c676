# SPDX-License-Identifier: GPL-2.0-only
"""Addresses where a page-table walk is most likely to be wrong: limits of tables, halves and the aperture."""

from __future__ import annotations

from functools import lru_cache

from pytest_iommu import formats
from pytest_iommu.core.model import TableConfig


@lru_cache(maxsize=64)
def windows(config: TableConfig) -> tuple[tuple[int, int], ...]:
    """Return the first IOVA, and the one after the last, of every mappable part of the address space."""
    fmt = formats.get(config.format)
    first, last = fmt.aperture(config)
    found = [(first, last + 1)]
    if "sign_extend" in config.features:
        found.append(((1 << 64) - (1 << config.ias - 1), 1 << 64))
    return tuple(found)


@lru_cache(maxsize=64)
def anchors(config: TableConfig) -> tuple[int, ...]:
    """Return IOVAs, simplest first. Some are the end of a window, where only mappings that end there fit."""
    geometry = formats.get(config.format).geometry(config)
    found: list[int] = []
    for begin, end in windows(config):
        inner = [begin + (1 << 30), begin, end, begin + (end - begin) // 2]
        for level in range(1, geometry.highest + 1):
            item = 1 << geometry.item_lg2(level)
            # the end of the first table, the begin of the last, and an item in the middle of its table
            inner += [begin + item, end - item, begin + 5 * item]
        found += [address for address in inner if begin <= address <= end]
    return tuple(dict.fromkeys(found))


def window_of(config: TableConfig, address: int, size: int) -> tuple[int, int] | None:
    """Return the window around the range, else the first one large enough, else None; nearest to ``address`` first."""
    fitting = [window for window in windows(config) if window[1] - window[0] >= size]
    return min(fitting, key=lambda window: max(window[0] - address, address - window[1], 0), default=None)
