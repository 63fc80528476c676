# SPDX-License-Identifier: GPL-2.0-only
"""The host's view of a guest's memory: RAM through QEMU's memfd, registers through qtest.

The guest's kernel is not involved, so its claims about its own tables can be compared with memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from pytest_iommu.core.outcomes import IommuError
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.guest.qtest import Qtest, QtestError


class GuestMemory:
    """RAM of ``size`` bytes from guest-physical ``base`` on, in the file ``fd``, which the caller keeps.

    ``lost`` makes the exception for a register access that QEMU does not answer.
    """

    def __init__(self, fd: int, base: int, size: int, qtest: Qtest, lost: Callable[[Exception], IommuError]) -> None:
        self.base = base
        self.size = size
        self._qtest = qtest
        self._lost = lost
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._ram = memoryview(self._map)

    def read(self, address: int, size: int) -> memoryview:
        """A live view of RAM, without copying; ``bytes()`` of it is a snapshot.

        A view outlives the guest, but reads as zeros then.
        """
        start = self._offset(address, size)
        return self._ram[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        """Change RAM without the guest's knowledge."""
        start = self._offset(address, len(data))
        self._ram[start : start + len(data)] = data

    def register(self, address: int, size: int = 4) -> int:
        """Read a device register as the guest's CPU would: one access of 1, 2, 4 or 8 bytes.

        A device model may not support the size: QEMU's SMMUv3 returns 0 for 8 bytes of a 4-byte register.
        """
        try:
            return self._qtest.read(address, size)
        except QtestError as error:
            raise self._lost(error) from None

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        """Write a device register; the device has acted on it when this returns."""
        try:
            self._qtest.write(address, value, size)
        except QtestError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """Free the RAM, even if views still exist. Call it after QEMU has ended."""
        self._qtest.close()
        self._ram.release()
        try:
            # Pages mapped by a view would stay allocated. They are dropped from the file here, and then read as zeros.
            self._map.madvise(mmap.MADV_REMOVE)
            self._map.close()
        except (BufferError, OSError):
            pass  # unmapped when the last view is gone

    def _offset(self, address: int, size: int) -> int:
        if size < 0 or address < self.base or address + size > self.base + self.size:
            end = self.base + self.size
            raise OutsideMemory(f"{size} bytes at {address:#x} are outside RAM, {self.base:#x} to {end - 1:#x}")
        return address - self.base
