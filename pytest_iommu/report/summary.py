# SPDX-License-Identifier: GPL-2.0-only
"""Names of the properties of a test: its rules and outcome travel in report.user_properties, which survive xdist."""

from __future__ import annotations

import pytest

RULES = "iommu_rules"
"""Property: the rules a test is about, by comma."""
BROKEN = "iommu_broken"
"""Property: the rules that a failure broke, by comma."""
KIND = "iommu_outcome"
"""Property: the kind of a failure, as in pytest_iommu.core.outcomes."""
VERDICT = "iommu_verdict"
"""Property: whose fault a failure shows, as pytest_iommu.core.outcomes.Verdict; of the other kinds the kind."""
RETRIED = "iommu_retried"
"""Property: why the first guest of a test was lost."""
GUEST = "iommu_guest"
"""Property: the guest a test runs on, as machine/flavour, and /BOOT_MODE where it is booted in another."""
KERNEL = "iommu_kernel"
"""Property: what the guest of a test says of its kernel, where nobody here had it built."""
FINGERPRINT = "iommu_fingerprint"
"""Property: the name of the kernel report that a failure met, as report/fingerprint.py makes it."""
NOT_RUN = "not-run"
"""KIND of a test whose program ended before it: it is skipped to pytest, and has seen nothing of the kernel."""
KNOWN = "iommu_known"
"""Property: the name of the known issue that a failure is."""

INFRASTRUCTURE = ("setup-error", "guest-lost")
"""Kinds that say nothing of the kernel."""


def split(text: str) -> tuple[str, ...]:
    """The rules of a property."""
    return tuple(word for word in text.split(",") if word)


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, or failed as expected."""
    known = getattr(report, "wasxfail", "")
    if known:
        return str(known).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
