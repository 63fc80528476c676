# SPDX-License-Identifier: GPL-2.0-only
"""Which guest: machine, kernel flavour, and how it is booted."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.core.boot_modes import FUNCTIONAL


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What makes two guests interchangeable."""

    machine: str
    flavour: str
    boot_mode: str = FUNCTIONAL

    def __str__(self) -> str:
        name = f"{self.machine}/{self.flavour}"
        return name if self.boot_mode == FUNCTIONAL else f"{name}/{self.boot_mode}"

    @property
    def kernel(self) -> Key:
        """The same machine and flavour booted as usual: what has the same kernel has the same of these."""
        return Key(self.machine, self.flavour)
