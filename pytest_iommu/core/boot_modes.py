# SPDX-License-Identifier: GPL-2.0-only
"""The manners of booting one machine with one kernel: a guest of one manner is no guest of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Manner:
    """``icount``: None for that of the machine, empty for none: a host thread a vCPU then, and the host's time.

    ``gdb``: QEMU's gdbstub can be had. ``append`` goes to the kernel's command line.
    """

    icount: str | None = None
    cpus: int = 2
    append: str = ""
    gdb: bool = False


FUNCTIONAL, RACES = "functional", "races"

MANNERS: Mapping[str, Manner] = {
    # One host thread, and devices' waits cost nothing: a long read's time is the instructions it takes.
    FUNCTIONAL: Manner(),
    # Whoever is held stands on processor 1, all else is kept away from it. What is freed is overwritten at once, so
    # that a page that was freed too early is not what it was, whoever looks.
    RACES: Manner(icount="", gdb=True, append="isolcpus=domain,managed_irq,1 irqaffinity=0 init_on_free=1"),
    # A nanosecond of the guest's time is an instruction.
    "counted": Manner(icount="shift=0,sleep=off", cpus=1),
    "without-debugfs": Manner(append="debugfs=off"),
    # Booted as usual; whoever locks it down has it for himself.
    "lockdown": Manner(),
}
