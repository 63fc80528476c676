# SPDX-License-Identifier: GPL-2.0-only
"""Who is on which domain by the IOMMU's own entries, on machines whose IOMMU is not an SMMUv3.

A device that has been detached or unplugged must be blocked (HW-5), and tables that differ must have domain ids that
differ (HW-3): what is cached is found by them. For an SMMUv3, caches.py sees both and the command queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import CheckFailed, Verdict

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.oracle.iommu import Iommu
    from pytest_iommu.scenario import Phase


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
        self._devices = DeviceGroups(machine)

    def before(self, groups: Mapping[str, str]) -> None:
        """``groups`` maps devices' PCI addresses to groups."""
        self._devices.update(groups)

    def after(self, phase: Phase) -> list[CheckFailed]:
        """Compare the entries with the attachments after the phase."""
        domains = self._devices.domains(phase.attached)
        found = [CheckFailed(text, ("HW-5",), verdict=Verdict.STREAM) for text in self._left(domains)]
        return [*found, *(CheckFailed(text, ("HW-3",), verdict=Verdict.STREAM) for text in self._shared(domains))]

    def _left(self, domains: Mapping[str, str]) -> Iterator[str]:
        for device in sorted(self._devices.known - set(domains)):
            for sid in dict.fromkeys(self._machine.device(device).sids):
                state = self._iommu.state(sid)
                if state != "blocked":
                    gone = "detached" if device in self._devices.groups else "unplugged"
                    yield f"{device} is {gone}, but the entries of requester 0x{sid:x} say {state}, expected blocked"

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
