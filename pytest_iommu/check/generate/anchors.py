# SPDX-License-Identifier: GPL-2.0-only
"""Where a walk has most to get right: the addresses at which tables, halves and the aperture begin and end."""

from __future__ import annotations

from functools import lru_cache

from pytest_iommu import formats
from pytest_iommu.core.model import TableConfig


@lru_cache(maxsize=64)
def windows(config: TableConfig) -> tuple[tuple[int, int], ...]:
    """First IOVA and the one behind the last of every part of the address space that can be mapped."""
    fmt = formats.get(config.format)
    first, last = fmt.aperture(config)
    found = [(first, last + 1)]
    if "sign_extend" in config.features:
        found.append(((1 << 64) - (1 << config.ias - 1), 1 << 64))
    return tuple(found)


@lru_cache(maxsize=64)
def anchors(config: TableConfig) -> tuple[int, ...]:
    """IOVAs, the plainest first; some are the ends of windows, where only what ends there can be mapped."""
    geometry = formats.get(config.format).geometry(config)
    found: list[int] = []
    for begin, end in windows(config):
        inner = [begin + (1 << 30), begin, end, begin + (end - begin) // 2]
        for level in range(1, geometry.highest + 1):
            item = 1 << geometry.item_lg2(level)
            # the first table's end, the last table's begin, and an item that is neither first nor last of its table
            inner += [begin + item, end - item, begin + 5 * item]
        found += [address for address in inner if begin <= address <= end]
    return tuple(dict.fromkeys(found))


def window_of(config: TableConfig, address: int, size: int) -> tuple[int, int] | None:
    """The window that holds the range, or the first one large enough to, else None; the nearest to ``address``."""
    fitting = [window for window in windows(config) if window[1] - window[0] >= size]
    return min(fitting, key=lambda window: max(window[0] - address, address - window[1], 0), default=None)
