# SPDX-License-Identifier: GPL-2.0-only
"""DONE: the device transfers that show whether a page table is as requested, and their expected results.

One page before and one after every range, its first, middle and last page, and each permission of it. Events are those
of the SMMU (IHI 0070, section 7.3): F_TRANSLATION if nothing is mapped, F_PERMISSION if the access is not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from pytest_iommu.core.model import Range
from pytest_iommu.oracle.expected import Expected
from pytest_iommu.oracle.iommu import PERMISSION, TRANSLATION


@dataclass(frozen=True, slots=True)
class Transfer:
    """One DMA at ``iova``. ``event`` is the expected fault, None if it must reach ``oa``; ``flags`` are its leaf's."""

    iova: int
    write: bool
    event: str | None
    oa: int | None = None
    flags: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{'write to' if self.write else 'read of'} 0x{self.iova:x}"


def transfers(expected: Expected, limit: int, harmless: Callable[[int, bool], bool]) -> list[Transfer]:
    """Return at most ``limit`` transfers, spread over the ranges. ``harmless(oa, write)``: what a device may access.

    Forbidden transfers come first: QEMU checks and reports less about them once it has cached a leaf
    (docs/findings.md).
    """
    chosen: dict[tuple[int, bool], Transfer] = {}
    for one in _by_worth(expected):
        if one.event is not None or (one.oa is not None and harmless(one.oa, one.write)):
            chosen.setdefault((one.iova, one.write), one)
        if len(chosen) == limit:
            break
    return sorted(chosen.values(), key=lambda one: one.event != PERMISSION)


def _by_worth(expected: Expected) -> Iterator[Transfer]:
    """Interleave: the first transfer of every range precedes the second of any."""
    page = min(expected.config.page_sizes)
    first, last = expected.format.aperture(expected.config)
    rows = expected.ranges
    befores = [first - 1, *(row.last for row in rows)]
    afters = [*(row.first for row in rows[1:]), last + 1]
    for step in range(6):
        for row, before, after in zip(rows, befores, afters, strict=False):
            yield from islice(_of_range(row, page, before, after), step, step + 1)


def _of_range(row: Range, page: int, before: int, after: int) -> Iterator[Transfer]:
    """Return six transfers for one range; useless ones (a neighbour is mapped, too) have neither event nor OA."""
    middle = row.first + (row.size // page // 2) * page
    end = row.last + 1 - page
    yield _inside(row, row.first, write=True)
    yield _inside(row, end, write=False)
    yield Transfer(row.last + 1, False, TRANSLATION if row.last + 1 < after else None)
    yield Transfer(row.first - page, True, TRANSLATION if row.first - page > before else None)
    yield _inside(row, middle, write=True)
    yield _inside(row, row.first, write=False)


def _inside(row: Range, iova: int, write: bool) -> Transfer:
    allowed = row.prot.write if write else row.prot.read
    return Transfer(iova, write, None if allowed else PERMISSION, row.oa + iova - row.first, row.flags)
