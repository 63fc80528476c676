# SPDX-License-Identifier: GPL-2.0-only
"""IN RAM, before the page table: from an SMMUv3's registers to stream table entry, context descriptor and table.

Sources: IHI 0070, 3.3 "Stream table lookup", 3.3.2 "StreamIDs to Context Descriptors", 3.5 "Command and Event queues",
6.3 "Register formats". The only state is the read position in the event queue: everything else reads current memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from pytest_iommu.core.model import Cd, Event, Ste, TableConfig
from pytest_iommu.core.protocol import Memory
from pytest_iommu.dialects.smmuv3_debugfs import render_cd, render_ste
from pytest_iommu.formats import ConfigError, smmuv3
from pytest_iommu.formats.arm_lpae import MAIR
from pytest_iommu.formats.base import Field, bits
from pytest_iommu.formats.smmuv3_commands import CONFIGURATION, Command, Tag
from pytest_iommu.oracle import stream_model
from pytest_iommu.oracle.command_queue import CommandQueue
from pytest_iommu.oracle.entry_changes import announced, seen_of_cd, seen_of_ste
from pytest_iommu.oracle.entry_words import Seen
from pytest_iommu.oracle.invalidation import not_told
from pytest_iommu.oracle.iommu import BLOCKED, BLOCKS, PASSES, TRANSLATES, Cached, Wrong
from pytest_iommu.oracle.registers import Registers
from pytest_iommu.oracle.ring import Ring
from pytest_iommu.oracle.stream_model import Hardware

# Offsets, and sizes in bytes: an access of the wrong size reads as zero in QEMU.
IDR0, IDR1, IDR3, IDR5 = (0x0, 4), (0x4, 4), (0xC, 4), (0x14, 4)
CR0 = 0x20, 4
STRTAB_BASE, STRTAB_BASE_CFG = (0x80, 8), (0x88, 4)
EVENTQ_BASE = 0xA0, 8
EVENTQ_PROD = 0x100A8, 4
REGISTERS = (CR0, STRTAB_BASE, STRTAB_BASE_CFG, EVENTQ_BASE, EVENTQ_PROD)

_LOG2SIZE, _SPLIT, _FMT, _BASE = Field(0, 5, 0), Field(0, 10, 6), Field(0, 17, 16), Field(0, 51, 6)
TWO_LEVEL = 1
SPLITS = (6, 8, 10)


class SmmuV3(Registers):
    """One SMMUv3 with registers at the physical address ``base``. ``lost`` counts overflows of the event queue seen."""

    root = "stream table"
    event_granule = 1
    exact = True
    #: an STE that aborts leaves no event
    silent = frozenset({BLOCKED})
    not_walked: frozenset[str] = frozenset()
    untold = 0
    wait = "CMD_SYNC"
    unit = 0

    def __init__(self, memory: Memory, base: int) -> None:
        super().__init__(memory, base)
        self._events = Ring(memory, base + EVENTQ_BASE[0], base + EVENTQ_PROD[0], smmuv3.EVENT_BYTES)
        self._pointers: dict[int, int] = {}
        self.lost = 0

    @cached_property
    def hardware(self) -> Hardware:
        """What the ID registers say, which never change."""
        return Hardware.of(*map(self._register, (IDR0, IDR1, IDR3, IDR5)))

    def streams(self, sids: Iterable[int]) -> dict[int, Ste]:
        """Return those of the streams that have an entry."""
        found = ((sid, self.ste(sid)) for sid in sids)
        return {sid: ste for sid, ste in found if ste is not None}

    def sids(self) -> Iterator[int]:
        """Return the streams with a valid, translating entry, ascending."""
        for first, address, number in self._ste_arrays():
            words = self._words(address, number * smmuv3.WORDS) or ()
            for at in range(0, len(words), smmuv3.WORDS):
                ste = smmuv3.decode_ste(first + at // smmuv3.WORDS, words[at : at + smmuv3.WORDS])
                if ste.valid and ste.config in (*smmuv3.WITH_STAGE1, *smmuv3.WITH_STAGE2):
                    yield ste.sid

    def ste(self, sid: int) -> Ste | None:
        """Return the entry of a stream; None if the table has none: out of range, in no level-2 table, outside RAM."""
        address = self.ste_address(sid)
        words = None if address is None else self._words(address, smmuv3.WORDS)
        found = None if words is None else smmuv3.decode_ste(sid, words)
        if found is not None and found.config == "only S1_TRANS":
            self._pointers[sid] = found.s1_context_ptr
        return found

    def last_cd(self, sid: int) -> Cd | None:
        """Return the context descriptor that a stream had, valid or not, when its entry last led to one; else None."""
        address = self.last_cd_address(sid)
        words = None if address is None else self._words(address, smmuv3.WORDS)
        return None if words is None else smmuv3.decode_cd(sid, 0, words)

    def last_cd_address(self, sid: int) -> int | None:
        """Return where the descriptor of last_cd() is."""
        return self._pointers.get(sid)

    def cd_stays(self, sid: int) -> bool:
        """Whether the descriptor of last_cd() is valid, though the stream's entry leads to none."""
        ste, cd = self.ste(sid), self.last_cd(sid)
        return cd is not None and cd.valid and (ste is None or ste.config != "only S1_TRANS")

    def forget(self, sids: Iterable[int]) -> None:
        """These streams are of a device that has gone: so has the memory of last_cd()."""
        for sid in sids:
            self._pointers.pop(sid, None)

    def ste_address(self, sid: int) -> int | None:
        """Return the address of a stream's entry; None if the table has no place for it."""
        config = [self._register(STRTAB_BASE_CFG)]
        size, base = _LOG2SIZE.of(config), self._stream_table(config)
        if sid < 0 or sid >> size:
            return None
        if _FMT.of(config) != TWO_LEVEL:
            return base + sid * smmuv3.STE_BYTES
        split = _split(config)
        found = self._level2(base, sid >> split, split)
        at = sid & (1 << split) - 1
        if found is None or at >= found[1]:
            return None
        return found[0] + at * smmuv3.STE_BYTES

    def cd(self, sid: int, ssid: int = 0) -> Cd | None:
        """Return a stream's context descriptor, valid or not; None if it has no table of them, or none for that SSID.

        With S1+S2 the pointer is an IPA of a guest, and nothing behind it is read (STE-2).
        """
        address = self.cd_address(sid, ssid)
        words = None if address is None else self._words(address, smmuv3.WORDS)
        return None if words is None else smmuv3.decode_cd(sid, ssid, words)

    def cd_address(self, sid: int, ssid: int = 0) -> int | None:
        """Return a context descriptor's address; None if the stream has no table of them, or none for that SSID."""
        for first, address, number in self._cd_arrays(sid, ssid):
            if ssid < first + number:
                return address + (ssid - first) * smmuv3.CD_BYTES
        return None

    def cds(self, sid: int) -> Iterator[Cd]:
        """Return a stream's valid context descriptors, in SSID order."""
        for first, address, number in self._cd_arrays(sid):
            words = self._words(address, number * smmuv3.WORDS) or ()
            valid = bits(smmuv3.CD["V"].high)
            for at, word in enumerate(words[:: smmuv3.WORDS]):
                if word & valid:
                    start = at * smmuv3.WORDS
                    yield smmuv3.decode_cd(sid, first + at, words[start : start + smmuv3.WORDS])

    def table(self, sid: int, ssid: int = 0) -> tuple[TableConfig, int] | None:
        """Return configuration and top of a stream's page table, of stage 2 if it has both; None if it has no table.

        Also None if the SMMU itself rejects the stream table entry or context descriptor.
        """
        ste = self.ste(sid)
        try:
            if ste is not None and ste.config in smmuv3.WITH_STAGE2:
                return smmuv3.stage2_table(ste)
            cd = self.cd(sid, ssid)
            return None if cd is None else smmuv3.stage1_table(cd)
        except ConfigError:
            return None

    def wrong(self, requester: int, config: TableConfig, top: int) -> Iterator[Wrong]:
        """See Iommu."""
        ste, cd = self.ste(requester), None if config.format.endswith("_s2") else self.cd(requester)
        if ste is not None:
            want = stream_model.ste_fields(config, top, self.hardware)
            texts = stream_model.differing(ste.words, want, stream_model.STE)
            yield from (("HW-1", f"the STE: {text}") for text in texts)
        if cd is None:
            return
        # The MAIR defines AttrIndx: columns c and m mean nothing with another one. The format uses four of eight.
        if cd.mair & 0xFFFFFFFF != MAIR:
            yield "HW-2", f"the CD: MAIR 0x{cd.mair:016x}, but io-pgtable-arm's tables need 0x{MAIR:08x}"
        want = stream_model.cd_fields(config, top, cd.mair)
        yield from (("HW-2", f"the CD: {text}") for text in stream_model.differing(cd.words, want, stream_model.CD))

    def root_rule(self, config: TableConfig) -> str:
        """See Iommu: the CD for stage 1, the STE for stage 2."""
        return "HW-2" if config.format.endswith("_s1") else "HW-1"

    def state(self, requester: int) -> str:
        """See Iommu."""
        if self.table(requester) is not None:
            return TRANSLATES
        ste = self.ste(requester)
        return PASSES if ste is not None and ste.valid and ste.config == "BYPASS" else BLOCKS

    def wrong_without_table(self, requester: int, present: bool = True) -> Iterator[Wrong]:
        """See Iommu. The memory of a CD is freed with its device."""
        ste = self.ste(requester)
        if ste is not None:
            passes = self.state(requester) == PASSES
            want = stream_model.ste_fields_without_table(passes, self.hardware)
            for text in stream_model.differing(ste.words, want, stream_model.STE):
                yield "HW-1" if passes else "HW-5", f"the STE: {text}"
        if present and self.cd_stays(requester):
            yield "HW-5", "the CD is valid, and no STE leads to it"

    def tag(self, requester: int) -> int | None:
        """See Iommu: ASID or VMID; what else belongs to them is in what is ``cached``."""
        ste, cd = self.ste(requester), self.cd(requester)
        if ste is None or not ste.valid:
            return None
        return cd.asid if cd is not None else stream_model.STE["S2VMID"].of(ste.words)

    def commands(self) -> CommandQueue:
        """See Iommu."""
        queue = CommandQueue(self._memory, self._base)
        queue.skip()
        return queue

    def cached(self, requester: int) -> Cached | None:
        """See Iommu: STE, and the CD of SSID 0 if the STE leads to it."""
        ste = self.ste(requester)
        if ste is None:
            return None
        vmid, found = stream_model.STE["S2VMID"].of(ste.words), {"STE": ste.words}
        if ste.valid and ste.config in smmuv3.WITH_STAGE2:
            return Cached(found, Tag(vmid) if ste.config != "S1+S2_TRANS" else None)
        cd = self.cd(requester) if ste.valid and ste.config == "only S1_TRANS" else None
        if cd is None:
            return Cached(found)
        return Cached(found | {"CD": cd.words}, Tag(vmid, cd.asid) if cd.valid else None)

    def stale(self, requester: int, old: Cached, new: Cached, commands: Sequence[Command]) -> Iterator[str]:
        """See Iommu (IHI 0070, 4.3). A CMD_CFGI of an STE is one of its CDs, too."""
        changed = next((name for name in old.entries if new.entries.get(name) != old.entries[name]), None)
        if changed is None:
            return
        names = ("CFGI_STE", "CFGI_STE_RANGE", *(("CFGI_CD", "CFGI_CD_ALL") if changed == "CD" else ()))

        yield from not_told(
            commands,
            lambda one: one.name in names and one.of_stream(requester) and not one.ssid,
            f"the {changed} of stream {requester}",
            f"CMD_CFGI_{changed}",
            self.wait,
        )

    def places(self, requester: int) -> dict[str, range]:
        """See Iommu: STE, and the CD that it leads to, or last led to."""
        found = {
            "STE": self.ste_address(requester),
            "CD": self.cd_address(requester) or self.last_cd_address(requester),
        }
        size = smmuv3.STE_BYTES
        return {name: range(place, place + size) for name, place in found.items() if place is not None}

    def seen(self, name: str, words: Sequence[int]) -> Seen:
        """See Iommu."""
        return seen_of_ste(tuple(words)) if name == "STE" else seen_of_cd(tuple(words))

    def told(self, requester: int, commands: Sequence[Command]) -> bool:
        """See Iommu."""
        return announced(commands, lambda one: one.name in CONFIGURATION and one.of_stream(requester))

    def names_of(self, event: str) -> tuple[str, ...]:
        """See Iommu: an STE that aborts leaves no event."""
        return () if event == BLOCKED else (event,)

    def texts(self, sid: int, domains: Mapping[int, int]) -> dict[str, str]:
        """Return the files ``ste`` and ``cd`` of a stream, none without an entry; ``domains`` maps tops to ids."""
        ste = self.ste(sid)
        if ste is None:
            return {}
        if ste.config in smmuv3.WITH_STAGE2:
            ste = replace(ste, domain=domains.get(ste.s2ttb))
        cds = (cd if cd.epd0 else replace(cd, domain=domains.get(cd.ttb0)) for cd in self.cds(sid))
        return {"ste": render_ste(ste), "cd": render_cd(cds)}

    def events(self) -> tuple[Event, ...]:
        """Return the records added to the event queue since the last call (at first: since its setup), oldest first.

        The kernel removes records by moving an index; the records stay until the queue wraps around. If some were
        overwritten before they were read here, or dropped by the SMMU, ``lost`` is incremented.
        """
        records, lost = self._events.new()
        self.lost += lost
        return tuple(map(smmuv3.decode_event, records))

    def _stream_table(self, config: Sequence[int]) -> int:
        """Return the address of the stream table (of its level 1). Low bits below the table's size are ignored."""
        size = _LOG2SIZE.of(config)
        if _FMT.of(config) == TWO_LEVEL:
            length = smmuv3.L1_BYTES << max(0, size - _split(config))
        else:
            length = smmuv3.STE_BYTES << size
        return _BASE.address([self._register(STRTAB_BASE)]) & -max(length, smmuv3.STE_BYTES)

    def _level2(self, base: int, index: int, split: int) -> tuple[int, int] | None:
        """Return address and number of the entries that a level-1 descriptor points to, None if it is not valid."""
        word = self._words(base + index * smmuv3.L1_BYTES, 1)
        if word is None:
            return None
        span = smmuv3.L1STD_SPAN.of(word)
        if not 0 < span <= split + 1:
            return None
        number = 1 << span - 1
        return smmuv3.L1STD_L2PTR.address(word) & -number * smmuv3.STE_BYTES, number

    def _ste_arrays(self) -> Iterator[tuple[int, int, int]]:
        """Yield first stream, address and number of entries of every array of entries."""
        config = [self._register(STRTAB_BASE_CFG)]
        size, base = _LOG2SIZE.of(config), self._stream_table(config)
        if _FMT.of(config) != TWO_LEVEL:
            yield 0, base, 1 << size
            return
        split = _split(config)
        for index in range(1 << max(0, size - split)):
            found = self._level2(base, index, split)
            if found is not None:
                yield index << split, found[0], min(found[1], 1 << size)

    def _cd_arrays(self, sid: int, ssid: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Yield first SSID, address and number of each array of descriptors of a stream, or of that with ``ssid``."""
        ste = self.ste(sid)
        if ste is None or not ste.valid or ste.config != "only S1_TRANS":
            return
        size = smmuv3.STE["S1CDMax"].of(ste.words)
        fmt = smmuv3.STE["S1Fmt"].of(ste.words)
        if ssid is not None and not 0 <= ssid < 1 << size:
            return
        if size == 0 or fmt == 0:
            yield 0, ste.s1_context_ptr, 1 << size
            return
        if fmt not in smmuv3.CD_SPLIT:
            return
        split = smmuv3.CD_SPLIT[fmt]
        indexes = range(1 << max(0, size - split)) if ssid is None else (ssid >> split,)
        for index in indexes:
            word = self._words(ste.s1_context_ptr + index * smmuv3.L1_BYTES, 1)
            if word is not None and smmuv3.L1CD_V.of(word):
                yield index << split, smmuv3.L1CD_L2PTR.address(word), min(1 << split, 1 << size)


def _split(config: Sequence[int]) -> int:
    """Return the stream id bits that level 2 decodes; reserved values behave as 6 (SMMU_STRTAB_BASE_CFG)."""
    split = _SPLIT.of(config)
    return split if split in SPLITS else SPLITS[0]
