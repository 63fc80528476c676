# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of several files, and kernel reports that are about code outside what is tested here.

A test that meets such a report is an expected failure.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.handles import GuestHandle
from pytest_iommu.conformance.helpers import GROUPS
from pytest_iommu.core.known_issues import KnownIssue
from pytest_iommu.guest import ops
from pytest_iommu.guest.console import Splat

PCIEHP = KnownIssue("pciehp-reset-lock", "lock order of pciehp and PCI rescan in Linux 7.3, see docs/findings.md")


def pytest_iommu_classify_splat(splat: Splat) -> KnownIssue | None:
    """Each by the kind of report and the functions in it, never by a line number."""
    if splat.kind == "lockdep" and "pciehp_configure_device" in splat.text and "reset_lock" in splat.text:
        return PCIEHP
    return None


@pytest.fixture
def groups(iommu_guest: GuestHandle) -> None:
    """Control groups that limit memory, at GROUPS. Skips where the kernel has none."""
    (allowed,) = iommu_guest.run([ops.write_file(f"{GROUPS}/cgroup.subtree_control", b"+memory")]).results
    if not allowed.ok:
        pytest.skip(f"this kernel has no memory controller: {ops.errno_name(allowed.value)}")
