# SPDX-License-Identifier: GPL-2.0-only
"""Does an IOMMU's page table, and a dump of it, tell the truth? A pytest plugin that decides.

These names are for tests in Python and for other plugins; docs/api.md describes them. Everything else may change
without notice. A name is imported when it is first used: pytest loads this package in every project.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestFileError, GuestHandle
    from pytest_iommu.check.iommu_handle import CommandError, Domain, Iommu
    from pytest_iommu.check.races.race import Race
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.compare.comparison import Comparison
    from pytest_iommu.core.boot_modes import BootMode
    from pytest_iommu.core.key import Key
    from pytest_iommu.core.known_issues import KnownIssue
    from pytest_iommu.core.machines import Device, Machine
    from pytest_iommu.core.model import Dump, Entry, Info, Prot, Range, Stats, TableConfig
    from pytest_iommu.core.outcomes import (
        CheckFailed,
        GuestLost,
        IommuError,
        KernelCrash,
        KernelHang,
        SetupError,
        Verdict,
    )
    from pytest_iommu.core.protocol import Evidence, Guest, Memory, Op, Reply, Result, Target
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.dialects.dialect import Dialect, DumpSyntaxError
    from pytest_iommu.formats.base import Format
    from pytest_iommu.images.artefacts import Artefacts
    from pytest_iommu.scenario.race_words import Hold
    from pytest_iommu.targets.registry import TargetKind

_HOMES = {
    "check.guest_handle": ("GuestFileError", "GuestHandle"),
    "check.iommu_handle": ("CommandError", "Domain", "Iommu"),
    "check.races.race": ("Race",),
    "check.witnesses.in_ram": ("InRam",),
    "compare.comparison": ("Comparison",),
    "core.boot_modes": ("BootMode",),
    "core.key": ("Key",),
    "core.known_issues": ("KnownIssue",),
    "core.machines": ("Device", "Machine"),
    "core.model": ("Dump", "Entry", "Info", "Prot", "Range", "Stats", "TableConfig"),
    "core.outcomes": ("CheckFailed", "GuestLost", "IommuError", "KernelCrash", "KernelHang", "SetupError", "Verdict"),
    "core.protocol": ("Evidence", "Guest", "Memory", "Op", "Reply", "Result", "Target"),
    "core.settings": ("Settings",),
    "dialects.dialect": ("Dialect", "DumpSyntaxError"),
    "formats.base": ("Format",),
    "images.artefacts": ("Artefacts",),
    "scenario.race_words": ("Hold",),
    "targets.registry": ("TargetKind",),
}

__all__ = [
    "Artefacts",
    "BootMode",
    "CheckFailed",
    "CommandError",
    "Comparison",
    "Device",
    "Dialect",
    "Domain",
    "Dump",
    "DumpSyntaxError",
    "Entry",
    "Evidence",
    "Format",
    "Guest",
    "GuestFileError",
    "GuestHandle",
    "GuestLost",
    "Hold",
    "InRam",
    "Info",
    "Iommu",
    "IommuError",
    "KernelCrash",
    "KernelHang",
    "Key",
    "KnownIssue",
    "Machine",
    "Memory",
    "Op",
    "Prot",
    "Race",
    "Range",
    "Reply",
    "Result",
    "Settings",
    "SetupError",
    "Stats",
    "TableConfig",
    "Target",
    "TargetKind",
    "Verdict",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
