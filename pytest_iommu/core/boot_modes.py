# SPDX-License-Identifier: GPL-2.0-only
"""Boot modes: how one machine with one kernel is booted. Guests of different boot modes are never exchanged.

Plugins add theirs with pytest_iommu_boot_modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_iommu.core.outcomes import SetupError


@dataclass(frozen=True, slots=True)
class BootMode:
    """How a guest is booted.

    ``icount``: the value of QEMU's -icount; None for the machine's, empty for none: then each vCPU is a host thread and
    time is the host's.

    ``gdb``: QEMU's gdbstub can be had. ``append`` goes to the kernel's command line.
    """

    icount: str | None = None
    cpus: int = 2
    append: str = ""
    gdb: bool = False


FUNCTIONAL, RACES = "functional", "races"

BOOT_MODES: dict[str, BootMode] = {
    # One host thread, and devices' waits cost nothing: a long read's time is the instructions it takes.
    FUNCTIONAL: BootMode(),
    # Whoever is held stands on processor 1, all else is kept away from it. What is freed is overwritten at once, so
    # that a page that was freed too early is not what it was, whoever looks.
    RACES: BootMode(icount="", gdb=True, append="isolcpus=domain,managed_irq,1 irqaffinity=0 init_on_free=1"),
    # A nanosecond of the guest's time is an instruction.
    "counted": BootMode(icount="shift=0,sleep=off", cpus=1),
    "without-debugfs": BootMode(append="debugfs=off"),
    # Booted as usual; whoever locks it down has it for himself.
    "lockdown": BootMode(),
}


def register(modes: Mapping[str, BootMode]) -> None:
    """Add boot modes. SetupError for a name that is taken by another one."""
    for name, mode in modes.items():
        if BOOT_MODES.setdefault(name, mode) != mode:
            raise SetupError(f"there are two boot modes {name!r}")
