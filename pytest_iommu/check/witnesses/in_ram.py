# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM: the page table of a domain as it stands in the guest's memory, by way of the stream table where it can be.

A domain with a device on it is found as the hardware finds it: registers, stream table, STE, CD, table. Any other by
the address that the test module gives of its table, which is the one made out for hardware, not the dump's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.formats.arm_lpae import MAIR
from pytest_iommu.oracle.guest_memory import walk
from pytest_iommu.oracle.saved_memory import SavedDomain, save_image
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.core.protocol import Guest, Memory
    from pytest_iommu.guest.testmodule import DomainRow
    from pytest_iommu.images import Machine


IMAGE = "ram.img"
KEPT = 64
"""Domains that a saved image has at most: the last ones that were looked at."""


@dataclass(frozen=True, slots=True)
class InRam:
    """What the host sees of one guest's IOMMU."""

    memory: Memory
    machine: Machine
    smmu: SmmuV3 | None
    #: the domains that were looked at, by name, the last one last
    walked: dict[str, SavedDomain] = field(default_factory=dict, compare=False)

    def save(self, folder: Path, failed: Collection[str] = ()) -> None:
        """Save what the walks read, and the stream table, for `pytest-iommu walk`. OSError when the disk is full.

        ``failed`` names the domains that the test failed by.
        """
        machine = self.machine
        domains = [replace(domain, failed=domain.name in failed) for domain in self.walked.values()]
        save_image(self.memory, machine.ram, machine.memory, machine.smmu, folder / IMAGE, domains[-KEPT:])

    def texts(self, config: TableConfig, row: DomainRow) -> Mapping[str, str] | None:
        """The files that a true dump of this domain has, of info what memory knows; None where no one knows its top.

        CheckFailed when what the hardware is set up for is not the domain's table.
        """
        top = row.top
        for device in row.attached:
            found = self._table(device)
            if found is None:
                what = f"{device} is attached to {row.name}, but its stream leads to no page table"
                raise CheckFailed(what, ("STE-4",), verdict=Verdict.STREAM)
            theirs, where = found
            if top is not None and where != top:
                what = f"0x{where:x}, while the table of {row.name} is at 0x{top:x}"
                leads = f"the stream of {device} leads to the table at {what}"
                raise CheckFailed(leads, ("STE-4",), verdict=Verdict.STREAM)
            _hold(device, theirs, config)
            self._hold_memory_types(device)
            top = where
        if top is None:
            return None
        found_walk = walk(self.memory, config, top, row.levels)
        sids = [sid for device in row.attached for sid in self.machine.device(device).sids]
        self.walked.pop(row.name, None)
        self.walked[row.name] = SavedDomain(row.name, config, top, found_walk.levels, tuple(dict.fromkeys(sids)))
        return {**found_walk.texts(), "info": f"levels: {found_walk.levels}\ntop: 0x{top:016x}\n"}

    def _hold_memory_types(self, device: str) -> None:
        """What AttrIndx stands for is the MAIR's word: columns c and m would say nothing with another one."""
        cd = self.smmu.cd(self.machine.device(device).sid) if self.smmu is not None else None
        # Of eight attributes the format uses four.
        if cd is not None and cd.mair & 0xFFFFFFFF != MAIR:
            what = f"MAIR 0x{cd.mair:016x}, io-pgtable-arm's tables are made for 0x{MAIR:08x}"
            raise CheckFailed(f"the stream of {device} has {what}", ("PRT-1",), verdict=Verdict.STREAM)

    def _table(self, device: str) -> tuple[TableConfig, int] | None:
        return self.smmu.table(self.machine.device(device).sid) if self.smmu is not None else None


def _hold(device: str, have: TableConfig, want: TableConfig) -> None:
    """The stream's own words about the table against the machine's: what a wrong T0SZ would let the hardware see."""
    for key in ("format", "granule", "ias", "oas", "levels"):
        left, right = getattr(have, key), getattr(want, key)
        if left != right:
            what = f"the stream of {device} is set up for {key} {left}, the domain's is {right}"
            raise CheckFailed(what, ("STE-4",), verdict=Verdict.STREAM)


#: one a guest, for as long as it lives: the event queue is read on from where it was
_KNOWN: WeakKeyDictionary[Guest, InRam] = WeakKeyDictionary()


Maker = Callable[["Guest", "Machine"], "InRam | None"]
_MAKERS: list[Maker] = []


def register(maker: Maker) -> Callable[[], None]:
    """Ask ``maker`` for the witness of a guest before the one of this file is made. Call what it returns to undo it."""
    _MAKERS.append(maker)
    return lambda: _MAKERS.remove(maker)


def in_ram(guest: Guest, machine: Machine) -> InRam | None:
    """This witness for a guest; None where nobody can look into its memory (a recording)."""
    if guest.memory is None:
        return None
    if guest not in _KNOWN:
        found = next(filter(None, (make(guest, machine) for make in _MAKERS)), None)
        smmu = None if machine.smmu is None else SmmuV3(guest.memory, machine.smmu)
        _KNOWN[guest] = found or InRam(guest.memory, machine, smmu)
    return _KNOWN[guest]


def forget(guest: Guest, name: str = "") -> None:
    """The domain of that name is freed, or all are: the next one may have the same name."""
    known = _KNOWN.get(guest)
    if known is not None and name:
        known.walked.pop(name, None)
    elif known is not None:
        known.walked.clear()
