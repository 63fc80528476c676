# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU's trace says of accesses that an IOMMU refused: the lines of the event vtd_dmar_fault in QEMU's log."""

from __future__ import annotations

import os
import re

from pytest_iommu.core.protocol import Fault

_LINE = re.compile(rb"\bvtd_dmar_fault sid 0x([0-9a-f]+) fault (\d+) addr 0x([0-9a-f]+) write ([01])\b")


class FaultTrace:
    """The log in the file ``fd``, which the caller keeps."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def new(self) -> list[Fault]:
        """See Faults of core/protocol.py. QEMU writes a line at once, before the device sees that it was refused."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size - self._at, self._at)
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [
            Fault(int(sid, 16), int(reason), int(address, 16), write == b"1")
            for sid, reason, address, write in _LINE.findall(whole)
        ]
