# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of several files, and kernel reports that are about code outside what is tested here.

A test that meets such a report is an expected failure.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.conformance.helpers import GROUPS
from pytest_iommu.core.known_issues import KnownIssue
from pytest_iommu.guest import ops
from pytest_iommu.guest.console import Splat

#: scenarios that fail because QEMU does something wrong, with what that is
BY_QEMU = {
    "many-pages-are-gone[riscv-s1-4k]": "QEMU 10.0 to 11.1: the RISC-V IOMMU does not know groups of 64K (Svnapot), "
    "and takes their PPN as it is; docs/findings.md",
}
PCIEHP = KnownIssue("pciehp-reset-lock", "lock order of pciehp and PCI rescan in Linux 7.3, see docs/findings.md")


def pytest_iommu_classify_splat(splat: Splat) -> KnownIssue | None:
    """Each by the kind of report and the functions in it, never by a line number."""
    if splat.kind == "lockdep" and "pciehp_configure_device" in splat.text and "reset_lock" in splat.text:
        return PCIEHP
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each must go on failing: when QEMU is right, its line goes."""
    for item in items:
        if item.name in BY_QEMU:
            item.add_marker(pytest.mark.xfail(reason=BY_QEMU[item.name], strict=True))


@pytest.fixture
def groups(iommu_guest: GuestHandle) -> None:
    """Control groups that limit memory, at GROUPS. Skips where the kernel has none."""
    (allowed,) = iommu_guest.run([ops.write_file(f"{GROUPS}/cgroup.subtree_control", b"+memory")]).results
    if not allowed.ok:
        pytest.skip(f"this kernel has no memory controller: {ops.errno_name(allowed.value)}")
