# SPDX-License-Identifier: GPL-2.0-only
"""Kernel reports that are about code outside what is tested here: a test that meets one is an expected failure."""

from __future__ import annotations

from pytest_iommu.core.known_issues import KnownIssue
from pytest_iommu.guest.console import Splat

PCIEHP = KnownIssue("pciehp-reset-lock", "lock order of pciehp and PCI rescan in Linux 7.3, see docs/findings.md")


def pytest_iommu_classify_splat(splat: Splat) -> KnownIssue | None:
    """Each by the kind of report and the functions in it, never by a line number."""
    if splat.kind == "lockdep" and "pciehp_configure_device" in splat.text and "reset_lock" in splat.text:
        return PCIEHP
    return None
