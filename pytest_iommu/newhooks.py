# SPDX-License-Identifier: GPL-2.0-only
"""Hooks for other plugins: machines, dialects, formats, targets, kernels and more of your own, and the life of guests.

A plugin takes part by an entry point of the group ``pytest11``, or a conftest.py by defining the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.compare.comparison import Comparison
    from pytest_iommu.core.boot_modes import BootMode
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
def pytest_iommu_boot_modes(config: pytest.Config) -> Mapping[str, BootMode]:  # type: ignore[empty-body]
    """Further boot modes by name, as ``@pytest.mark.iommu_boot_mode(NAME)`` selects them."""


@pytest.hookspec
def pytest_iommu_flavours(config: pytest.Config) -> Mapping[str, Path]:  # type: ignore[empty-body]
    """Further kernel flavours: name to configuration fragment, as ``--iommu-flavour=NAME`` selects them."""


@pytest.hookspec(firstresult=True)
def pytest_iommu_witness(config: pytest.Config, guest: Guest, machine: Machine) -> InRam | None:
    """Another IN RAM witness for a guest: an InRam, or a subclass of it whose texts() finds the tables differently.

    First answer wins; without one, the witness follows the SMMUv3's stream table.
    """


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
