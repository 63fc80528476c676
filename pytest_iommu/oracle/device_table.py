# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM, before the page table: from an AMD IOMMU's registers to device table entry and table.

Sources: AMD I/O Virtualization Technology (IOMMU) Specification, 2.2.2 "Device Table", 3.4 for the registers. What
Linux writes: amd_iommu_set_dte_v1() and amd_iommu_make_clear_dte() in drivers/iommu/amd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from pytest_iommu import formats
from pytest_iommu.core.model import Event, TableConfig
from pytest_iommu.core.protocol import Faults, Memory
from pytest_iommu.formats import ConfigError, amd_commands, amd_iommu
from pytest_iommu.formats.amd_iommu import DTE
from pytest_iommu.formats.base import KEEPS_TABLES
from pytest_iommu.formats.invalidations import Invalidation
from pytest_iommu.oracle.command_queue import CommandLog
from pytest_iommu.oracle.entry_words import Seen, differing, values
from pytest_iommu.oracle.invalidation import not_emptied
from pytest_iommu.oracle.iommu import BLOCKED, BLOCKS, PASSES, PERMISSION, TRANSLATES, Cached, Wrong, event_of
from pytest_iommu.oracle.ring import Log
from pytest_iommu.oracle.single_entry import SingleEntry

DEVTAB, CMDBUF, EVTLOG, FEATURES = (0x0, 8), (0x8, 8), (0x10, 8), (0x30, 8)
CMDBUF_TAIL, EVTLOG_TAIL = (0x2008, 8), (0x2018, 8)
CHOSEN = ("DomainID", "SysMgt", "words 2", "words 3")
OAS = 52
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class AmdHardware:
    """What the extended feature register says: ``levels`` are the most that a host page table may have."""

    levels: int

    @classmethod
    def of(cls, efr: int) -> AmdHardware:
        """From the register (3.4.5): HATS 0 is 4 levels."""
        return cls(min(4 + (efr >> 10 & 3), amd_iommu.MOST_LEVELS))

    def config(self, name: str) -> TableConfig:
        """Return a domain's table as Linux makes it: 3 levels that grow. ConfigError for another format."""
        if name != "amdv1":
            raise ConfigError(f"nobody knows how Linux makes a table of format {name} for an AMD IOMMU")
        return formats.configure(name, levels=3, vasz=min(64, 21 + 9 * (self.levels - 1)), oasz=OAS)

    def own_config(self, name: str) -> TableConfig:
        """Return the same of a driver with tables of its own: v1_alloc_pgtable() in amd/io_pgtable.c of Linux 6.12.

        Whatever the hardware's levels are, it takes all IOVAs.
        """
        config = self.config(name)
        return replace(config, ias=64, features=config.features | {KEEPS_TABLES})


class DeviceTable(SingleEntry):
    """One AMD IOMMU with registers at the physical address ``base``.

    ``faults`` tells what it refused, if anyone does; else it is its event log, in which QEMU 11 puts nothing.
    """

    root = "device table"
    entry, id_name, invalidates = amd_commands.DTE, "DomainID", "INVALIDATE_DEVTAB_ENTRY"
    event_granule = 1
    exact = False
    #: QEMU does not trace a translation with too few permissions as one that failed
    silent = frozenset({BLOCKED, PERMISSION})
    not_walked: frozenset[str] = frozenset()
    #: in QEMU's trace the address of a leaf at 0 means a refusal
    untold = 2 << 20
    wait = amd_commands.WAIT
    #: Linux stores halves of an entry in an order that needs no more
    unit = 2

    def __init__(self, memory: Memory, base: int, faults: Faults | None = None) -> None:
        super().__init__(memory, base)
        self._faults = faults
        self._log = Log(memory, amd_iommu.EVENT_BYTES)
        self.lost = 0

    @cached_property
    def hardware(self) -> AmdHardware:
        """What the feature register says, which never changes."""
        return AmdHardware.of(self._register(FEATURES))

    def places(self, requester: int) -> dict[str, range]:
        """See Iommu."""
        register, size = [self._register(DEVTAB)], 8 * amd_iommu.DTE_WORDS
        if requester * size >= amd_iommu.BASE["Size"].of(register) + 1 << 12:
            return {}
        place = amd_iommu.BASE["Base"].address(register) + requester * size
        return {amd_commands.DTE: range(place, place + size)}

    def seen(self, name: str, words: Sequence[int]) -> Seen:
        """See Iommu. Without V everything passes, and nothing else counts."""
        if _state(words) == BLOCKS:
            return ()
        if not DTE["V"].of(words):
            return values(words, DTE, ("V",))
        return values(words, DTE, ("Mode", "Host page table root", "GV", "IR", "IW", "DomainID"))

    def table(self, requester: int) -> tuple[TableConfig, int] | None:
        """See Iommu."""
        dte = self.words(requester)
        if dte is None or not (DTE["V"].of(dte) and DTE["TV"].of(dte)) or DTE["GV"].of(dte):
            return None
        levels = DTE["Mode"].of(dte)
        if not 1 <= levels <= amd_iommu.MOST_LEVELS:
            return None
        vasz = self.hardware.config("amdv1").ias
        try:
            config = formats.configure("amdv1", levels=levels, vasz=vasz, oasz=OAS)
            return config, DTE["Host page table root"].address(dte)
        except ConfigError:
            return None

    def wrong(self, requester: int, config: TableConfig, top: int) -> Iterator[Wrong]:
        """See Iommu. The mode is judged by the levels that the table has now."""
        dte = self.words(requester)
        if dte is None:
            return
        want = {"V": 1, "TV": 1, "Mode": DTE["Mode"].of(dte), "Host page table root": top, "IR": 1, "IW": 1}
        for text in differing(dte, want, DTE, CHOSEN, ("Host page table root",)):
            yield "HW-1", f"the device table entry: {text}"
        if not DTE["DomainID"].of(dte):
            yield "HW-1", "the device table entry: DomainID is 0, which is that of devices that nobody has attached"

    def root_rule(self, config: TableConfig) -> str:
        """See Iommu."""
        return "HW-1"

    def state(self, requester: int) -> str:
        """See Iommu."""
        dte = self.words(requester)
        return BLOCKS if dte is None else _state(dte)

    def wrong_without_table(self, requester: int, present: bool = True) -> Iterator[Wrong]:
        """See Iommu. Kernels block with TV and neither IR nor IW, or without TV."""
        dte = self.words(requester)
        if dte is None:
            return
        passes = self.state(requester) == PASSES
        want, chosen = ({"V": 1, "TV": 1, "IR": 1, "IW": 1}, CHOSEN) if passes else ({"V": 1}, (*CHOSEN, "TV"))
        for text in differing(dte, want, DTE, chosen, ("Host page table root",)):
            yield "HW-1" if passes else "HW-5", f"the device table entry: {text}"
        if passes and not DTE["DomainID"].of(dte):
            yield "HW-1", "the device table entry: DomainID is 0, which is that of devices that nobody has attached"

    def tag(self, requester: int) -> int | None:
        """See Iommu: the domain id."""
        dte = self.words(requester)
        return DTE["DomainID"].of(dte) if dte is not None and DTE["V"].of(dte) else None

    def commands(self) -> CommandLog:
        """See Iommu: the command buffer."""
        where = partial(self._queue, CMDBUF, CMDBUF_TAIL)
        return CommandLog(self._memory, amd_commands.COMMAND_BYTES, where, amd_commands.decode_command)

    def stale(self, requester: int, old: Cached, new: Cached, commands: Sequence[Invalidation]) -> Iterator[str]:
        """See Iommu (2.4.2 and 2.4.3). A table that has grown is still the domain's, and its translations are true."""
        if old.entries == new.entries:
            return
        yield from self._not_told(requester, commands)
        if old.tag not in (None, new.tag):
            yield from not_emptied(commands, old.tag, self.wait)

    def _queue(self, base: tuple[int, int], tail: tuple[int, int]) -> tuple[int, int, int]:
        """Return address, number of records and the producer's index of the queue with these registers."""
        register, index = self._register(base), self._register(tail) & 0x7FFFF
        return register & 0xFFFFFFFFFF000, 1 << (register >> 56 & 0xF), index // amd_iommu.EVENT_BYTES

    def events(self) -> tuple[Event, ...]:
        """See Iommu. The kernel moves the head only, so the records stay until the log wraps around."""
        if self._faults is not None:
            return tuple(event_of(one, REFUSED) for one in self._faults.new())
        records, lost = self._log.new(*self._queue(EVTLOG, EVTLOG_TAIL))
        self.lost += lost
        return tuple(map(amd_iommu.decode_event, records))

    def names_of(self, event: str) -> tuple[str, ...]:
        """See Iommu. Which of the two it was is in flags that QEMU does not set."""
        return REFUSED, "IO_PAGE_FAULT"


def _state(dte: Sequence[int]) -> str:
    """See Iommu (2.2.2.1). Without V everything passes, with V and without TV nothing does."""
    if not DTE["V"].of(dte):
        return PASSES
    if not DTE["TV"].of(dte):
        return BLOCKS
    if DTE["Mode"].of(dte) == amd_iommu.PASSES and not DTE["GV"].of(dte):
        return PASSES if DTE["IR"].of(dte) or DTE["IW"].of(dte) else BLOCKS
    return TRANSLATES
