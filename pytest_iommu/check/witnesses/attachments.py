# SPDX-License-Identifier: GPL-2.0-only
"""Who is on which domain by the IOMMU's own entries.

A device that has been detached or unplugged must be blocked, with nothing left in its entries (HW-5), and tables that
differ must have domain ids that differ (HW-3): what is cached is found by them. The IOMMU must have been told of all
changes (TLB-4, flushes.py). stream_attachments.py has what is more to it on an SMMUv3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_iommu.check.witnesses.flushes import Invalidations
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.iommu import BLOCKS, TRANSLATES

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.oracle.iommu import Iommu, Wrong
    from pytest_iommu.scenario import Phase


def not_as(iommu: Iommu, sid: int, state: str, why: str, present: bool = True) -> Iterator[Wrong]:
    """Yield what is wrong in the entries of a requester whose DMA must be in that state; ``why`` says why it must."""
    have = iommu.state(sid)
    if have != state:
        yield "HW-5", f"{why}, but the entries of requester 0x{sid:x} say {have}, expected {state}"
    elif state != TRANSLATES:
        yield from ((rule, f"{why}: {text}") for rule, text in iommu.wrong_without_table(sid, present))


class DeviceGroups:
    """The edus of a guest that are there: ``groups`` maps each by name to the group that the kernel put it in."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.groups: dict[str, str] = {}
        #: devices that have been there
        self.known: set[str] = set()

    def update(self, groups: Mapping[str, str]) -> None:
        """Take over what the test module says; ``groups`` maps PCI addresses to groups."""
        self.groups = {
            one.name: groups[one.address]
            for one in self._machine.devices
            if one.driver.startswith("edu") and one.address in groups
        }
        self.known.update(self.groups)

    def domains(self, attached: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Device -> domain of every device in the guest whose group is attached: a group moves as a whole."""
        of_group = {self.groups[device]: domain for device, domain in attached if device in self.groups}
        return {device: of_group[group] for device, group in self.groups.items() if group in of_group}


class Attachments:
    """Watches one guest's IOMMU over a test: call ``before`` and ``after`` around the commands of a phase."""

    def __init__(self, machine: Machine, iommu: Iommu) -> None:
        self._machine = machine
        self._iommu = iommu
        self._told = Invalidations(machine, iommu)
        self._devices = DeviceGroups(machine)
        #: what came since the last call of before() or after(); None if some of it is lost
        self._commands: Sequence[Any] | None = None

    def before(self, groups: Mapping[str, str]) -> None:
        """Remember how things are, and where the queue is. ``groups`` maps devices' PCI addresses to groups."""
        self._commands = self._told.before()
        self._devices.update(groups)

    def after(self, phase: Phase) -> list[CheckFailed]:
        """Compare the entries of devices without a domain, and the commands, with what has happened in the phase."""
        found = self._failures(self._left(self._devices.domains(phase.attached)))
        self._commands = self._told.after()
        return found if self._commands is None else [*found, *self._told.failures(phase.lost, self._commands)]

    def shared(self, phase: Phase) -> list[CheckFailed]:
        """Compare the domain ids of devices whose tables differ; call it once, after ``after``."""
        return self._failures(("HW-3", text) for text in self._shared(self._devices.domains(phase.attached)))

    def _failures(self, found: Iterable[Wrong]) -> list[CheckFailed]:
        return [CheckFailed(text, (rule,), verdict=Verdict.ENTRIES, table=self._iommu.root) for rule, text in found]

    def _left(self, domains: Mapping[str, str]) -> Iterator[Wrong]:
        for device in sorted(self._devices.known - set(domains)):
            there = device in self._devices.groups
            why = f"{device} is {'detached' if there else 'unplugged'}"
            for sid in dict.fromkeys(self._machine.device(device).sids):
                yield from not_as(self._iommu, sid, BLOCKS, why, there)

    def _shared(self, domains: Mapping[str, str]) -> Iterator[str]:
        users: dict[int, tuple[str, int]] = {}
        for device, domain in domains.items():
            sid = self._machine.device(device).sid
            found, tag = self._iommu.table(sid), self._iommu.tag(sid)
            if found is None or tag is None:
                continue
            other, top = users.setdefault(tag, (device, found[1]))
            if top != found[1]:
                yield f"{device} (on {domain}) and {other} have the same domain id 0x{tag:x}, but different tables"
