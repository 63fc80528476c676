# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own count of the pages that hold page tables (TAB-6): what is freed is given back, nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Guest, Op, Reply
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE, command_ops

if TYPE_CHECKING:
    from pytest_iommu.core.flavours import Sizes
    from pytest_iommu.oracle import Expected

COUNTER = "nr_iommu_pages"
"""The line of /proc/vmstat: pages of all page tables of all IOMMUs, since Linux 6.11."""
REFRESH, VMSTAT = "/proc/sys/vm/stat_refresh", "/proc/vmstat"


#: per guest: the count when the last plan's domains had been freed, as long as nothing else has been done there
_AT_REST: WeakKeyDictionary[Guest, int] = WeakKeyDictionary()


def page_of(flavour: str, sizes: Sizes) -> int:
    """Bytes of a page where pages are counted, else 0: debugging options change what is allocated, and freed when."""
    return sizes.page if flavour == "plain" else 0


def forget(guest: Guest) -> None:
    """Something else is done on this guest: the next plan's count begins anew."""
    _AT_REST.pop(guest, None)


class NotCounted(UserWarning):
    """The kernel does not say how many pages its page tables take: listed once at the end of a run, not a failure."""


class Accounting:
    """Counts the pages of page tables before a plan is run, while its tables are live, and when all are freed.

    ``send`` runs a batch on ``guest``, ``page`` is the size of a page of the kernel in bytes. Tables of default domains
    are counted as well, and may grow at any time: only a difference that comes again is a fault. What one plan ends
    with is what the next one begins with: a fifth of a scenario's round trips would be spent on counting that again.
    """

    def __init__(self, send: Callable[[Sequence[Op]], Reply], page: int, guest: Guest) -> None:
        self._send = send
        self._page = page
        self._guest = guest

    def check(self, run: Callable[[], Sequence[Expected] | None]) -> CheckFailed | None:
        """Run something and compare the counts; ``run`` returns the live tables, or None if they are not known.

        Skips nothing: on a kernel that does not count, ``run`` is only called, and NotCounted says that nothing was
        compared.
        """
        remembered = self._guest in _AT_REST
        found = self._differences(run)
        if found and remembered:
            # The kernel may have changed its default domains between two plans.
            found = self._differences(run)
        if not found:
            return None
        again = self._differences(run)
        same = [text for kind, text in found.items() if kind in again]
        if not same:
            return None
        because = f"{COUNTER} of /proc/vmstat, twice"
        return CheckFailed("\n".join(same), ("TAB-6",), verdict=Verdict.MAPPING, because=because)

    def _differences(self, run: Callable[[], Sequence[Expected] | None]) -> dict[str, str]:
        """Return what is wrong: a key for each kind of difference, and its text."""
        before = _AT_REST.pop(self._guest, None)
        if before is None:
            (before,) = self._counts([*command_ops("reset\n"), *_look()])
        tables = run()
        live, after = self._counts([*_look(), *command_ops("reset\n"), *_look()])
        if before is None or live is None or after is None:
            why = f"this kernel has no {COUNTER} in {VMSTAT}, or does not refresh it ({REFRESH})"
            warnings.warn(f"pages of page tables are not counted (TAB-6): {why}", NotCounted, stacklevel=1)
            return {}
        if after != before:
            # Some kernels free tables after a grace period.
            (after,) = self._counts([ops.read_file(f"{MODULE}/rcu_barrier"), *_look()])
        wrong: dict[str, str] = {}
        if after is not None and after != before:
            what = f"{after - before} pages of page tables are not given back"
            if after < before:
                what = f"{before - after} pages too many are given back"
            wrong["left"] = f"{what} when all domains are freed: {before} before, {after} afterwards"
        if tables is not None:
            want = sum(map(self._pages_of, tables))
            if live - before != want:
                sizes = "its tables take" if len(tables) == 1 else "their tables take"
                what = f"{live - before} pages of page tables are in use for {len(tables)} domains, but {sizes} {want}"
                wrong["live"] = what
        if after is not None and not wrong:
            _AT_REST[self._guest] = after
        return wrong

    def _counts(self, batch: Sequence[Op]) -> list[int | None]:
        """Return the count of each look of a batch; None if this kernel does not count, or cannot add up."""
        results = self._send(batch).results
        texts = [result for op, result in zip(batch, results, strict=True) if op.path == VMSTAT]
        refreshed = all(result.ok for op, result in zip(batch, results, strict=True) if op.path == REFRESH)
        return [_count(ops.text_of(text)) if refreshed and text.ok else None for text in texts]

    def _pages_of(self, table: Expected) -> int:
        geometry = table.format.geometry(table.config)
        levels = {level: len(numbers) for level, numbers in table.tables.items()} | {table.top: 1}
        return sum(count * -(-geometry.table_bytes(level, table.top) // self._page) for level, count in levels.items())


def _look() -> list[Op]:
    """Read the count. Each processor has a part of it, which is added up first."""
    return [ops.write_file(REFRESH, b"1"), ops.read_file(VMSTAT)]


def _count(text: str) -> int | None:
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [COUNTER]), None)
