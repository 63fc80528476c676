# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM, before the page table: from a RISC-V IOMMU's registers to device context and table.

Sources: RISC-V IOMMU Architecture Specification, 3.1 and 3.3 for the directory, 6 for the registers. What Linux writes:
riscv_iommu_attach_paging_domain() and riscv_iommu_iodir_update() in drivers/iommu/riscv/iommu.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from pytest_iommu import formats
from pytest_iommu.core.model import Event, TableConfig
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats import ConfigError, riscv_commands, riscv_iommu
from pytest_iommu.formats.invalidations import Invalidation
from pytest_iommu.formats.riscv_iommu import DC
from pytest_iommu.oracle.command_queue import CommandLog
from pytest_iommu.oracle.entry_words import Seen, differing, values
from pytest_iommu.oracle.invalidation import not_emptied
from pytest_iommu.oracle.iommu import BLOCKED, BLOCKS, PASSES, TRANSLATES, Cached, Wrong
from pytest_iommu.oracle.ring import Log
from pytest_iommu.oracle.single_entry import SingleEntry

CAPABILITIES, DDTP = (0x0, 8), (0x10, 8)
CQB, CQT, FQB, FQT = (0x18, 8), (0x24, 4), (0x28, 8), (0x34, 4)
OAS = 56
_WIDTHS = {10: 48, 11: 57, 9: 39}
"""Width in bits by the bit of the capabilities that says that its first-stage tables are there."""


@dataclass(frozen=True, slots=True)
class RiscvHardware:
    """What the capabilities say: the ``widths`` of first-stage tables in bits; ``extended`` device contexts."""

    widths: tuple[int, ...]
    svpbmt: bool
    extended: bool

    @classmethod
    def of(cls, capabilities: int) -> RiscvHardware:
        """From the register (6.3)."""
        widths = sorted(width for bit, width in _WIDTHS.items() if capabilities >> bit & 1)
        return cls(tuple(widths), bool(capabilities >> 15 & 1), bool(capabilities >> 22 & 1))

    def config(self, name: str) -> TableConfig:
        """Return a domain's table as Linux makes it: the widest. ConfigError if there is none."""
        if not self.widths:
            raise ConfigError("this RISC-V IOMMU has no first-stage tables (capabilities)")
        return self.table(name, (self.widths[-1] - 12) // 9)

    def table(self, name: str, levels: int) -> TableConfig:
        """Return a table of so many levels. ConfigError if there is no such table."""
        options = ("sign_extend", "svnapot", *["svpbmt"] * self.svpbmt)
        return formats.configure(name, levels=levels, vasz=12 + 9 * levels, oasz=OAS, options=options)


class DeviceDirectory(SingleEntry):
    """One RISC-V IOMMU with registers at the physical address ``base``."""

    root = "device directory"
    entry, id_name, invalidates = riscv_commands.DC, "PSCID", "IODIR.INVAL_DDT"
    event_granule = 1
    exact = True
    #: QEMU reports it with address 0
    silent = frozenset({BLOCKED})
    #: QEMU 10.0 to 11.1 takes the PPN of a group as it is, with the bits that say how large the group is
    not_walked = frozenset({"NAPOT"})
    untold = 0
    wait = riscv_commands.WAIT
    unit = 1

    def __init__(self, memory: Memory, base: int) -> None:
        super().__init__(memory, base)
        self._faults = Log(memory, riscv_iommu.FAULT_BYTES)
        self.lost = 0

    @cached_property
    def hardware(self) -> RiscvHardware:
        """What the capabilities say, which never change."""
        return RiscvHardware.of(self._register(CAPABILITIES))

    def places(self, requester: int) -> dict[str, range]:
        """See Iommu."""
        register = [self._register(DDTP)]
        levels = riscv_iommu.LEVELS.get(riscv_iommu.DDTP["Mode"].of(register), 0)
        size = 8 * (riscv_iommu.EXTENDED_WORDS if self.hardware.extended else riscv_iommu.BASE_WORDS)
        lowest = 6 if self.hardware.extended else 7
        if not levels or requester >> lowest + 9 * (levels - 1):
            return {}
        place = riscv_iommu.DDTP["PPN"].of(register) << 12
        for level in range(levels - 1, 0, -1):
            entry = self._words(place + (requester >> lowest + 9 * (level - 1) & 0x1FF) * 8, 1)
            if entry is None or not riscv_iommu.DDTE["V"].of(entry):
                return {}
            place = riscv_iommu.DDTE["PPN"].of(entry) << 12
        place += (requester & (1 << lowest) - 1) * size
        return {riscv_commands.DC: range(place, place + size)}

    def seen(self, name: str, words: Sequence[int]) -> Seen:
        """See Iommu."""
        counts = tuple(name for name in DC if name != "tc.V")
        return values(words, DC, counts) if DC["tc.V"].of(words) else ()

    def table(self, requester: int) -> tuple[TableConfig, int] | None:
        """See Iommu. Of tables on tables it is the first stage, as far as its address is one of memory."""
        context = self.words(requester)
        if context is None or not DC["tc.V"].of(context) or DC["tc.PDTV"].of(context) or DC["iohgatp.MODE"].of(context):
            return None
        levels = DC["fsc.MODE"].of(context) - riscv_iommu.SV39 + 3
        try:
            return self.hardware.table("riscv_64", levels), DC["fsc.PPN"].of(context) << 12
        except ConfigError:
            return None

    def wrong(self, requester: int, config: TableConfig, top: int) -> Iterator[Wrong]:
        """See Iommu. PSCIDs begin with 1."""
        context = self.words(requester)
        if context is None:
            return
        want = {"tc.V": 1, "fsc.MODE": config.levels - 3 + riscv_iommu.SV39, "fsc.PPN": top >> 12}
        for text in differing(context, want, DC, ("ta.PSCID",)):
            yield "HW-1", f"the device context: {text}"
        if not DC["ta.PSCID"].of(context):
            yield "HW-1", "the device context: ta.PSCID is 0, which no domain has"

    def root_rule(self, config: TableConfig) -> str:
        """See Iommu."""
        return "HW-1"

    def state(self, requester: int) -> str:
        """See Iommu."""
        if self.table(requester) is not None:
            return TRANSLATES
        context = self.words(requester)
        bare = context is not None and DC["tc.V"].of(context) and not DC["fsc.MODE"].of(context)
        return PASSES if bare else BLOCKS

    def wrong_without_table(self, requester: int, present: bool = True) -> Iterator[Wrong]:
        """See Iommu."""
        context = self.words(requester)
        if context is None or not DC["tc.V"].of(context):
            return
        if self.state(requester) != PASSES:
            yield "HW-5", "the device context is valid"
            return
        yield from (("HW-1", f"the device context: {text}") for text in differing(context, {"tc.V": 1}, DC))

    def tag(self, requester: int) -> int | None:
        """See Iommu: the PSCID."""
        context = self.words(requester)
        return DC["ta.PSCID"].of(context) if context is not None and DC["tc.V"].of(context) else None

    def commands(self) -> CommandLog:
        """See Iommu: the command queue."""
        where = partial(self._queue, CQB, CQT)
        return CommandLog(self._memory, riscv_commands.COMMAND_BYTES, where, riscv_commands.decode_command)

    def stale(self, requester: int, old: Cached, new: Cached, commands: Sequence[Invalidation]) -> Iterator[str]:
        """See Iommu (6.3.1 "Device-directory-table entry"). What is not valid is not cached."""
        context = old.entries[riscv_commands.DC]
        if old.entries == new.entries or not DC["tc.V"].of(context):
            return
        yield from self._not_told(requester, commands)
        if old.tag is not None:
            yield from not_emptied(commands, old.tag, self.wait)

    def _queue(self, base: tuple[int, int], tail: tuple[int, int]) -> tuple[int, int, int]:
        """Return address, number of records and the producer's index of the queue with these registers."""
        register = self._register(base)
        return (register >> 10 & (1 << 44) - 1) << 12, 1 << (register & 0x1F) + 1, self._register(tail)

    def events(self) -> tuple[Event, ...]:
        """See Iommu. The kernel moves the head only, so the records stay until the queue wraps around."""
        records, lost = self._faults.new(*self._queue(FQB, FQT))
        self.lost += lost
        return tuple(map(riscv_iommu.decode_fault, records))

    def names_of(self, event: str) -> tuple[str, ...]:
        """See Iommu: a page fault, whatever the item lacks."""
        return (riscv_iommu.NOT_VALID,) if event == BLOCKED else riscv_iommu.PAGE_FAULTS
