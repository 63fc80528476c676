# SPDX-License-Identifier: GPL-2.0-only
"""KVM for x86 machines, where it really runs a guest: that /dev/kvm opens and creates machines is not enough.

It may hang in a machine that is itself a guest. So a guest is run first whose only task is to end QEMU.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_iommu.core.process import Child

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine

log = logging.getLogger(__name__)

DEVICE = "/dev/kvm"
ARCH = "x86_64"

# The local APICs are KVM's. The IOAPIC is QEMU's, or VT-d could not remap its interrupts.
KVM = "kvm,kernel-irqchip=split"

# mov dx, 0xf4; mov al, 0x10; out dx, al; hlt: a PC's boot sector, which makes the isa-debug-exit device end QEMU.
_SECTOR = bytes.fromhex("baf400 b010 ee f4").ljust(510, b"\0") + b"\x55\xaa"
_ENDED = 0x10 << 1 | 1
_DISK = 1 << 20
"""Size in bytes; the firmware does not boot an AHCI disk of one sector."""

_PC = (
    *("-m", "16M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "ide-hd,drive=sector"),
)
TIMEOUT = 5.0
"""Seconds; QEMU's own emulation takes 0.3 s, or 2 on a loaded host. A slower KVM is of no use."""


def accelerator(machine: Machine, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """QEMU's arguments that have KVM run this machine's guests; none where it cannot, which is logged with the reason.

    ``program`` and ``env`` start QEMU.
    """
    if machine.arch != ARCH or platform.machine() != ARCH:
        return []  # KVM runs processors of the host's kind, and of those only x86 machines were tried
    why = _why_not(tuple(program), tuple(env.items()), machine.qemu_machine, machine.cpu)
    return [] if why else ["-accel", KVM]


@functools.cache
def _why_not(program: tuple[str, ...], env: tuple[tuple[str, str], ...], board: str, cpu: str) -> str:
    """Why KVM does not run guests, or an empty text; asked once per process."""
    why = ""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        why = f"{DEVICE} cannot be opened" if os.path.exists(DEVICE) else f"there is no {DEVICE}"
    elif said := ended(program, dict(env), KVM, board, cpu):
        why = f"{DEVICE} opens, but a guest that only has to end does not run under it: QEMU {said}"
    log.info("%s", f"guests run under TCG: {why}" if why else "guests run under KVM: a probe guest has run")
    return why


def ended(program: Sequence[str], env: Mapping[str, str], accel: str, board: str, cpu: str) -> str:
    """Run a guest whose only task is to end QEMU with a given status; returns how it ended otherwise, or nothing.

    Board and processor are those of the machine: some KVMs run guests, but not with every processor model.
    """
    sector = os.memfd_create("sector", os.MFD_CLOEXEC)
    os.write(sector, _SECTOR)
    os.ftruncate(sector, _DISK)
    drive = f"if=none,id=sector,format=raw,file.locking=off,file=/proc/self/fd/{sector}"
    argv = [*program, "-accel", accel, "-machine", board, "-cpu", cpu, *_PC, "-drive", drive]
    child = Child(argv, [sector], env)
    try:
        if child.wait(TIMEOUT) == _ENDED:
            return ""
        said = child.stderr().strip().splitlines()
        return ": ".join([child.how_it_ended(), *said[-1:]])
    finally:
        child.close()
