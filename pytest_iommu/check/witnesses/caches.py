# SPDX-License-Identifier: GPL-2.0-only
"""What an SMMUv3 has and was told of devices: whose ASIDs and VMIDs are (HW-3), what is left of attachments (HW-5).

And whether it was told of all changes (TLB-4, flushes.py). For the other IOMMUs, attachments.py does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_iommu.check.witnesses.attachments import DeviceGroups
from pytest_iommu.check.witnesses.flushes import Invalidations
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.formats import smmuv3
from pytest_iommu.oracle.ids import Ids, User
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import Cd, Ste
    from pytest_iommu.formats.smmuv3_commands import Tag
    from pytest_iommu.oracle.iommu import Cached
    from pytest_iommu.scenario import Phase


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream at one time: its entry, and the descriptor of SSID 0 if the entry leads to one."""

    ste: Ste
    cd: Cd | None
    tag: Tag | None

    @classmethod
    def of(cls, sid: int, cached: Cached) -> Stream:
        """The stream as its words say."""
        cd = smmuv3.decode_cd(sid, 0, cached.entries["CD"]) if "CD" in cached.entries else None
        return cls(smmuv3.decode_ste(sid, cached.entries["STE"]), cd, cached.tag)


Streams = dict[int, Stream]


class Caches:
    """Watches one guest's SMMU over a test: call ``before`` and ``after`` around the commands of a phase."""

    def __init__(self, machine: Machine, smmu: SmmuV3) -> None:
        self._machine = machine
        self._smmu = smmu
        self._told = Invalidations(machine, smmu)
        self._ids = Ids(smmu.hardware)
        #: streams whose entry has led to descriptors
        self._with_cds: set[int] = set()
        self._devices = DeviceGroups(machine)

    def before(self, groups: Mapping[str, str]) -> None:
        """Remember how things are, and where the command queue is. ``groups`` maps devices' PCI addresses to groups."""
        self._ids.idle(self._told.before())
        self._devices.update(groups)
        for one in self._machine.devices:
            if one.address not in groups:
                self._with_cds.difference_update(one.sids)  # its descriptors are freed memory

    def after(self, phase: Phase) -> list[CheckFailed]:
        """Compare what has happened since with the commands that came."""
        commands = self._told.after()
        if commands is None:
            return []
        now = {sid: Stream.of(sid, cached) for sid, cached in self._told.now.items()}
        self._with_cds.update(sid for sid, one in now.items() if one.cd is not None)
        domains = self._devices.domains(phase.attached)
        used = [
            CheckFailed(text, ("HW-3",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
            for text in self._used(now, domains, commands)
        ]
        return [*self._left(now, domains), *used, *self._told.failures(phase.lost, commands)]

    def _used(self, now: Streams, domains: Mapping[str, str], commands: Sequence[Any]) -> Iterator[str]:
        names = {sid: domain for device, domain in domains.items() for sid in self._machine.device(device).sids}
        users: dict[Tag, list[User]] = {}
        for sid, stream in now.items():
            tag = stream.tag
            if tag is not None:
                top = stream.ste.s2ttb if stream.cd is None else stream.cd.ttb0
                users.setdefault(tag, []).append(User(sid, top, names.get(sid, "")))
        return self._ids.seen(users, commands)

    def _left(self, now: Streams, domains: Mapping[str, str]) -> Iterator[CheckFailed]:
        """What is left of the attachment of a device that is detached or unplugged, or on a domain of stage 2."""
        for device in sorted(self._devices.known):
            for sid in dict.fromkeys(self._machine.device(device).sids):
                stream = now.get(sid)
                if stream is None:
                    continue
                ste = stream.ste
                if device not in domains and not (ste.valid and ste.config == "ABORT"):
                    state = ste.config if ste.valid else "not valid"
                    gone = "detached" if device in self._devices.groups else "unplugged"
                    what = f"{device} is {gone}, but the STE of stream {sid} is {state}, expected ABORT"
                    yield CheckFailed(what, ("HW-5",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
                cd = self._smmu.last_cd(sid) if sid in self._with_cds and ste.config != "only S1_TRANS" else None
                if cd is not None and cd.valid:
                    what = f"{device} has left its domain of stage 1, but the CD of stream {sid} is valid"
                    yield CheckFailed(what, ("HW-5",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
