# SPDX-License-Identifier: GPL-2.0-only
"""Check that KVM really runs a guest. That /dev/kvm opens and creates machines is not enough: nested KVM may hang."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from pytest_iommu.core.process import Child

if TYPE_CHECKING:
    from pytest_iommu.images.qemu_binary import Qemu

# mov dx, 0xf4; mov al, 0x10; out dx, al; hlt: a PC's boot sector, which makes the isa-debug-exit device end QEMU.
_SECTOR = bytes.fromhex("baf400 b010 ee f4").ljust(510, b"\0") + b"\x55\xaa"
_ENDED = 0x10 << 1 | 1
_DISK = 1 << 20
"""Size in bytes; the firmware does not boot an AHCI disk of one sector."""

# Machine and processor as used by vng: some KVMs run a guest, but not with the host's processor model.
_CPU = {"kvm": "host,topoext=on", "tcg": "max"}
_PC = (
    *("-machine", "q35", "-m", "16M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "ide-hd,drive=sector"),
)
TIMEOUT = 5.0
"""Seconds; QEMU's own emulation takes 0.3 s, or 2 on a loaded host. A slower KVM is of no use."""


@functools.cache
def works(qemu: Qemu) -> bool:
    """Whether this x86 QEMU runs guests under KVM; tested once per process."""
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and boots(qemu, "kvm")


def boots(qemu: Qemu, accel: str) -> bool:
    """Whether a guest runs whose only task is to exit with a given status."""
    sector = os.memfd_create("sector", os.MFD_CLOEXEC)
    os.write(sector, _SECTOR)
    os.ftruncate(sector, _DISK)
    drive = f"if=none,id=sector,format=raw,file.locking=off,file=/proc/self/fd/{sector}"
    child = Child([*qemu.argv_prefix, "-accel", accel, "-cpu", _CPU[accel], *_PC, "-drive", drive], [sector], qemu.env)
    try:
        return child.wait(TIMEOUT) == _ENDED
    finally:
        child.close()
