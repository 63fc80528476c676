# SPDX-License-Identifier: GPL-2.0-only
"""Function symbols of a guest's kernel, from its /proc/kallsyms, which is read once per guest."""

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
    """``starts`` ascend; ``names`` has the same indices. Both are empty if the kernel hides addresses."""

    starts: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Symbols:
        """Parse the text of /proc/kallsyms."""
        found = re.findall(r"(?m)^([0-9a-f]{16}) [tTwW] (\S+)", text)
        rows = sorted((int(address, 16), name) for address, name in found if int(address, 16))
        return cls(tuple(start for start, _ in rows), tuple(name for _, name in rows))

    def address(self, name: str) -> int | None:
        """Return a function's address; None if the kernel has no such function or hides addresses."""
        return self.starts[self.names.index(name)] if name in self.names else None

    def around(self, address: int) -> range:
        """Return the address range of the function at this address; empty if its bounds are unknown."""
        above = bisect_right(self.starts, address)
        return range(self.starts[above - 1], self.starts[above]) if 0 < above < len(self.starts) else range(0)


_KNOWN: WeakKeyDictionary[Memory, Symbols] = WeakKeyDictionary()


def of(run: Callable[[Sequence[Op]], Reply], memory: Memory) -> Symbols:
    """Return the symbols of the guest that ``run`` talks to, cached for the lifetime of its ``memory``."""
    if memory not in _KNOWN:
        (result,) = run([ops.read_file("/proc/kallsyms")]).results
        _KNOWN[memory] = Symbols.parse(ops.text_of(result))
    return _KNOWN[memory]
