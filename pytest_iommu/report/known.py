# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: what a plugin answers to pytest_iommu_classify_splat."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """A kernel report that somebody knows already: the test that met it is reported as an expected failure."""

    name: str
    reason: str
