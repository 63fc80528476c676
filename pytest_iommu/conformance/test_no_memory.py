# SPDX-License-Identifier: GPL-2.0-only
"""FLT-1: every allocation on the way to a dump fails in turn, by fail-nth (Documentation/fault-injection)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from pytest_iommu.domains import CommandError, Domain, GuestHandle, Iommu
from pytest_iommu.guest import ops
from pytest_iommu.targets.protocol import Op

NTH = "/proc/thread-self/fail-nth"
CONTROL = "/sys/kernel/debug/iommu_ptdump_test/control"
# Far more than a directory and its files take; that the end is not reached is a failure, not an end.
LIMIT = 200

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


@pytest.mark.parametrize("name", ["info", "page_table", "entries", "stats"])
def test_reading_fails_with_enomem_and_nothing_else(
    name: str, failing: GuestHandle, iommu: Iommu, iommu_check: Callable[[Domain], None]
) -> None:
    domain = iommu.domain()
    domain.map(0x1000000, 0x41234000, "64K", "rwc")
    failed = 0
    for nth in range(1, LIMIT):
        batch = [arm(nth), ops.open_file(1, domain.path(name)), ops.read(1, 4096), ops.close(1), arm(0), arm(0)]
        _, opened, read, *_ = failing.run(batch).results
        assert opened.ok or opened.value == -errno.ENOMEM, f"open, allocation {nth}: {opened.value}"
        if opened.ok:
            assert read.value > 0 or read.value == -errno.ENOMEM, f"read, allocation {nth}: {read.value}"
        if opened.ok and read.ok:
            break
        failed += 1
    else:
        pytest.fail(f"allocation {LIMIT} of a read still fails")
    assert failed >= 2, "neither the open nor the read failed"
    iommu_check(domain)


def test_a_domain_is_made_though_its_directory_cannot_be(failing: GuestHandle, iommu: Iommu) -> None:
    without = 0
    for nth in range(1, LIMIT):
        made = failing.run([arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=1\n"), arm(0), arm(0)]).results[
            1
        ]
        listed = failing.read("/sys/kernel/debug/iommu_ptdump_test/domains").decode()
        assert made.ok == listed.startswith("d "), f"allocation {nth}: {made.value}, but the module lists {listed!r}"
        if made.value == -errno.ENOMEM:
            continue
        assert made.ok, f"allocation {nth}: {made.value}"
        if " id=- " in listed:
            without += 1
            iommu.command("map d 0x1000000 0x41234000 4K rw")
            iommu.command("destroy d")
            continue
        iommu.command("destroy d")
        break
    else:
        pytest.fail(f"allocation {LIMIT} of a new domain still fails")
    assert without, "no allocation of the directory failed"


def test_a_refused_command_leaves_the_domains_as_they_were(failing: GuestHandle, iommu: Iommu) -> None:
    before = sorted(failing.run([ops.list_directory("/sys/kernel/debug/iommu/domains")]).results[0].data.split())
    for nth in range(1, LIMIT):
        batch = [arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=2\n"), arm(0), arm(0)]
        if failing.run(batch).results[1].ok:
            break
        after = sorted(failing.run([ops.list_directory("/sys/kernel/debug/iommu/domains")]).results[0].data.split())
        assert after == before, f"allocation {nth} leaves a directory behind"
    with pytest.raises(CommandError):
        iommu.command("domain d dev=edu0 stage=2")
