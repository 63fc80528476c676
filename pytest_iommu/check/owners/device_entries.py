# SPDX-License-Identifier: GPL-2.0-only
"""What the IOMMU's entries say of a device that changes hands: after a driver, a process or sysfs has moved it.

Scenarios judge the same after each attach and detach of the test module (witnesses/attachments.py).
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.witnesses.attachments import not_as
from pytest_iommu.check.witnesses.flushes import Invalidations
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.iommu import TRANSLATES
from pytest_iommu.oracle.stream_table import SmmuV3


class Entries:
    """The entries of one device in memory. Skips where the host cannot read it."""

    def __init__(self, guest: GuestHandle, device: str) -> None:
        if guest.in_ram is None or guest.in_ram.iommu is None or guest.memory is None:
            pytest.skip("needs a guest whose memory the host can read, with an IOMMU")
        self._iommu = guest.in_ram.iommu
        self._sids = tuple(dict.fromkeys(guest.machine.device(device).sids))
        self._device = device
        self._smmu = guest.in_ram.smmu
        self._told = Invalidations(guest.machine, self._iommu)
        self._told.before()

    @property
    def top(self) -> int | None:
        """The top of the table that the entries lead to, None if they lead to none."""
        found = self._iommu.table(self._sids[0])
        return None if found is None else found[1]

    @property
    def state(self) -> str:
        """What becomes of the device's DMA by its entries."""
        return self._iommu.state(self._sids[0])

    def must_be(
        self, state: str, why: str, present: bool = True, top: int | None = None, others: Collection[int | None] = ()
    ) -> None:
        """Hold every requester id of the device to BLOCKS, TRANSLATES or PASSES. CheckFailed names HW-1, HW-2 or HW-5.

        ``why`` says in a few words what has become of the device, ``present`` whether it is in the guest. ``top`` is
        the table that the entries must lead to, if that is known; ``others`` are those of other domains.
        """
        __tracebackhide__ = True
        self._hold_told()
        self._hold_cds(why)
        for sid in self._sids:
            found = self._iommu.table(sid)
            have = None if found is None else found[1]
            problems = list(not_as(self._iommu, sid, state, f"{self._device} {why}", present))
            if not problems and state == TRANSLATES and (have in others or top not in (None, have)):
                must = "another one" if top is None else f"that at 0x{top:x}"
                text = f"{self._device} {why}, but its entries lead to the table at 0x{have:x}, expected {must}"
                problems = [("HW-5", text)]
            for rule, text in problems:
                raise CheckFailed(text, (rule,), verdict=Verdict.ENTRIES, table=self._iommu.root)

    def _hold_told(self) -> None:
        """CheckFailed where an entry has changed since the last call and no command says so: there may be a copy."""
        __tracebackhide__ = True
        commands = self._told.after()
        for failure in self._told.failures((), commands) if commands is not None else ():
            raise failure
        self._told.before()

    def _hold_cds(self, why: str) -> None:
        """CheckFailed where an SMMUv3's CD is left of a domain of stage 1: it has to go by itself."""
        __tracebackhide__ = True
        if self._smmu is None:
            return
        for sid, ste in self._smmu.streams(self._sids).items():
            if ste.config == "only S2_TRANS" and self._smmu.cd_stays(sid):
                text = f"{self._device} {why}, but the CD of stream {sid} is valid"
                raise CheckFailed(text, ("HW-5",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
