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

    ``one_thread``: one host thread runs all vCPUs, and goes on to the next one where a vCPU has nothing to do but wait.
    It means nothing with an icount, under which that is always so.

    ``gdb``: QEMU's gdbstub can be had. ``append`` goes to the kernel's command line.
    """

    icount: str | None = None
    cpus: int = 2
    append: str = ""
    gdb: bool = False
    one_thread: bool = False


FUNCTIONAL, RACES, HELD = "functional", "races", "held"

# A held reader has processor 1 for itself. Pages are zeroed when they are freed, so that a page that is freed too early
# is seen to change.
_APART = "isolcpus=domain,managed_irq,1 irqaffinity=0 init_on_free=1"

BOOT_MODES: dict[str, BootMode] = {
    # One host thread. Waiting for a device costs nothing, and a long read takes as long as its instructions.
    FUNCTIONAL: BootMode(),
    RACES: BootMode(icount="", gdb=True, append=_APART),
    # Where one processor is held while the other runs, nothing happens at the same time. With a thread for each vCPU,
    # one would spin on a lock while the host does not run the vCPU that has it.
    HELD: BootMode(icount="", gdb=True, append=_APART, one_thread=True),
    # A nanosecond of the guest's time is an instruction.
    "counted": BootMode(icount="shift=0,sleep=off", cpus=1),
    "without-debugfs": BootMode(append="debugfs=off"),
    # Booted as usual; a test that locks it down gets a guest of its own.
    "lockdown": BootMode(),
}


def register(modes: Mapping[str, BootMode]) -> None:
    """Add boot modes. SetupError for a name that is taken by another one."""
    for name, mode in modes.items():
        if BOOT_MODES.setdefault(name, mode) != mode:
            raise SetupError(f"there are two boot modes {name!r}")
