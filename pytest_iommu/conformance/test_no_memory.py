# SPDX-License-Identifier: GPL-2.0-only
"""FLT-1: every allocation on the way to a dump fails in turn, by fail-nth (Documentation/fault-injection)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from pytest_iommu.domains import Domain, GuestHandle, Iommu
from pytest_iommu.guest import ops
from pytest_iommu.owners.directories import directories
from pytest_iommu.targets.protocol import Op
from pytest_iommu.testmodule import MODULE

NTH = "/proc/thread-self/fail-nth"
CONTROL = f"{MODULE}/control"
# Allocations that may fail without anybody noticing (kmemleak's, a shrinker's) are in between: the end is reached when
# so many in a row make no difference.
QUIET = 25
LIMIT = 500

pytestmark = [
    pytest.mark.iommu_flavour("debug"),
    pytest.mark.iommu_rules("FLT-1"),
    pytest.mark.iommu_needs(dialect="io_ptdump"),
]


def arm(nth: int) -> Op:
    """From here on the nth allocation of the agent's thread fails; 0: none."""
    return ops.write_file(NTH, f"{nth}".encode())


@pytest.fixture
def failing(iommu_guest: GuestHandle) -> Iterator[GuestHandle]:
    """A guest whose slab and page allocations can be made to fail, sleeping ones too, without a word in the log."""
    settings = {
        "failslab": ("ignore-gfp-wait", "verbose"),
        "fail_page_alloc": ("ignore-gfp-wait", "min-order", "verbose"),
    }
    batch = [
        ops.write_file(f"/sys/kernel/debug/{attribute}/{name}", b"0")
        for attribute, names in settings.items()
        for name in names
    ]
    if not all(result.ok for result in iommu_guest.run(batch).results):
        pytest.skip("needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and CONFIG_FAULT_INJECTION_DEBUG_FS")
    yield iommu_guest
    if iommu_guest.alive:
        # Writing takes allocations itself, the one that was to fail may be among them.
        iommu_guest.run([arm(0), arm(0)])


class Allocations:
    """Counts through the allocations of an operation; each fails in its turn, until QUIET in a row do not matter."""

    def __init__(self) -> None:
        self._quiet = 0

    def __iter__(self) -> Iterator[int]:
        for nth in range(1, LIMIT):
            yield nth
            self._quiet += 1
            if self._quiet == QUIET:
                return
        pytest.fail(f"allocation {LIMIT} still makes a difference")

    def mattered(self) -> None:
        """The operation noticed that its allocation failed."""
        self._quiet = -1


@pytest.mark.parametrize("name", ["info", "page_table", "entries", "stats"])
def test_reading_fails_with_enomem_and_nothing_else(
    name: str, failing: GuestHandle, iommu: Iommu, iommu_check: Callable[[Domain], None]
) -> None:
    domain = iommu.domain()
    domain.map(0x1000000, 0x41234000, "64K", "rwc")
    failed = {"open": 0, "read": 0}
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.open_file(1, domain.path(name)), ops.read(1, 4096), ops.close(1), arm(0), arm(0)]
        _, opened, read, *_ = failing.run(batch).results
        step, result = ("read", read) if opened.ok else ("open", opened)
        if result.ok:
            assert read.value > 0, f"nothing is read though allocation {nth} failed"
            continue
        assert result.value == -errno.ENOMEM, f"{step}, allocation {nth}: {ops.errno_name(result.value)}"
        failed[step] += 1
        allocations.mattered()
    # The buffer of a read is from kvmalloc(), which gets it elsewhere when one allocation fails.
    assert failed["open"] >= 2, "neither the seq_file nor the state of a reader was made to fail"
    iommu_check(domain)


def test_a_domain_is_made_though_its_directory_cannot_be(failing: GuestHandle, iommu: Iommu) -> None:
    without = 0
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=1\n"), arm(0), arm(0)]
        made = failing.run(batch).results[1]
        listed = failing.read(f"{MODULE}/domains").decode()
        assert made.ok == listed.startswith("d "), f"allocation {nth}: {made.value}, but the module lists {listed!r}"
        if not made.ok:
            assert made.value == -errno.ENOMEM, f"allocation {nth}: {ops.errno_name(made.value)}"
            allocations.mattered()
            continue
        if " id=- " in listed:
            without += 1
            allocations.mattered()
            iommu.command("map d 0x1000000 0x41234000 4K rw")
        iommu.command("destroy d")
    # The directory, its four files, the id: each of them.
    assert without >= 6, f"only {without} allocations of the directory failed"


def test_a_domain_that_could_not_be_made_leaves_no_directory(failing: GuestHandle, iommu: Iommu) -> None:
    before = directories(failing)
    refused = 0
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=2\n"), arm(0), arm(0)]
        if failing.run(batch).results[1].ok:
            iommu.command("destroy d")
        else:
            refused += 1
            allocations.mattered()
        assert directories(failing) == before, f"allocation {nth} leaves a directory behind"
    assert refused, "no allocation of the domain itself failed"
