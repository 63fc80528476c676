# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's count of the pages of page tables, before, during and after a scenario (TAB-6)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_iommu import formats
from pytest_iommu.check.witnesses.accounting import REFRESH, VMSTAT, Accounting, NotCounted, forget
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.protocol import Guest, Op, Reply, Result
from pytest_iommu.oracle import Expected, TableModel

PAGE = 4096


def table(format: str = "arm_64_lpae_s1", size: int = PAGE, **parameters: int) -> Expected:
    model = TableModel(formats.configure(format, **parameters))
    model.map(0x100000, 0x41230000, size, Prot.from_letters("rw"))
    return model.snapshot()


class Counter:
    """A kernel that counts; ``counts`` are the answers in order."""

    def __init__(self, *counts: int | None) -> None:
        self.counts = list(counts)
        self.barriers = 0

    def __call__(self, batch: Sequence[Op]) -> Reply:
        return Reply(tuple(map(self._one, batch)))

    def _one(self, op: Op) -> Result:
        self.barriers += op.path.endswith("rcu_barrier")
        if op.path == VMSTAT:
            count = self.counts.pop(0)
            line = "" if count is None else f"nr_iommu_pages {count}\n"
            text = f"nr_free_pages 1\n{line}nr_swapcached 0\n"
            return Result(len(text), text.encode())
        return Result(1 if op.path == REFRESH else 0)


class SomeGuest:
    """What counts are remembered for."""


def accounting(counter: Counter, page: int = PAGE, guest: SomeGuest | None = None) -> Accounting:
    made: Guest = guest or SomeGuest()  # type: ignore[assignment]
    return Accounting(counter, page, made)


# Four levels, and a page each.
@pytest.mark.parametrize(
    ("counts", "runs", "wrong"),
    [
        ((20, 24, 20), 1, ""),
        ((20, 24, 21, 20), 1, ""),
        ((20, 24, 21, 21, 21, 25, 21), 2, ""),
        ((20, 24, 21, 21, 21, 25, 22, 22), 2, "1 pages of page tables are not given back"),
        ((20, 24, 19, 19, 19, 23, 18, 18), 2, "1 pages too many are given back"),
        ((20, 25, 20, 20, 25, 20), 2, "5 pages of page tables are in use for 1 domains, but its tables take 4"),
        ((20, 25, 20, 20, 24, 20), 2, ""),
    ],
    ids=["right", "later", "once", "left", "too-many", "live", "live-once"],
)
def test_only_a_difference_that_comes_again_is_a_fault(counts: tuple[int, ...], runs: int, wrong: str) -> None:
    ran = []

    def run() -> list[Expected]:
        ran.append(1)
        return [table()]

    failure = accounting(Counter(*counts)).check(run)
    assert len(ran) == runs
    if not wrong:
        assert failure is None
        return
    assert failure is not None
    assert (failure.rules, failure.verdict) == (("TAB-6",), Verdict.MAPPING)
    assert wrong in failure.message


@pytest.mark.parametrize("counts", [(None, None, None), (20, None, 20)], ids=["never", "once"])
def test_a_kernel_that_does_not_count_is_said_to_be_unchecked(counts: tuple[int | None, ...]) -> None:
    ran = []

    def run() -> list[Expected]:
        ran.append(1)
        return [table()]

    with pytest.warns(NotCounted, match=r"not counted \(TAB-6\): this kernel has no nr_iommu_pages in /proc/vmstat"):
        assert accounting(Counter(*counts)).check(run) is None
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("expected", "page", "pages"),
    [
        (table("arm_64_lpae_s1", granule=65536, size=65536), PAGE, 33),
        (table("arm_64_lpae_s1", granule=65536, size=65536), 65536, 3),
        (table("arm_64_lpae_s2", ias=40, oas=40), PAGE, 4),
        (table("amdv1"), PAGE, 3),
    ],
    ids=["64k-on-4k", "64k-on-64k", "concatenated", "amdv1"],
)
def test_pages_of_tables(expected: Expected, page: int, pages: int) -> None:
    assert accounting(Counter(10, 10 + pages, 10), page).check(lambda: [expected]) is None
    other = Counter(10, 11 + pages, 10, 10, 11 + pages, 10)
    assert accounting(other, page).check(lambda: [expected]) is not None


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        ((24, 20), False),
        # A default domain has grown between them.
        ((25, 21, 21, 21, 25, 21), False),
        # One has lost a page, as many as are not given back.
        ((23, 20, 20, 24, 21, 21, 21, 25, 22, 22), True),
        ((24, 21, 21, 21, 25, 22, 22, 22, 26, 23, 23), True),
    ],
    ids=["right", "grown", "lost", "left"],
)
def test_a_plan_begins_with_what_the_last_one_ended_with(second: tuple[int, ...], wrong: bool) -> None:
    """What is remembered saves a count where nothing is wrong, and convicts nobody."""
    guest, counter = SomeGuest(), Counter(20, 24, 20, *second)
    assert accounting(counter, guest=guest).check(lambda: [table()]) is None
    failure = accounting(counter, guest=guest).check(lambda: [table()])
    assert (failure is not None) is wrong
    assert not counter.counts


def test_what_else_is_done_on_a_guest_makes_it_count_anew() -> None:
    guest, counter = SomeGuest(), Counter(20, 24, 20, 30, 34, 30)
    for _ in range(2):
        assert accounting(counter, guest=guest).check(lambda: [table()]) is None
        forget(guest)  # type: ignore[arg-type]
    assert not counter.counts


def test_a_difference_is_not_remembered() -> None:
    """The plan after a fault counts for itself: else it would be blamed as well."""
    guest, counter = SomeGuest(), Counter(20, 24, 21, 21, 21, 25, 22, 22, 22, 26, 22)
    assert accounting(counter, guest=guest).check(lambda: [table()]) is not None
    assert accounting(counter, guest=guest).check(lambda: [table()]) is None
    assert not counter.counts
