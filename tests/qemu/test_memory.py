# SPDX-License-Identifier: GPL-2.0-only
"""What the host sees of a guest: RAM, device registers, and memory that Linux leaves alone."""

from __future__ import annotations

import os
import re
import signal

import pytest

from pytest_iommu.core.outcomes import GuestLost
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.guest import ops
from pytest_iommu.guest.virtual import VirtualGuest
from pytest_iommu.targets.qemu import Boot, QemuTarget

MIB = 1 << 20


def test_the_smmu_tells_who_it_is(guest: VirtualGuest) -> None:
    base = guest.machine.smmu
    assert base is not None
    idr0 = guest.memory.register(base)
    assert idr0 & 0b11 == 0b11  # stage 1 and stage 2
    assert idr0 >> 2 & 0b11 == 0b10  # AArch64 tables only
    # Linux has put its stream table somewhere in RAM: STRTAB_BASE is one of the few registers of 8 bytes.
    table = guest.memory.register(base + 0x80, 8) & 0xFFFFFFFFFFC0
    assert any(guest.memory.read(table, 64))
    guest.pause()
    assert guest.memory.register(base) == idr0


def test_a_register_is_written(guest: VirtualGuest) -> None:
    # PCIe's configuration space of the SMMU's first device: the interrupt line, which is no more than a note
    line = 0x4010000000 + (guest.machine.device("edu0").sid << 12) + 0x3C
    before = guest.memory.register(line, 1)
    guest.memory.set_register(line, before ^ 0xFF, 1)
    assert guest.memory.register(line, 1) == before ^ 0xFF
    guest.memory.set_register(line, before, 1)


def test_the_kernel_lies_in_ram(guest: VirtualGuest) -> None:
    # arch/arm64/kernel/head.S: "ARM\x64" at 56 of the image, which starts at a multiple of 2 MiB
    ram = guest.machine.ram
    found = [at for at in range(ram, ram + 16 * MIB, 2 * MIB) if guest.memory.read(at + 56, 4) == b"ARM\x64"]
    assert len(found) == 1


def test_ram_ends(guest: VirtualGuest) -> None:
    end = guest.machine.ram + guest.machine.memory
    assert len(guest.memory.read(end - 4096, 4096)) == 4096
    for address, size in ((end - 1, 2), (end, 1), (guest.machine.ram - 1, 1), (guest.machine.ram, -1), (0, 8)):
        with pytest.raises(OutsideMemory):
            guest.memory.read(address, size)
    with pytest.raises(OutsideMemory):
        guest.memory.write(end - 1, b"xy")


def test_linux_does_not_use_the_scratch_memory(guest: VirtualGuest) -> None:
    assert guest.machine.scratch is not None
    base, size = guest.machine.scratch
    (said,) = guest.run([ops.read_file("/proc/iomem")]).results
    pairs = re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : ", said.data.decode(), re.MULTILINE)
    ranges = [(int(first, 16), int(last, 16)) for first, last in pairs]
    ram = [(first, last) for first, last in ranges if first >= guest.machine.ram and last < guest.machine.ram * 2]
    assert ram
    assert max(last for _, last in ram) < base
    # Neither QEMU (initramfs, device tree) nor Linux has left anything there.
    view = guest.memory.read(base, size)
    assert not any(view[at] for at in range(0, size, 512))
    assert bytes(view) == bytes(size)
    guest.memory.write(base, b"planted")
    assert view[:7] == b"planted"


def test_views_do_not_keep_a_guest_alive(boot: Boot) -> None:
    guest = QemuTarget(boot).start()
    view = guest.memory.read(guest.machine.ram, 1 << 20)
    assert any(view)
    guest.close()
    assert not any(view)
    with pytest.raises(GuestLost, match="was closed"):
        guest.memory.register(0x09050000)


def test_a_register_of_a_dead_guest(guest: VirtualGuest) -> None:
    os.kill(guest.child.pid, signal.SIGKILL)
    with pytest.raises(GuestLost, match=r"was killed by SIGKILL .* while a register"):
        guest.memory.register(0x09050000)
    assert any(guest.memory.read(guest.machine.ram, 1 << 20))
