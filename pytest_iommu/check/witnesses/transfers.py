# SPDX-License-Identifier: GPL-2.0-only
"""DONE, one transfer at a time: what the IOMMU reports of it, and what is in memory afterwards.

The device's group is not moved in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check.witnesses import passed
from pytest_iommu.check.witnesses.dma import BEFORE, pattern
from pytest_iommu.core.outcomes import CheckFailed, Verdict

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.check.iommu_handle import Iommu
    from pytest_iommu.check.witnesses.in_ram import InRam

SEED, BYTES = 1, 4
"""Four bytes are one access of edu, so one that is refused is one event."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """Transfers of one device, whose requester id is ``sid``."""

    iommu: Iommu
    in_ram: InRam
    device: str
    sid: int

    @classmethod
    def of(cls, guest: GuestHandle, iommu: Iommu, device: str) -> Transfers:
        """Transfers of a device of the guest. Skips where the host cannot see the guest's memory."""
        if guest.in_ram is None or guest.in_ram.iommu is None:
            pytest.skip("needs a guest whose memory the host can see, with an IOMMU")
        if passed.is_passed(guest.run, guest.machine, guest.in_ram.iommu, device):
            pytest.skip(passed.WHY)
        return cls(iommu, guest.in_ram, device, guest.machine.device(device).sid)

    def hold(self, how: str, iova: int, refused: str = "", *, at: int | None = None, rule: str = "ISO-1") -> None:
        """``read`` or ``write`` a few bytes. CheckFailed, which names ``rule``, if that does not end as it must.

        ``refused`` is the event of an SMMUv3 for what must be refused: F_TRANSLATION, F_PERMISSION or BLOCKED. ``at``
        is the physical address that the IOVA leads to, or has led to: a write changes it, unless it is refused.
        """
        __tracebackhide__ = True
        reader = self.in_ram.iommu
        assert reader is not None
        self.iommu.command(f"load {self.device} seed={SEED}")
        write = how == "write"
        if write and at is not None:
            self.in_ram.memory.write(at, bytes([BEFORE] * BYTES))
        reader.events()
        self.iommu.command(f"probe {self.device} {how} {iova:#x} len={BYTES}")
        came = [event for event in reader.events() if event.sid == self.sid]
        what = f"a {how} by {self.device} at 0x{iova:x}"
        names, may = {event.name for event in came}, set(reader.names_of(refused)) if refused else set()
        untold = not refused and at is not None and at < reader.untold
        silent = not came and refused in reader.silent
        if not untold and not silent and (bool(names) != bool(may) or not names <= may):
            have, must = (" or ".join(sorted(one)) or "nothing" for one in (names, may))
            text = f"{what} is reported as {have}, must be {must}"
            raise CheckFailed(text, (rule,), verdict=Verdict.DMA, because="what the IOMMU reports")
        if reader.exact and len(came) > 1:
            text = f"{what} is refused, and reported {len(came)} times"
            raise CheckFailed(text, ("ISO-2",), verdict=Verdict.DMA, because="what the IOMMU reports")
        if write and at is not None:
            want = bytes([BEFORE] * BYTES) if refused else pattern(SEED, BYTES)
            held = bytes(self.in_ram.memory.read(at, BYTES))
            if held != want:
                text = f"{what}: memory at 0x{at:x} holds {held.hex()}, expected {want.hex()}"
                raise CheckFailed(text, (rule,), verdict=Verdict.DMA, because="memory")
