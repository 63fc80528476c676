# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM, before the page table: from VT-d's registers to root entry, context entry, PASID entry and table.

Sources: Intel Virtualization Technology for Directed I/O, 3.4 "Mapping Devices to Domains", 11.4 for the registers.
What Linux writes: domain_context_mapping_one() in drivers/iommu/intel/iommu.c, pasid_pte_config_first_level() and
pasid_pte_config_second_level() in pasid.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from pytest_iommu import formats
from pytest_iommu.core.model import Event, TableConfig
from pytest_iommu.core.protocol import Faults, Memory
from pytest_iommu.formats import ConfigError, vtd_commands
from pytest_iommu.formats import vtd_entries as vtd
from pytest_iommu.formats.base import INCOHERENT
from pytest_iommu.formats.invalidations import DomainTag, Invalidation
from pytest_iommu.formats.vtdss import READABLE
from pytest_iommu.oracle.command_queue import CommandLog
from pytest_iommu.oracle.entry_changes import announced
from pytest_iommu.oracle.entry_words import Seen, differing, values
from pytest_iommu.oracle.invalidation import not_emptied, not_told
from pytest_iommu.oracle.iommu import (
    BLOCKED,
    BLOCKS,
    PASSES,
    PERMISSION,
    TRANSLATES,
    TRANSLATION,
    Cached,
    Wrong,
    event_of,
)
from pytest_iommu.oracle.registers import Registers

CAP, ECAP, RTADDR, IQT, IQA = (0x8, 8), (0x10, 8), (0x20, 8), (0x88, 8), (0x90, 8)
_SIZES = {0: 1 << 21, 1: 1 << 30}
"""Page sizes of the second stage by the bit of CAP.SSLPS that says that they are there."""
OAS = 52
DENIED = "read or write denied"
"""The second stage has no other reason: an item without R and W is the same as none."""
NOT_PRESENT = ("context entry not present", "PASID entry not present")
REASONS = {
    0x2: NOT_PRESENT[0],
    0x59: NOT_PRESENT[1],
    # QEMU looks at the translation type first, and that of an entry that is all zeros is reserved.
    0x5B: NOT_PRESENT[1],
    0x5: DENIED,
    0x6: DENIED,
    0x71: TRANSLATION,
    0x85: PERMISSION,
}
"""Names of fault reasons (chapter 7.1.3): 71h is a first-stage item that is not present, 85h denies a write."""


@dataclass(frozen=True, slots=True)
class VtdHardware:
    """What CAP and ECAP say: ``mgaw`` and the widths of ``sagaw`` in bits, page sizes in bytes.

    ``caches_absent``: entries that are not present may be cached as well (CAP.CM).
    """

    mgaw: int
    sagaw: tuple[int, ...]
    second_sizes: tuple[int, ...]
    first_1g: bool
    five_levels: bool
    coherent: bool
    walks_coherent: bool
    scalable: bool
    caches_absent: bool = False

    @classmethod
    def of(cls, cap: int, ecap: int) -> VtdHardware:
        """From the registers (11.4.2 and 11.4.3)."""
        return cls(
            mgaw=(cap >> 16 & 0x3F) + 1,
            sagaw=tuple(30 + 9 * bit for bit in range(1, 4) if cap >> 8 + bit & 1),
            second_sizes=tuple(size for bit, size in _SIZES.items() if cap >> 34 + bit & 1),
            first_1g=bool(cap >> 56 & 1),
            five_levels=bool(cap >> 60 & 1),
            coherent=bool(ecap & 1),
            walks_coherent=bool(ecap >> 48 & 1),
            scalable=bool(ecap >> 43 & 1),
            caches_absent=bool(cap >> 7 & 1),
        )

    def config(self, name: str) -> TableConfig:
        """Return a domain's table as Linux makes it. ConfigError if the hardware has no such stage.

        The largest width that MGAW and SAGAW have in common; some hardware walks more levels than MGAW needs.
        """
        if name == "x86_64":
            levels = 5 if self.mgaw > 48 and self.five_levels else 4
            return self._sized(formats.configure(name, levels=levels, vasz=min(12 + 9 * levels, self.mgaw), oasz=OAS))
        for width in (57, 48, 39):
            walks = [one for one in self.sagaw if one >= width]
            if self.mgaw > width - 9 and walks:
                levels = (walks[0] - 12) // 9
                return self._sized(formats.configure(name, levels=levels, vasz=min(width, self.mgaw), oasz=OAS))
        raise ConfigError("this VT-d has no width of addresses that Linux can use (CAP.SAGAW, CAP.MGAW)")

    def own_config(self, name: str) -> TableConfig:
        """Return the same of a driver with tables of its own: __domain_mapping() in intel/iommu.c of Linux 6.12.

        Nothing in an item says that it was flushed, and a leaf of the second stage can always be read.
        """
        config = self.config(name)
        readable = {READABLE} if name == "vtdss" else set()
        return replace(config, features=config.features - {INCOHERENT} | readable)

    def _sized(self, config: TableConfig) -> TableConfig:
        first = (1 << 21, *([1 << 30] * self.first_1g))
        large = first if config.format == "x86_64" else self.second_sizes
        sizes = tuple(size for size in config.page_sizes if size in (4096, *large))
        walks_coherent = self.walks_coherent if self.scalable else self.coherent
        features = config.features if walks_coherent else config.features | {INCOHERENT}
        return replace(config, page_sizes=sizes, features=features)


class ContextTable(Registers):
    """One VT-d with registers at the physical address ``base``; ``faults`` tells what it reported, if anyone does."""

    event_granule = 4096
    exact = False
    silent: frozenset[str] = frozenset()
    not_walked: frozenset[str] = frozenset()
    untold = 0
    wait = vtd_commands.WAIT
    #: "four 128-bit bursts", as Linux says where it tears down PASID entries
    unit = 2
    lost = 0

    def __init__(self, memory: Memory, base: int, faults: Faults | None = None) -> None:
        super().__init__(memory, base)
        self._faults = faults

    @cached_property
    def hardware(self) -> VtdHardware:
        """What the capability registers say, which never change."""
        return VtdHardware.of(*map(self._register, (CAP, ECAP)))

    @property
    def root(self) -> str:
        """See Iommu."""
        return "context or PASID table" if self.scalable else "context table"

    @property
    def scalable(self) -> bool:
        """Whether the root table has scalable-mode entries."""
        return vtd.RTADDR["TTM"].of([self._register(RTADDR)]) == vtd.SCALABLE

    def context(self, requester: int) -> tuple[int, ...] | None:
        """Return a requester's context entry, valid or not; None where its bus has no context table."""
        return self._entry(self._context_place(requester))

    def pasid(self, requester: int) -> tuple[int, ...] | None:
        """Return the PASID entry of a requester's DMA without PASID, valid or not; None if there is no place for it."""
        return self._entry(self._pasid_place(requester))

    def places(self, requester: int) -> dict[str, range]:
        """See Iommu."""
        found = {vtd_commands.CONTEXT: self._context_place(requester)}
        if self.scalable:
            found[vtd_commands.PASID] = self._pasid_place(requester)
        return {name: place for name, place in found.items() if place is not None}

    def seen(self, name: str, words: Sequence[int]) -> Seen:
        """See Iommu."""
        if not vtd.CONTEXT["P"].of(words):
            return ()
        if name == vtd_commands.PASID:
            kind = vtd.PASID["PGTT"].of(words)
            own = {vtd.FIRST_ONLY: ("FSPM", "FSPTPTR", "WPE"), vtd.SECOND_ONLY: ("AW", "SSPTPTR", "SSADE")}
            return values(words, vtd.PASID, ("PGTT", "DID", "PWSNP", *own.get(kind, ())))
        if self.scalable:
            return values(words, vtd.SCALABLE_CONTEXT, ("PDTS", "PASIDDIRPTR", "RID_PASID", "PASIDE"))
        passes = vtd.CONTEXT["TT"].of(words) == vtd.PASS_THROUGH
        return values(words, vtd.CONTEXT, ("TT", "AW", "DID", *(() if passes else ("SSPTPTR",))))

    def _entry(self, place: range | None) -> tuple[int, ...] | None:
        return None if place is None else self._words(place.start, len(place) // 8)

    def _context_place(self, requester: int) -> range | None:
        bus, function = requester >> 8, requester & 0xFF
        register = [self._register(RTADDR)]
        scalable = vtd.RTADDR["TTM"].of(register) == vtd.SCALABLE
        size = 8 * (vtd.SCALABLE_CONTEXT_WORDS if scalable else vtd.CONTEXT_WORDS)
        entry = self._words(vtd.RTADDR["RTA"].address(register) + bus * 16, vtd.ROOT_WORDS)
        if entry is None:
            return None
        # The two words of a scalable root entry are the tables of functions 0 to 127 and 128 to 255.
        half, at = divmod(function, 128) if scalable else (0, function)
        word = [entry[half]]
        if not vtd.TABLE["P"].of(word):
            return None
        place = vtd.TABLE["Pointer"].address(word) + at * size
        return range(place, place + size)

    def _pasid_place(self, requester: int) -> range | None:
        context = self.context(requester) if self.scalable else None
        if context is None or not vtd.SCALABLE_CONTEXT["P"].of(context):
            return None
        number = vtd.SCALABLE_CONTEXT["RID_PASID"].of(context)
        if number >> 6 >= 1 << vtd.SCALABLE_CONTEXT["PDTS"].of(context) + 7:
            return None
        directory = vtd.SCALABLE_CONTEXT["PASIDDIRPTR"].address(context)
        word = self._words(directory + (number >> 6) * 8, 1)
        if word is None or not vtd.TABLE["P"].of(word):
            return None
        size = 8 * vtd.PASID_WORDS
        place = vtd.TABLE["Pointer"].address(word) + (number & 0x3F) * size
        return range(place, place + size)

    def table(self, requester: int) -> tuple[TableConfig, int] | None:
        """See Iommu. Of nested tables it is the second stage."""
        if not self.scalable:
            context = self.context(requester)
            if context is None or not vtd.CONTEXT["P"].of(context):
                return None
            if vtd.CONTEXT["TT"].of(context) not in (vtd.UNTRANSLATED, vtd.WITH_IOTLB):
                return None
            return self._second(vtd.CONTEXT["AW"].of(context), vtd.CONTEXT["SSPTPTR"].address(context))
        entry = self.pasid(requester)
        if entry is None or not vtd.PASID["P"].of(entry):
            return None
        kind = vtd.PASID["PGTT"].of(entry)
        if kind == vtd.FIRST_ONLY:
            levels = 4 + vtd.PASID["FSPM"].of(entry)
            return self._config("x86_64", levels, vtd.PASID["FSPTPTR"].address(entry))
        if kind in (vtd.SECOND_ONLY, vtd.NESTED):
            return self._second(vtd.PASID["AW"].of(entry), vtd.PASID["SSPTPTR"].address(entry))
        return None

    def wrong(self, requester: int, config: TableConfig, top: int) -> Iterator[Wrong]:
        """See Iommu. The domain id is the kernel's to choose, but not 0, which hardware may use itself."""
        first = config.format == "x86_64"
        if not self.scalable:
            want = {"P": 1, "TT": vtd.UNTRANSLATED, "SSPTPTR": top, "AW": config.levels - 2}
            yield from self._differing("context entry", self.context(requester), want, "HW-1")
            return
        context = self.context(requester)
        if context is not None:
            want = {"P": 1}
            chosen = ("PDTS", "PASIDDIRPTR", "PASIDE")
            texts = differing(context, want, vtd.SCALABLE_CONTEXT, chosen, vtd.ADDRESSES)
            yield from (("HW-1", f"the context entry: {text}") for text in texts)
        # The width of a first-stage entry is that of the guest's addresses, as far as a second stage would take them.
        levels = (self.hardware.sagaw[-1] - 12) // 9 if first else config.levels
        want = {"P": 1, "AW": levels - 2, "PGTT": vtd.FIRST_ONLY if first else vtd.SECOND_ONLY}
        want |= {"PWSNP": int(self.hardware.walks_coherent)}
        want |= {"FSPM": config.levels - 4, "FSPTPTR": top} if first else {"SSPTPTR": top}
        yield from self._differing("PASID entry", self.pasid(requester), want, "HW-2")

    def root_rule(self, config: TableConfig) -> str:
        """See Iommu."""
        return "HW-2" if self.scalable else "HW-1"

    def state(self, requester: int) -> str:
        """See Iommu."""
        if self.table(requester) is not None:
            return TRANSLATES
        entry, fields = self.context(requester), vtd.CONTEXT
        kind, passes = "TT", vtd.PASS_THROUGH
        if self.scalable:
            entry, fields, kind, passes = self.pasid(requester), vtd.PASID, "PGTT", vtd.PASSES
        through = entry is not None and fields["P"].of(entry) and fields[kind].of(entry) == passes
        return PASSES if through else BLOCKS

    def wrong_without_table(self, requester: int, present: bool = True) -> Iterator[Wrong]:
        """See Iommu. In scalable mode a device's context entry is there as long as the device."""
        context, pasid = self.context(requester), self.pasid(requester)
        fields = vtd.SCALABLE_CONTEXT if self.scalable else vtd.CONTEXT
        if not present and context is not None and fields["P"].of(context):
            yield "HW-5", "the context entry is present, and the device is not"
            return
        name, entry, fields = ("PASID", pasid, vtd.PASID) if self.scalable else ("context", context, vtd.CONTEXT)
        if entry is None or not fields["P"].of(entry):
            return
        if self.state(requester) != PASSES:
            yield "HW-5", f"the {name} entry is present"
            return
        want = {"P": 1, "AW": (self.hardware.sagaw[-1] - 12) // 9 - 2}
        if self.scalable:
            want |= {"PGTT": vtd.PASSES, "PWSNP": int(self.hardware.walks_coherent)}
            yield from self._differing("PASID entry", entry, want, "HW-2")
        else:
            yield from self._differing("context entry", entry, want | {"TT": vtd.PASS_THROUGH}, "HW-1")

    def tag(self, requester: int) -> int | None:
        """See Iommu: the domain id."""
        entry, fields = (self.pasid(requester), vtd.PASID) if self.scalable else (self.context(requester), vtd.CONTEXT)
        return fields["DID"].of(entry) if entry is not None and fields["P"].of(entry) else None

    def commands(self) -> CommandLog:
        """See Iommu: the invalidation queue. Its descriptors are as long as IQA says, and IQT is in bytes."""
        wide = bool(self._register(IQA) & vtd_commands.WIDE)
        record = 16 << wide

        def where() -> tuple[int, int, int]:
            base = self._register(IQA)
            return base & -4096, (4096 << (base & 7)) // record, self._register(IQT) // record

        return CommandLog(self._memory, record, where, vtd_commands.decode_descriptor)

    def cached(self, requester: int) -> Cached | None:
        """See Iommu. The tag of a first-stage table has the PASID, since commands may name it."""
        context = self.context(requester)
        if context is None:
            return None
        entries, tag = {vtd_commands.CONTEXT: context}, self.tag(requester)
        if self.scalable:
            entry = self.pasid(requester)
            entries |= {vtd_commands.PASID: entry} if entry is not None else {}
        found = self.table(requester) if tag is not None else None
        if found is None or tag is None:
            return Cached(entries)
        pasid = vtd.SCALABLE_CONTEXT["RID_PASID"].of(context) if found[0].format == "x86_64" else None
        return Cached(entries, DomainTag("DID", tag, pasid))

    def stale(self, requester: int, old: Cached, new: Cached, commands: Sequence[Invalidation]) -> Iterator[str]:
        """See Iommu (6.5.3.3 "Guidance to Software for Invalidations")."""
        for name, words in old.entries.items():
            if new.entries.get(name) == words or not (vtd.CONTEXT["P"].of(words) or self.hardware.caches_absent):
                continue
            context = name == vtd_commands.CONTEXT
            # A scalable-mode context entry has no domain id: hardware takes no notice of that of a command.
            did = None if context and self.scalable else (vtd.CONTEXT if context else vtd.PASID)["DID"].of(words)
            pasid = 0 if context else vtd.SCALABLE_CONTEXT["RID_PASID"].of(old.entries[vtd_commands.CONTEXT])
            whose = partial(Invalidation.of_entry, entry=name, requester=requester, number=did, pasid=pasid)
            what = f"the {name} of requester 0x{requester:x}"
            command = "context-cache invalidate" if context else "PASID-cache invalidate"
            yield from not_told(commands, whose, what, command, self.wait)
            if old.tag is not None and (not context or not self.scalable):
                yield from not_emptied(commands, old.tag, self.wait)

    def told(self, requester: int, commands: Sequence[Invalidation]) -> bool:
        """See Iommu."""
        names = (vtd_commands.CONTEXT, vtd_commands.PASID)
        return announced(commands, lambda one: any(one.of_entry(name, requester) for name in names))

    def events(self) -> tuple[Event, ...]:
        """See Iommu."""
        if self._faults is None:
            return ()
        return tuple(event_of(one, _name(one.reason)) for one in self._faults.new())

    def names_of(self, event: str) -> tuple[str, ...]:
        """See Iommu."""
        return NOT_PRESENT if event == BLOCKED else (event, DENIED)

    def _second(self, aw: int, top: int) -> tuple[TableConfig, int] | None:
        levels = vtd.levels_of_aw(aw)
        return None if levels is None else self._config("vtdss", levels, top)

    def _config(self, name: str, levels: int, top: int) -> tuple[TableConfig, int] | None:
        try:
            vasz = min(12 + 9 * levels, self.hardware.mgaw)
            return formats.configure(name, levels=levels, vasz=vasz, oasz=OAS), top
        except ConfigError:
            return None

    def _differing(self, what: str, words: Sequence[int] | None, want: dict[str, int], rule: str) -> Iterator[Wrong]:
        if words is None:
            return
        fields = vtd.PASID if len(words) == vtd.PASID_WORDS else vtd.CONTEXT
        for text in differing(words, want, fields, ("DID",), vtd.ADDRESSES):
            yield rule, f"the {what}: {text}"
        if not fields["DID"].of(words):
            yield rule, f"the {what}: DID is 0, which hardware may use for what is not present"


def _name(reason: int | None) -> str:
    return "refused" if reason is None else REASONS.get(reason, f"fault {reason:x}h")
