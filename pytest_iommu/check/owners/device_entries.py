# SPDX-License-Identifier: GPL-2.0-only
"""What the IOMMU's entries say of a device that changes hands: after a driver, a process or sysfs has moved it.

Scenarios judge the same after each attach and detach of the test module (witnesses/attachments.py, caches.py).
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from pytest_iommu.check.handles import GuestHandle
from pytest_iommu.check.witnesses.attachments import not_as
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.command_queue import CommandQueue
from pytest_iommu.oracle.invalidation import stale_entry
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
        smmu = guest.in_ram.smmu
        self._smmu = None if smmu is None else _Smmu(smmu, CommandQueue(guest.memory, smmu.base), self._sids)

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
        if self._smmu is not None:
            self._smmu.hold(self._device, why)
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


class _Smmu:
    """An SMMUv3 has to be told of each STE that changes, since it may have a copy, and a CD has to go by itself."""

    def __init__(self, smmu: SmmuV3, queue: CommandQueue, sids: tuple[int, ...]) -> None:
        self._smmu, self._queue, self._sids = smmu, queue, sids
        self._words = self._read()
        self._queue.new()

    def _read(self) -> dict[int, tuple[int, ...]]:
        return {sid: ste.words for sid, ste in self._smmu.streams(self._sids).items()}

    def hold(self, device: str, why: str) -> None:
        """CheckFailed where an STE has changed since the last call and no command says so, or a CD is left."""
        __tracebackhide__ = True
        before, self._words = self._words, self._read()
        commands = self._queue.new()
        for sid, ste in self._smmu.streams(self._sids).items():
            if commands is not None and sid in before and before[sid] != ste.words:
                text = stale_entry(commands, sid, ste=True)
                if text is not None:
                    raise CheckFailed(text, ("TLB-4",), verdict=Verdict.CACHE)
            cd = self._smmu.last_cd(sid)
            if ste.config == "only S2_TRANS" and cd is not None and cd.valid:
                text = f"{device} {why}, but the CD of stream {sid} is valid"
                raise CheckFailed(text, ("HW-5",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
