# SPDX-License-Identifier: GPL-2.0-only
"""Names of a test's properties: its rules and outcome travel in report.user_properties, which xdist transmits."""

from __future__ import annotations

import pytest

RULES = "iommu_rules"
"""Property: the rules a test is about, separated by commas."""
BROKEN = "iommu_broken"
"""Property: the rules that a failure broke, separated by commas."""
KIND = "iommu_outcome"
"""Property: the kind of a failure, as in pytest_iommu.core.outcomes."""
VERDICT = "iommu_verdict"
"""Property: the place of the fault, as pytest_iommu.core.outcomes.Verdict; for other kinds of failure the kind."""
RETRIED = "iommu_retried"
"""Property: why the first guest of a test was lost."""
GUEST = "iommu_guest"
"""Property: the guest of a test as machine/flavour, with /BOOT_MODE added for a special boot mode."""
KERNEL = "iommu_kernel"
"""Property: the guest's description of its kernel, if the kernel was not built here."""
SPOKEN = "iommu_dialects"
"""Property: the dialects that the guest's kernel was found to speak."""
FINGERPRINT = "iommu_fingerprint"
"""Property: the name of the kernel report in a failure, from report/fingerprint.py."""
NOT_RUN = "not-run"
"""KIND of a test whose program ended before it: pytest sees a skip, and the test says nothing about the kernel."""
KNOWN = "iommu_known"
"""Property: the name of the known issue that a failure matches."""

INFRASTRUCTURE = ("setup-error", "guest-lost")
"""Kinds of failure that say nothing about the kernel."""


def split(text: str) -> tuple[str, ...]:
    """Return the rules of a property."""
    return tuple(word for word in text.split(",") if word)


def reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped or failed as expected."""
    known = getattr(report, "wasxfail", "")
    if known:
        return str(known).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
