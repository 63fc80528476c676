# SPDX-License-Identifier: GPL-2.0-only
"""iommu-testdev of QEMU 11: one DMA at any IOVA, which the host starts through the device's registers.

No driver of the guest is involved: the device shares an IOMMU group, and so its domain, with a device that has one.
Each probe writes to memory at the IOVA, through the IOMMU, and reads back at the expected physical address, bypassing
the IOMMU (docs/specs/iommu-testdev.rst and hw/misc/iommu-testdev.c of QEMU).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Device, Machine
    from pytest_iommu.core.protocol import Memory

_ID = 0x00051B36
_COMMAND, _BAR0 = 0x04, 0x10
_MEMORY_AND_MASTER = 0x6

_RUN, _IOVA, _LENGTH, _RESULT, _ARM, _ATTRIBUTES, _PA = 0x00, 0x04, 0x0C, 0x10, 0x14, 0x18, 0x1C

MAX_LENGTH = 1 << 20
"""QEMU allocates two buffers of this size without checking it."""


class Probe(IntEnum):
    """The result of a probe: the values of the device's register."""

    OK = 0
    """The bytes arrived at the expected physical address."""
    BAD_LENGTH = 0xDEAD0001
    WRITE_FAULT = 0xDEAD0002
    """The IOMMU blocked the write to that IOVA."""
    READ_FAULT = 0xDEAD0003
    """There is no memory at the expected physical address."""
    ELSEWHERE = 0xDEAD0004
    """The write succeeded, but not at the expected physical address."""
    NOT_ARMED = 0xDEAD0005
    BAD_ATTRIBUTES = 0xDEAD0006


PATTERN = (0x12345678).to_bytes(4, "little")
"""A probe fills memory with it."""


class TestDevice:
    """One iommu-testdev, by its name in the machine's description.

    Enables its memory decoding and bus mastering, as a driver would. Linux has chosen the address of its registers.
    """

    __test__ = False

    def __init__(self, memory: Memory, machine: Machine, name: str) -> None:
        """SetupError if the machine has no such device, or Linux assigned it no address."""
        try:
            device = machine.device(name)
        except KeyError:
            raise SetupError(
                f"machine {machine.name} has no {name} with this QEMU; use --iommu-qemu=fetched:11"
            ) from None
        self._memory = memory
        self.sid = device.sid
        configuration = _configuration(machine, device)
        if memory.register(configuration) != _ID:
            raise SetupError(f"{name} is not an iommu-testdev: {memory.register(configuration):#x}")
        self.base = memory.register(configuration + _BAR0) & ~0xF
        if self.base == 0:
            raise SetupError(f"Linux did not assign an address to the registers of {name}")
        command = memory.register(configuration + _COMMAND, 2)
        if command & _MEMORY_AND_MASTER != _MEMORY_AND_MASTER:
            memory.set_register(configuration + _COMMAND, command | _MEMORY_AND_MASTER, 2)

    def probe(self, iova: int, pa: int, length: int = 4) -> Probe:
        """Write PATTERN over ``length`` bytes at ``iova`` and check for it at ``pa``.

        Overwrites the memory there. The device only writes, so a range that is readable but not writable gives
        WRITE_FAULT. An earlier probe leaves PATTERN, so OK needs memory that was changed since.
        """
        if not 0 < length <= MAX_LENGTH:
            raise ValueError(f"a probe has 1 to {MAX_LENGTH} bytes, not {length}")
        for offset, value in ((_IOVA, iova), (_PA, pa)):
            self._set(offset, value & 0xFFFFFFFF)
            self._set(offset + 4, value >> 32)
        self._set(_LENGTH, length)
        # No security state of its own: its accesses are those of any PCI device.
        self._set(_ATTRIBUTES, 0)
        self._set(_ARM, 1)
        self._memory.register(self.base + _RUN)
        return Probe(self._memory.register(self.base + _RESULT))

    def _set(self, offset: int, value: int) -> None:
        self._memory.set_register(self.base + offset, value)


def _configuration(machine: Machine, device: Device) -> int:
    """Return the address of a function's PCIe configuration space: 4 KiB for every bus, slot and function."""
    if machine.ecam is None:
        raise SetupError(f"machine {machine.name} does not define the address of its PCI configuration space (ecam)")
    bus, _, rest = device.address.rpartition(":")
    slot, _, function = rest.partition(".")
    return machine.ecam + (int(bus or "0", 16) << 20 | int(slot, 16) << 15 | int(function) << 12)
