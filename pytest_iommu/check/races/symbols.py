# SPDX-License-Identifier: GPL-2.0-only
"""Functions of a guest's kernel: where they are, whose an address is; from its /proc/kallsyms, read once a guest."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pytest_iommu.core.protocol import Memory, Op, Reply
from pytest_iommu.guest import ops


@dataclass(frozen=True, slots=True)
class Symbols:
    """``starts`` ascend, ``names`` are those of the same index. Empty where the kernel hides addresses."""

    starts: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Symbols:
        """The text of /proc/kallsyms."""
        found = re.findall(r"(?m)^([0-9a-f]{16}) [tTwW] (\S+)", text)
        rows = sorted((int(address, 16), name) for address, name in found if int(address, 16))
        return cls(tuple(start for start, _ in rows), tuple(name for _, name in rows))

    def address(self, name: str) -> int | None:
        """Where a function is; None where the kernel has none of that name, or does not tell."""
        return self.starts[self.names.index(name)] if name in self.names else None

    def around(self, address: int) -> range:
        """All addresses of the function that has this one; none where nobody knows where that begins and ends."""
        above = bisect_right(self.starts, address)
        return range(self.starts[above - 1], self.starts[above]) if 0 < above < len(self.starts) else range(0)


_KNOWN: WeakKeyDictionary[Memory, Symbols] = WeakKeyDictionary()


def of(run: Callable[[Sequence[Op]], Reply], memory: Memory) -> Symbols:
    """Those of the guest that ``run`` runs batches on; they are known as long as its ``memory`` lives."""
    if memory not in _KNOWN:
        (result,) = run([ops.read_file("/proc/kallsyms")]).results
        _KNOWN[memory] = Symbols.parse(ops.text_of(result))
    return _KNOWN[memory]
