# SPDX-License-Identifier: GPL-2.0-only
"""Hooks for others: a machine, a dialect, a format, a target, a kernel of your own, and what happens to guests.

A plugin takes part by an entry point of the group ``pytest11``, or a conftest.py by defining the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_iommu.compare.comparison import Comparison
    from pytest_iommu.core.known_issues import KnownIssue
    from pytest_iommu.core.protocol import Evidence, Guest
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.formats import Format
    from pytest_iommu.guest.console import Splat
    from pytest_iommu.images import Artefacts, Machine, Progress
    from pytest_iommu.targets.registry import TargetKind


@pytest.hookspec
def pytest_iommu_machines(config: pytest.Config) -> Sequence[Machine]:  # type: ignore[empty-body]
    """Further machines: name, QEMU arguments, devices with their stream ids, kernel build."""


@pytest.hookspec
def pytest_iommu_dialects(config: pytest.Config) -> Sequence[Dialect]:  # type: ignore[empty-body]
    """Further dump texts: which files they are made of, and how they are parsed."""


@pytest.hookspec
def pytest_iommu_formats(config: pytest.Config) -> Sequence[Format]:  # type: ignore[empty-body]
    """Further page-table formats: levels, page sizes, fields."""


@pytest.hookspec
def pytest_iommu_targets(config: pytest.Config) -> Mapping[str, TargetKind]:  # type: ignore[empty-body]
    """Further targets by name, as ``--iommu-target=NAME[:ARGUMENT]`` selects them."""


@pytest.hookspec(firstresult=True)
def pytest_iommu_kernel(config: pytest.Config, machine: Machine, flavour: str, progress: Progress) -> Artefacts | None:
    """Bring your own kernel image and initramfs; called on the controller, before workers start. First answer wins.

    ``progress`` shows the user the steps that take long.
    """


@pytest.hookspec
def pytest_iommu_guest_started(guest: Guest) -> None:
    """A guest has booted and its agent answers."""


@pytest.hookspec
def pytest_iommu_guest_lost(guest: Guest, reason: str, evidence: Evidence) -> None:
    """A guest crashed, hung, vanished or was tainted; it is thrown away after this call."""


@pytest.hookspec
def pytest_iommu_compared(item: pytest.Item, comparison: Comparison) -> None:
    """A test compared a dump with what was expected: every verdict with both sides, good or bad."""


@pytest.hookspec(firstresult=True)
def pytest_iommu_classify_splat(splat: Splat) -> KnownIssue | None:
    """Say that a kernel report is a known issue: the test that met it is then an expected failure."""
