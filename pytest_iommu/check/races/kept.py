# SPDX-License-Identifier: GPL-2.0-only
"""CON-1, seen from the host: the tables that a held reader may still read hold what they held.

A guest booted in mode `races` overwrites pages with zeros when they are freed (init_on_free=1). The host remembers
the tables on the reader's way, and all that are reached from there, at the moment of the hold; it looks at them again
when the operations are done, and only then lets the reader go on. What was freed meanwhile is not what it was, whether
somebody has got the page since or not, and nothing the guest does can make it so again.

An item that an operation changed has another value rightly, as long as its table is in use. generic_pt also clears the
items of a table before it gives it back: there zeros say nothing. So somebody else asks for tables in the same breath,
that is in the same write to the test module, on the processor that the others were freed on: what has been freed is
given out again last in, first out. None of them may be one of these.
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
class Touch:
    """An operation on the page table: it may change the items that lie in [first, last], in steps of ``leaf`` bytes.

    ``leaf`` is None where the kernel chooses. ``what`` is the command.
    """

    first: int
    last: int
    leaf: int | None
    what: str

    @classmethod
    def of(cls, line: str, domain: str) -> Touch | None:
        """What a command of the test module does to the page table of a domain; None where it leaves it alone."""
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
        """Whether it has to do with these addresses."""
        return self.first <= last and first <= self.last

    def item_by_item(self, first: int, last: int, clears: bool) -> bool:
        """Whether it changes items of a table for [first, last], and not the item that points to the table alone."""
        whole = self.first <= first and last <= self.last
        return clears or not whole or (self.leaf is not None and self.leaf <= last - first)


class Kept:
    """The tables that a reader may still read, and what was in them."""

    def __init__(self, memory: Memory, config: TableConfig, tables: Iterable[Table]) -> None:
        self._memory = memory
        self._config = config
        self._before = {table: bytes(memory.read(table.address, table.size)) for table in tables}

    @classmethod
    def of(cls, memory: Memory, root: Root, path: Sequence[Item], item: Item) -> Kept:
        """Those on the way to an item that the reader has loaded, and those that are reached from it."""
        above = [step.table for step in path if step.table.level >= item.table.level]
        return cls(memory, root.config, [*above, *root.below(memory, item)])

    @property
    def addresses(self) -> frozenset[int]:
        """Where they are."""
        return frozenset(table.address for table in self._before)

    def check(self, touches: Sequence[Touch], linked: Collection[int], where: str) -> None:
        """Look at all of them again; ``linked`` are the addresses of the tables that are in use now.

        CheckFailed (CON-1) says what is not what it was.
        """
        for table, before in self._before.items():
            after = bytes(self._memory.read(table.address, table.size))
            if after == before:
                continue
            words = zip(_words(before), _words(after), strict=True)
            wrong = [
                (index, old, new)
                for index, (old, new) in enumerate(words)
                if old != new and not self._rightly(table, index, new, touches, table.address in linked)
            ]
            if wrong:
                raise CheckFailed(self._text(table, wrong, after, table.address in linked, where), ("CON-1",))

    def _rightly(self, table: Table, index: int, new: int, touches: Sequence[Touch], linked: bool) -> bool:
        fmt = formats.get(self._config.format)
        shift = fmt.geometry(self._config).item_lg2(table.level)
        first = table.iova + (index << shift)
        mine = [touch for touch in touches if touch.over(first, first + (1 << shift) - 1)]
        if linked or not mine:
            return bool(mine)
        last = table.iova + (table.size // ITEM_BYTES << shift) - 1
        single = [touch for touch in mine if touch.item_by_item(table.iova, last, fmt.frees_covered_tables)]
        return len(single) > 1 or (len(single) == 1 and new == 0)

    def _text(self, table: Table, wrong: Sequence[tuple[int, int, int]], after: bytes, linked: bool, where: str) -> str:
        state = "in use" if linked else "not in use any more"
        rows = [
            f"the table of level {table.level} for 0x{table.iova:x} at 0x{table.address:x}, {state}, is not what it "
            f"was, and {where} may still read it:"
        ]
        rows += [f"  item {index}: was 0x{old:016x}, is 0x{new:016x}" for index, old, new in wrong[:4]]
        if len(wrong) > 4:
            rows.append(f"  and {len(wrong) - 4} more")
        if not any(after):
            rows.append("  all of it is zeros, as this kernel makes a page that is freed (init_on_free=1)")
        return "\n".join(rows)

    def check_not_given_out(self, others: Iterable[Table], where: str) -> None:
        """None of them is a table of somebody else now: CheckFailed (CON-1)."""
        mine = {table.address: table for table in self._before}
        for other in others:
            table = mine.get(other.address)
            if table is not None:
                what = f"the table of level {table.level} for 0x{table.iova:x} at 0x{table.address:x}"
                raise CheckFailed(f"{what} is a table of another domain, and {where} may still read it", ("CON-1",))


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // ITEM_BYTES}Q", data)
