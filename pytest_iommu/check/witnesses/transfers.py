# SPDX-License-Identifier: GPL-2.0-only
"""DONE, one transfer at a time: what the SMMU reports of it. The device's group is not moved in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import CheckFailed, Verdict

if TYPE_CHECKING:
    from pytest_iommu.check.handles import Iommu
    from pytest_iommu.oracle.stream_table import SmmuV3


@dataclass(frozen=True, slots=True)
class Transfers:
    """Transfers of one device, whose stream is ``sid``."""

    iommu: Iommu
    smmu: SmmuV3
    device: str
    sid: int

    def events(self, how: str, iova: int, seed: int = 1) -> tuple[str, ...]:
        """``read`` or ``write`` a few bytes; return the names of the events that this left."""
        self.iommu.command(f"load {self.device} seed={seed}")
        self.smmu.events()
        self.iommu.command(f"probe {self.device} {how} {iova:#x}")
        return tuple(event.name for event in self.smmu.events() if event.sid == self.sid)

    def hold(self, how: str, iova: int, *wanted: str, rule: str = "ISO-1") -> None:
        """Do that, and hold it to the names of events: none where it must succeed. CheckFailed names ``rule``."""
        __tracebackhide__ = True
        came = self.events(how, iova)
        if came != wanted:
            have, must = (" and ".join(names) or "nothing" for names in (came, wanted))
            what = f"a {how} of {self.device} at 0x{iova:x} is reported as {have}, must be {must}"
            raise CheckFailed(what, (rule,), verdict=Verdict.MAPPING, because="the event queue")
