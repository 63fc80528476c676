# SPDX-License-Identifier: GPL-2.0-only
"""The local target: this machine."""

from __future__ import annotations

import platform

from pytest_iommu.targets.stdio import RunningHost


class LocalHost(RunningHost):
    """This machine, by a shell of its own."""

    def __init__(self) -> None:
        self.name = f"this machine ({platform.node()})"

    def argv(self, command: str) -> list[str]:
        """Run a line of shell here."""
        return ["/bin/sh", "-c", command]
