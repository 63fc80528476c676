# SPDX-License-Identifier: GPL-2.0-only
"""CON-1 as seen from the host: the tables that a held reader may still read must keep their contents.

A guest in boot mode `races` overwrites freed pages with zeros (init_on_free=1). At the hold, the host saves the tables
on the reader's path and all tables below them. It compares them after the operations, before it releases the reader. A
table that was freed meanwhile differs, whether the page was reused or not. Nothing the guest does can restore it.

An item that an operation changed may differ as long as its table is in use. But generic_pt also clears the items of a
table before freeing it, so zeros prove nothing there. Therefore another domain allocates tables in the same write to
the test module, on the processor that frees tables. The allocator is last in, first out, so that domain gets the freed
pages. None of its tables may be one of the saved ones.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.core.model import TableConfig, parse_size
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats.base import ITEM_BYTES
from pytest_iommu.oracle.items import Item, Root, Table


@dataclass(frozen=True, slots=True)
class TableUpdate:
    """An operation on the page table: it may change the items in [first, last], in steps of ``leaf`` bytes.

    ``leaf`` is None if the kernel chooses. ``what`` is the command.
    """

    first: int
    last: int
    leaf: int | None
    what: str

    @classmethod
    def of(cls, line: str, domain: str) -> TableUpdate | None:
        """Return the access that a command of the test module makes to a domain's table; None if it makes none."""
        words = [word for word in line.split() if "=" not in word]
        named = dict(word.split("=", 1) for word in line.split() if "=" in word)
        at = {"map": 4, "unmap": 3}.get(words[0])
        if at is None or words[1] != domain:
            return None
        first, size = parse_size(words[2]), parse_size(words[at])
        further = parse_size(named.get("istep", str(size))) * (int(named.get("count", "1")) - 1)
        leaf = parse_size(named["leaf"]) if "leaf" in named else None
        return cls(first, first + further + size - 1, leaf, line)

    def over(self, first: int, last: int) -> bool:
        """Whether the operation overlaps these addresses."""
        return self.first <= last and first <= self.last

    def item_by_item(self, first: int, last: int, clears: bool) -> bool:
        """Whether it changes single items of the table for [first, last], not only the item that points to it."""
        whole = self.first <= first and last <= self.last
        return clears or not whole or (self.leaf is not None and self.leaf <= last - first)


class Snapshot:
    """The tables that a reader may still read, and their contents at the hold."""

    def __init__(self, memory: Memory, config: TableConfig, tables: Iterable[Table]) -> None:
        self._memory = memory
        self._config = config
        self._before = {table: bytes(memory.read(table.address, table.size)) for table in tables}

    @classmethod
    def of(cls, memory: Memory, root: Root, path: Sequence[Item], item: Item) -> Snapshot:
        """Save the tables on the path to an item that the reader has loaded, and all tables below that item."""
        above = [step.table for step in path if step.table.level >= item.table.level]
        return cls(memory, root.config, [*above, *root.below(memory, item)])

    @property
    def addresses(self) -> frozenset[int]:
        """The addresses of the saved tables."""
        return frozenset(table.address for table in self._before)

    def check(self, updates: Sequence[TableUpdate], linked: Collection[int], where: str) -> None:
        """Compare all tables with memory; ``linked`` are the addresses of the tables that are in use now.

        CheckFailed (CON-1) lists the differences.
        """
        for table, before in self._before.items():
            after = bytes(self._memory.read(table.address, table.size))
            if after == before:
                continue
            words = zip(_words(before), _words(after), strict=True)
            wrong = [
                (index, old, new)
                for index, (old, new) in enumerate(words)
                if old != new and not self._explained(table, index, new, updates, table.address in linked)
            ]
            if wrong:
                raise CheckFailed(self._text(table, wrong, after, table.address in linked, where), ("CON-1",))

    def _explained(self, table: Table, index: int, new: int, updates: Sequence[TableUpdate], linked: bool) -> bool:
        fmt = formats.get(self._config.format)
        shift = fmt.geometry(self._config).item_lg2(table.level)
        first = table.iova + (index << shift)
        own = [update for update in updates if update.over(first, first + (1 << shift) - 1)]
        if linked or not own:
            return bool(own)
        last = table.iova + (table.size // ITEM_BYTES << shift) - 1
        single = [update for update in own if update.item_by_item(table.iova, last, fmt.frees_covered_tables)]
        return len(single) > 1 or (len(single) == 1 and new == 0)

    def _text(self, table: Table, wrong: Sequence[tuple[int, int, int]], after: bytes, linked: bool, where: str) -> str:
        state = "in use" if linked else "no longer in use"
        rows = [
            f"the level {table.level} table for 0x{table.iova:x} at 0x{table.address:x}, {state}, has changed, "
            f"and {where} may still read it:"
        ]
        rows += [f"  item {index}: was 0x{old:016x}, is 0x{new:016x}" for index, old, new in wrong[:4]]
        if len(wrong) > 4:
            rows.append(f"  and {len(wrong) - 4} more")
        if not any(after):
            rows.append("  the whole table is zeros, as is a freed page on this kernel (init_on_free=1)")
        return "\n".join(rows)

    def check_not_given_out(self, others: Iterable[Table], where: str) -> None:
        """Check that no saved table now belongs to another domain: CheckFailed (CON-1)."""
        own = {table.address: table for table in self._before}
        for other in others:
            table = own.get(other.address)
            if table is not None:
                what = f"the level {table.level} table for 0x{table.iova:x} at 0x{table.address:x}"
                raise CheckFailed(f"{what} is now a table of another domain, and {where} may still read it", ("CON-1",))


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // ITEM_BYTES}Q", data)
