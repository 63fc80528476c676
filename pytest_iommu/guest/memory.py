# SPDX-License-Identifier: GPL-2.0-only
"""A guest's memory as the host sees it: RAM by mapping the memfd that QEMU has it in, registers over qtest.

Nothing of this asks the guest's kernel, so what it says of its own tables can be compared with what lies there.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from pytest_iommu.core.outcomes import IommuError
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.guest.qtest import Qtest, QtestError


class GuestMemory:
    """RAM of ``size`` bytes from guest-physical ``base`` on, behind the descriptor ``fd``, which stays the caller's.

    ``lost`` makes the outcome of a register that QEMU does not answer for.
    """

    def __init__(self, fd: int, base: int, size: int, qtest: Qtest, lost: Callable[[Exception], IommuError]) -> None:
        self.base = base
        self.size = size
        self._qtest = qtest
        self._lost = lost
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._ram = memoryview(self._map)

    def read(self, address: int, size: int) -> memoryview:
        """RAM as it is now and as it changes; a view costs nothing, ``bytes()`` of it is a snapshot.

        A view outlives the guest, but holds zeros from then on.
        """
        start = self._offset(address, size)
        return self._ram[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        """Change RAM behind the guest's back."""
        start = self._offset(address, len(data))
        self._ram[start : start + len(data)] = data

    def register(self, address: int, size: int = 4) -> int:
        """A device register, read as the guest's CPU would: one access of 1, 2, 4 or 8 bytes.

        A model may not know the size: QEMU's SMMUv3 reads 0 where 8 bytes are asked of a register of 4.
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
        """Give the RAM back, also where somebody still has a view of it. Call when QEMU has ended."""
        self._qtest.close()
        self._ram.release()
        try:
            # Pages that a view keeps mapped would stay allocated: the file's are dropped here, they read as zeros then.
            self._map.madvise(mmap.MADV_REMOVE)
            self._map.close()
        except (BufferError, OSError):
            pass  # unmapped when the last view goes

    def _offset(self, address: int, size: int) -> int:
        if size < 0 or address < self.base or address + size > self.base + self.size:
            end = self.base + self.size
            raise OutsideMemory(f"{size} bytes at {address:#x} are not in RAM, which is {self.base:#x} to {end - 1:#x}")
        return address - self.base
