# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM: the page table of a domain in the guest's memory, found from the IOMMU's registers if possible.

A domain with an attached device is found as the hardware finds it: registers, the device's entries, table. Any other
is found at the table address that the test module reports, which was computed for the hardware, not for the dump.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pytest_iommu import formats
from pytest_iommu.core.model import format_size
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import OutsideMemory
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.oracle.guest_memory import Torn, walk
from pytest_iommu.oracle.iommus import iommu_at
from pytest_iommu.oracle.saved_memory import SavedDomain, save_image
from pytest_iommu.oracle.stream_table import SmmuV3

if TYPE_CHECKING:
    from pytest_iommu.core.model import Range, TableConfig
    from pytest_iommu.core.protocol import Guest, Memory
    from pytest_iommu.guest.testmodule import DomainRow
    from pytest_iommu.images import Machine
    from pytest_iommu.oracle.iommu import Iommu


IMAGE = "ram.img"
KEPT = 64
"""Maximum number of domains in a saved image: those examined last."""


@dataclass(frozen=True, slots=True)
class InRam:
    """The host's view of one guest's IOMMU."""

    memory: Memory
    machine: Machine
    iommu: Iommu | None
    #: the examined domains by name, the latest one last
    walked: dict[str, SavedDomain] = field(default_factory=dict, compare=False)

    @property
    def smmu(self) -> SmmuV3 | None:
        """The IOMMU if it is an SMMUv3."""
        return self.iommu if isinstance(self.iommu, SmmuV3) else None

    @property
    def root(self) -> str:
        """What leads from a device to its table, in the words of the IOMMU; empty without one."""
        return self.iommu.root if self.iommu is not None else ""

    def save(self, folder: Path, failed: Collection[str] = ()) -> None:
        """Save the memory that the walks read, and the stream table, for `pytest-iommu walk`. OSError: disk full.

        ``failed`` names the domains that made the test fail.
        """
        machine = self.machine
        domains = [replace(domain, failed=domain.name in failed) for domain in self.walked.values()]
        save_image(self.memory, machine.ram, machine.memory, machine.smmu, folder / IMAGE, domains[-KEPT:])

    def texts(self, config: TableConfig, row: DomainRow) -> Mapping[str, str] | None:
        """Return the files that a true dump of this domain has; info has only the fields that memory shows.

        None if the top is unknown. CheckFailed if the hardware uses another table than the domain's.
        """
        top = row.top
        for device in row.attached:
            found = self._table(device)
            if found is None:
                if top is not None:
                    self._hold_fields(device, config, top)
                what = f"{device} is attached to {row.name}, but its entries lead to no page table"
                raise CheckFailed(what, ("HW-1",), verdict=Verdict.ENTRIES, table=self.root)
            theirs, where = found
            if top is not None and where != top:
                what = f"0x{where:x}, but the table of {row.name} is at 0x{top:x}"
                leads = f"the entries of {device} lead to the table at {what}"
                raise CheckFailed(leads, (self._rule(config),), verdict=Verdict.ENTRIES, table=self.root)
            self._hold(device, theirs, config, row)
            self._hold_fields(device, config, where)
            top = where
        if top is None:
            return None
        self._hold_levels(row, config)
        try:
            found_walk = walk(self.memory, config, top, row.levels)
        except OutsideMemory:
            what = f"the table of {row.name} is said to be at 0x{top:x}, where there is no RAM"
            raise CheckFailed(what, (self._rule(config),), verdict=Verdict.MAPPING) from None
        if found_walk.torn:
            raise CheckFailed(_torn(row.name, found_walk.torn), ("TAB-3",), ("TAB-1",), verdict=Verdict.MAPPING)
        sids = [sid for device in row.attached for sid in self.machine.device(device).sids]
        self.walked.pop(row.name, None)
        self.walked[row.name] = SavedDomain(row.name, config, top, found_walk.levels, tuple(dict.fromkeys(sids)))
        return {**found_walk.texts(), "info": f"levels: {found_walk.levels}\ntop: 0x{top:016x}\n"}

    def _hold_fields(self, device: str, config: TableConfig, top: int) -> None:
        """Every field of the device's entries is what the domain's configuration asks for."""
        if self.iommu is None:
            return
        for sid in dict.fromkeys(self.machine.device(device).sids):
            wrong = list(self.iommu.wrong(sid, config, top))
            if wrong:
                rule = wrong[0][0]
                texts = [text for broken, text in wrong if broken == rule]
                raise CheckFailed(f"{device}: {'; '.join(texts)}", (rule,), verdict=Verdict.ENTRIES, table=self.root)

    def _hold(self, device: str, have: TableConfig, want: TableConfig, row: DomainRow) -> None:
        """Compare the entries' own table parameters with the domain's: a wrong T0SZ selects another table, for example.

        The levels of a table that grows are those that it has now.
        """
        geometry = formats.get(want.format).geometry(want)
        if geometry.top < geometry.highest and row.levels is not None:
            want = replace(want, levels=row.levels)
        for key in ("format", "granule", "ias", "oas", "levels"):
            left, right = getattr(have, key), getattr(want, key)
            if left != right:
                what = f"the entries of {device} are set up for {key} {left}, but the domain has {right}"
                raise CheckFailed(what, (self._rule(want),), verdict=Verdict.ENTRIES, table=self.root)

    def _hold_levels(self, row: DomainRow, config: TableConfig) -> None:
        """Compare the levels that the hardware is told of with those of the configuration, where a table does not grow.

        They follow from T0SZ, or from SL0: with other ones the same table translates other addresses, or none.
        """
        geometry = formats.get(config.format).geometry(config)
        least, most = (1, geometry.highest + 1) if geometry.top < geometry.highest else (config.levels,) * 2
        if row.levels is not None and not least <= row.levels <= most:
            must = f"{most}" if least == most else f"{least} to {most}"
            what = f"the table of {row.name} is set up with {row.levels} levels, must be {must}"
            raise CheckFailed(what, (self._rule(config),), verdict=Verdict.MAPPING)

    def _rule(self, config: TableConfig) -> str:
        """Where the table of a domain is set up; without an IOMMU, as an SMMUv3 does."""
        if self.iommu is not None:
            return self.iommu.root_rule(config)
        return "HW-2" if config.format.endswith("_s1") else "HW-1"

    def _table(self, device: str) -> tuple[TableConfig, int] | None:
        return self.iommu.table(self.machine.device(device).sid) if self.iommu is not None else None


def ranges_of(texts: Mapping[str, str]) -> Sequence[Range]:
    """Return the lines of page_table among the files that ``InRam.texts`` found."""
    dump, _ = IO_PTDUMP.read({"page_table": texts["page_table"]})
    return dump.ranges or ()


def _torn(name: str, found: Sequence[Torn]) -> str:
    lines = [
        f"the group of {format_size(size)} at 0x{iova:x} is 0x{raw:016x}, but item {number} of it is 0x{other:016x}"
        for iova, size, raw, number, other in found[:4]
    ]
    more = [f"and {len(found) - 4} more groups like this"] * (len(found) > 4)
    return "\n".join([f"groups of table {name} are not complete:", *lines, *more])


#: one per guest, for its lifetime: reading the event queue continues where it stopped
_KNOWN: WeakKeyDictionary[Guest, InRam] = WeakKeyDictionary()


Maker = Callable[["Guest", "Machine"], "InRam | None"]
_MAKERS: list[Maker] = []


def register(maker: Maker) -> Callable[[], None]:
    """Ask ``maker`` for the witness of a guest before the one of this file is made. Call what it returns to undo it."""
    _MAKERS.append(maker)
    return lambda: _MAKERS.remove(maker)


def in_ram(guest: Guest, machine: Machine) -> InRam | None:
    """Return the witness of a guest; None if its memory is not accessible (a recording)."""
    if guest.memory is None:
        return None
    if guest not in _KNOWN:
        found = next(filter(None, (make(guest, machine) for make in _MAKERS)), None)
        faults = capabilities(guest).faults
        iommu = None if machine.iommu is None else iommu_at(machine.iommu, guest.memory, faults)
        _KNOWN[guest] = found or InRam(guest.memory, machine, iommu)
    return _KNOWN[guest]


def forget(guest: Guest, name: str = "") -> None:
    """Forget a freed domain, or all of them: the next one may have the same name."""
    known = _KNOWN.get(guest)
    if known is not None and name:
        known.walked.pop(name, None)
    elif known is not None:
        known.walked.clear()
