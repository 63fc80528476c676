# SPDX-License-Identifier: GPL-2.0-only
"""What an SMMUv3 was told of each change: the command queue, compared with what changed in memory (TLB-4).

Commands are read back from memory: QEMU executes them while the kernel adds them, and they stay until the queue wraps
around. What a table lost is known from the scenario, how STEs and CDs changed from memory. The same view over a test
shows whose ASIDs and VMIDs are (HW-3), and what is left of a device's attachment when it has gone (HW-5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_iommu.check.witnesses.attachments import DeviceGroups
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.formats import smmuv3
from pytest_iommu.oracle import stream_model
from pytest_iommu.oracle.command_queue import CommandQueue
from pytest_iommu.oracle.ids import Ids, User
from pytest_iommu.oracle.invalidation import Tag, missing, stale_entry
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import Cd, Ste
    from pytest_iommu.core.protocol import Memory
    from pytest_iommu.formats.smmuv3_commands import Command
    from pytest_iommu.scenario import Lost, Phase

SHOWN = 3
"""Maximum number of places to name."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream at one time: its entry, and the descriptor of SSID 0 if the entry leads to one."""

    ste: Ste
    cd: Cd | None

    @property
    def tag(self) -> Tag | None:
        """What marks its translations in the TLB; None if it has none."""
        vmid = stream_model.STE["S2VMID"].of(self.ste.words)
        if not self.ste.valid or self.ste.config == "S1+S2_TRANS":
            return None
        if self.ste.config in smmuv3.WITH_STAGE2:
            return Tag(vmid)
        return Tag(vmid, self.cd.asid) if self.cd is not None and self.cd.valid else None


Streams = dict[int, Stream]


class Caches:
    """Watches one guest's SMMU over a test: call ``before`` and ``after`` around the commands of a phase."""

    def __init__(self, memory: Memory, machine: Machine, smmu: SmmuV3) -> None:
        assert machine.smmu is not None
        self._machine = machine
        self._smmu = smmu
        self._queue = CommandQueue(memory, machine.smmu)
        self._sids = tuple(dict.fromkeys(sid for one in (*machine.devices, machine.agent) for sid in one.sids))
        self._then: Streams = {}
        self._ids = Ids(smmu.hardware)
        self._queue.skip()
        #: streams whose entry has led to descriptors
        self._with_cds: set[int] = set()
        self._devices = DeviceGroups(machine)

    def before(self, groups: Mapping[str, str]) -> None:
        """Remember how things are, and where the command queue is. ``groups`` maps devices' PCI addresses to groups."""
        self._ids.idle(self._queue.new() or ())
        self._devices.update(groups)
        self._then = self._read()
        for one in self._machine.devices:
            if one.address not in groups:
                self._with_cds.difference_update(one.sids)  # its descriptors are freed memory

    def after(self, phase: Phase) -> list[CheckFailed]:
        """Compare what has happened since with the commands that came."""
        commands = self._queue.new()
        if commands is None:
            return []
        now = self._read()
        texts = [*self._entries(now, commands), *self._tables(phase.lost, now, commands)]
        found = [CheckFailed(text, ("TLB-4",), verdict=Verdict.CACHE) for text in texts]
        domains = self._devices.domains(phase.attached)
        used = [
            CheckFailed(text, ("HW-3",), verdict=Verdict.ENTRIES, table=SmmuV3.root)
            for text in self._used(now, domains, commands)
        ]
        return [*self._left(now, domains), *used, *found]

    def _used(self, now: Streams, domains: Mapping[str, str], commands: Sequence[Command]) -> Iterator[str]:
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

    def _read(self) -> Streams:
        """The streams of the machine's devices that have an entry now."""
        found = {}
        for sid, ste in self._smmu.streams(self._sids).items():
            cd = None
            if ste.valid and ste.config == "only S1_TRANS":
                self._with_cds.add(sid)
                cd = self._smmu.last_cd(sid)
            found[sid] = Stream(ste, cd)
        return found

    def _entries(self, now: Streams, commands: Sequence[Command]) -> Iterator[str]:
        for sid, new in now.items():
            old = self._then.get(sid)
            if old is None:
                continue
            text = None
            if old.ste.words != new.ste.words:
                text = stale_entry(commands, sid, ste=True)
            elif old.cd is not None and new.cd is not None and old.cd.words != new.cd.words:
                text = stale_entry(commands, sid, ste=False)
            if text is not None:
                yield text

    def _tables(self, lost: Iterable[Lost], now: Streams, commands: Sequence[Command]) -> Iterator[str]:
        for one in lost:
            stream = (now if one.ends else self._then).get(self._machine.device(one.device).sid)
            tag = stream.tag if stream is not None else None
            if tag is None:
                continue
            texts = list(missing(commands, tag, one.gone))
            if texts:
                more = f" (and {len(texts) - SHOWN} more)" if len(texts) > SHOWN else ""
                yield f"line {one.line}: domain {one.domain}: {'; '.join(texts[:SHOWN])}{more}"
