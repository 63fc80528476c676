# SPDX-License-Identifier: GPL-2.0-only
"""What QEMU's trace says of accesses that an IOMMU refused, in QEMU's log.

VT-d has a trace event of its own for them. AMD's IOMMU traces the result of each translation, which is 0 where there is
none; QEMU 11 and older put nothing into its event log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from pytest_iommu.core.protocol import Fault

_VTD = re.compile(rb"\bvtd_dmar_fault sid 0x([0-9a-f]+) fault (\d+) addr 0x([0-9a-f]+) write ([01])\b")
_AMD = re.compile(rb"\bamdvi_translation_result devid: ([0-9a-f]+):([0-9a-f]+)\.(\d) gpa 0x([0-9a-f]+) hpa (?:0x)?0\b")


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
        return list(_faults(whole))


def _faults(lines: bytes) -> Iterator[Fault]:
    for sid, reason, address, write in _VTD.findall(lines):
        yield Fault(int(sid, 16), int(reason), int(address, 16), write == b"1")
    for bus, slot, function, address in _AMD.findall(lines):
        yield Fault(int(bus, 16) << 8 | int(slot, 16) << 3 | int(function), None, int(address, 16), None)
