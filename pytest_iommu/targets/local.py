# SPDX-License-Identifier: GPL-2.0-only
"""The local target: this machine."""

from __future__ import annotations

import platform

from pytest_iommu.targets.stdio import RunningHost


class LocalHost(RunningHost):
    """This machine, through a shell."""

    def __init__(self) -> None:
        self.name = f"this machine ({platform.node()})"

    def argv(self, command: str) -> list[str]:
        """Run a shell command here."""
        return ["/bin/sh", "-c", command]
