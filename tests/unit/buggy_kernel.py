# SPDX-License-Identifier: GPL-2.0-only
"""A page-table dump written a second time, small and with switches for faults: what a seeded bug does to the text.

It goes the way a kernel goes: a walk gives items, page_table merges and prints them, entries prints them. A fault put
into the walk shows in both files, with all its consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_iommu.core.model import Entry, Kind, Prot, format_size
from pytest_iommu.dialects.io_ptdump import render, render_entry
from pytest_iommu.oracle import Expected


@dataclass(frozen=True)
class Item:
    """One leaf as the walk hands it on; ``index`` counts leaves, ``slot`` the place in its table."""

    iova: int
    oa: int
    level: int
    size: int
    prot: Prot
    flags: tuple[str, ...]
    volatile: tuple[str, ...]
    raw: int
    index: int
    slot: int

    @property
    def last(self) -> int:
        return self.iova + self.size - 1


def walk(expected: Expected) -> list[Item]:
    """The leaves of a table, without fault."""
    geometry = expected.format.geometry(expected.config)
    found = []
    for index, leaf in enumerate(expected.leaves()):
        slot = leaf.iova >> geometry.item_lg2(leaf.level) & 511
        assert leaf.raw is not None
        found.append(
            Item(leaf.iova, leaf.oa, leaf.level, leaf.leaf, leaf.prot, leaf.flags, leaf.volatile, leaf.raw, index, slot)
        )
    return found


def no_fault(items: list[Item]) -> list[Item]:
    return items


def same_look(before: Item, after: Item) -> bool:
    look = "level", "size", "prot", "flags"
    return all(getattr(before, name) == getattr(after, name) for name in look)


def joins(before: Item, size: int, after: Item) -> bool:
    """RNG-3: ``size`` is that of the pending line, which begins with ``before``."""
    return before.iova + size == after.iova and before.oa + size == after.oa and same_look(before, after)


def line(item: Item, size: int) -> str:
    last = item.iova + size - 1
    words = [f"0x{item.iova:016x}-0x{last:016x} 0x{item.oa:016x} {format_size(size):>8} {item.level}"]
    words += [f"{format_size(item.size):>8} {item.prot}", *item.flags]
    return " ".join(words)


def texts(
    expected: Expected,
    fault: Callable[[list[Item]], list[Item]] = no_fault,
    join: Callable[[Item, int, Item], bool] = joins,
    show: Callable[[Item, int], str] = line,
    only: str = "",
) -> dict[str, str]:
    """The four files. ``fault`` changes the items of the walk; with ``only`` of that file's walk alone."""
    sound = walk(expected)
    found = render(expected.dump())
    if only in ("", "page_table"):
        found["page_table"] = page_table(fault(list(sound)), join, show)
    else:
        found["page_table"] = page_table(sound, join, show)
    if only in ("", "entries"):
        found["entries"] = entries(expected, sound, fault(list(sound)))
    return found


def page_table(items: Sequence[Item], join: Callable[[Item, int, Item], bool], show: Callable[[Item, int], str]) -> str:
    shown: list[str] = []
    pending: Item | None = None
    size = 0
    for item in items:
        if pending is not None and join(pending, size, item):
            size += item.size
            continue
        if pending is not None:
            shown.append(show(pending, size))
        pending, size = item, item.size
    if pending is not None:
        shown.append(show(pending, size))
    return "".join(f"{text}\n" for text in shown)


def entries(expected: Expected, sound: Sequence[Item], items: Iterable[Item]) -> str:
    tables = [entry for entry in expected.dump().entries or () if entry.kind is Kind.TABLE]
    leaves = [Entry(i.level, i.iova, Kind.LEAF, i.size, i.oa, i.raw, i.prot, i.flags + i.volatile) for i in items]
    rows = sorted([*tables, *leaves], key=lambda entry: (entry.iova, entry.kind is Kind.LEAF, -entry.level))
    return "".join(f"{render_entry(row)}\n" for row in rows)


def each(change: Callable[[Item], Item]) -> Callable[[list[Item]], list[Item]]:
    """A fault in every item."""
    return lambda items: [change(item) for item in items]


def with_flags(item: Item, flags: Iterable[str]) -> Item:
    return replace(item, flags=tuple(flags))
