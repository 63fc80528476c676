# SPDX-License-Identifier: GPL-2.0-only
"""Who is on which domain of an SMMUv3: attachments.py, and what only an SMMUv3 has.

A stream's context descriptor is memory of its own, and may stay valid when the entry no longer leads to it (HW-5).
Whose ASIDs and VMIDs are is followed over a whole test: an id may go to another table once it is invalidated (HW-3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_iommu.check.witnesses.attachments import Attachments
from pytest_iommu.formats import smmuv3
from pytest_iommu.oracle.ids import Ids, User
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.formats.smmuv3_commands import Tag
    from pytest_iommu.oracle.iommu import Cached, Wrong


class StreamAttachments(Attachments):
    """Watches one guest's SMMU over a test: see Attachments."""

    def __init__(self, machine: Machine, smmu: SmmuV3) -> None:
        super().__init__(machine, smmu)
        self._smmu = smmu
        self._ids = Ids(smmu.hardware)
        # The guest's SMMU serves all its tests, and what an earlier one saw may be other memory by now.
        for one in machine.devices:
            smmu.forget(one.sids)

    def before(self, groups: Mapping[str, str]) -> None:
        """See Attachments."""
        super().before(groups)
        self._ids.idle(self._commands or ())
        for one in self._machine.devices:
            if one.address not in groups:
                self._smmu.forget(one.sids)

    def _left(self, domains: Mapping[str, str]) -> Iterator[Wrong]:
        """Also the CD of a device that is on a domain of stage 2 now."""
        yield from super()._left(domains)
        for device in sorted(domains):
            for sid in dict.fromkeys(self._machine.device(device).sids):
                if self._smmu.cd_stays(sid):
                    yield "HW-5", f"{device} has left its domain of stage 1, but the CD of stream {sid} is valid"

    def _shared(self, domains: Mapping[str, str]) -> Iterator[str]:
        """Over time as well; nothing is said where commands are lost."""
        if self._commands is None:
            return
        names = {sid: domain for device, domain in domains.items() for sid in self._machine.device(device).sids}
        users: dict[Tag, list[User]] = {}
        for sid, cached in self._told.now.items():
            if cached.tag is not None:
                users.setdefault(cached.tag, []).append(User(sid, _top(sid, cached), names.get(sid, "")))
        yield from self._ids.seen(users, self._commands)


def _top(sid: int, cached: Cached) -> int:
    """Where the table of a stream begins, which has one."""
    if "CD" in cached.entries:
        return smmuv3.decode_cd(sid, 0, cached.entries["CD"]).ttb0
    return smmuv3.decode_ste(sid, cached.entries["STE"]).s2ttb
