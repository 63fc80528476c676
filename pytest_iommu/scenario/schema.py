# SPDX-License-Identifier: GPL-2.0-only
"""The contents of a scenario file as plain data: suites, cases and their steps.

``line`` is always the line in the file, from 1. Amounts become bytes for a given table (amount.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.core.boot_modes import FUNCTIONAL, HELD, RACES
from pytest_iommu.core.model import Prot, Range, TableConfig
from pytest_iommu.scenario.amount import Amount


@dataclass(frozen=True, slots=True)
class Step:
    """Common to all steps: the line and, for most, the domain (None: the only one, or all)."""

    line: int
    domain: str | None = None
    errno: str | None = None


@dataclass(frozen=True, slots=True)
class MapStep(Step):
    """Map ``count`` times ``size`` bytes, ``istep`` and ``pstep`` apart (default: size); remap unmaps first."""

    iova: Amount = field(kw_only=True)
    pa: Amount = field(kw_only=True)
    size: Amount = field(kw_only=True)
    prot: Prot = field(kw_only=True)
    leaf: Amount | None = None
    count: int = 1
    istep: Amount | None = None
    pstep: Amount | None = None
    remap: bool = False


@dataclass(frozen=True, slots=True)
class UnmapStep(Step):
    """Unmap ``count`` times ``size`` bytes; with ``leaf`` in calls of that many bytes."""

    iova: Amount = field(kw_only=True)
    size: Amount = field(kw_only=True)
    leaf: Amount | None = None
    count: int = 1
    istep: Amount | None = None


@dataclass(frozen=True, slots=True)
class CreateStep(Step):
    """Create a domain that does not exist from the start."""


@dataclass(frozen=True, slots=True)
class DestroyStep(Step):
    """Free a domain."""


@dataclass(frozen=True, slots=True)
class AttachStep(Step):
    """Attach devices to the domain."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DetachStep(Step):
    """Detach devices from their domains."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeStep(Step):
    """DMA by each device at each IOVA, without moving a group, so that caches stay warm.

    ``event`` is the expected fault, BLOCKED if nothing may happen at all, None if it must succeed. What a read returns
    is written to ``to``.
    """

    devices: tuple[str, ...] = field(kw_only=True)
    write: bool = field(kw_only=True)
    iovas: tuple[Amount, ...] = field(kw_only=True)
    size: int = field(kw_only=True)
    event: str | None = None
    to: Amount | None = None


@dataclass(frozen=True, slots=True)
class ReplaceStep(Step):
    """Move an attached device to the domain, without detaching it first."""

    device: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class PlugStep(Step):
    """Plug or unplug a device."""

    device: str = field(kw_only=True)
    add: bool = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class DmaStep(Step):
    """One transfer by an attached device; ``event`` is the expected fault, None if it must succeed."""

    device: str = field(kw_only=True)
    write: bool = field(kw_only=True)
    iova: Amount = field(kw_only=True)
    size: int = 64
    event: str | None = None


@dataclass(frozen=True, slots=True)
class StreamStep(Step):
    """The expected text for a device's streams: ``config`` as STE-2 words it, ``on`` the domain, `-` for none."""

    device: str = field(kw_only=True)
    config: str | None = None
    on: str | None = None
    present: bool = True


@dataclass(frozen=True, slots=True)
class CheckStep(Step):
    """Compare now: one domain, or all that exist."""


@dataclass(frozen=True, slots=True)
class ReadHow:
    """How to read a file: ``kind`` is chunk, pread, lseek or parallel.

    chunk: read(2) of ``chunk`` bytes each; pread: ``size`` bytes at each of ``offsets``; lseek: to each of ``offsets``
    and one read(2) of ``size`` bytes there; parallel: ``threads`` readers at once, of ``chunk`` bytes each (0: 64K).
    """

    kind: str
    chunk: int = 0
    offsets: tuple[int, ...] = ()
    size: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class ReadStep(Step):
    """Read a file in pieces; with ``same`` the pieces must match the file read at once."""

    file: str = field(kw_only=True)
    how: ReadHow = field(kw_only=True)
    same: bool = True


@dataclass(frozen=True, slots=True)
class ExpectStep(Step):
    """An access and its result: ``action`` is exists, mode, open, read, write or ioctl; ``want`` is the result."""

    action: str = field(kw_only=True)
    want: str = field(kw_only=True)
    file: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class ResetStep(Step):
    """Free everything."""


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """One step while a reader is held; ``blocked``: it waits for the reader.

    ``step`` None is a grace period: it must end while the reader is held or, if ``blocked``, only after its release.
    """

    line: int
    step: Step | None
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class HoldSpec:
    """Where the reader of a race is held: a race_words.Hold without its IOVA."""

    line: int
    at: str
    iova: Amount | None = None
    level: int | None = None
    how: str = "preempted"
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class RaceSpec:
    """A reader of a domain's ``file``, ``size`` bytes per read(2) (0: 64 KiB), held during ``meanwhile``."""

    line: int
    domain: str
    file: str
    size: int
    hold: HoldSpec
    meanwhile: tuple[Meanwhile, ...]


@dataclass(frozen=True, slots=True)
class StormSpec:
    """Kernel threads that change cells of a domain, and readers of it: a race_words.Storm.

    ``cell`` and ``gap`` become bytes for a given table. ``readers`` are (file, bytes per read(2)); empty for the
    default ones. ``pause`` is in seconds.
    """

    line: int
    domain: str
    iova: Amount
    cell: Amount
    cells: int
    gap: Amount | None = None
    mappers: int = 2
    operations: int = 4000
    seed: int = 0
    readers: tuple[tuple[str, int], ...] = ()
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """IOVAs of the raced domain in `stays` or `never`: ``size`` bytes from ``iova`` on."""

    line: int
    iova: Amount
    size: Amount


@dataclass(frozen=True, slots=True)
class HandLine:
    """One hand-written line of page_table; ``flags`` is False if `*` excludes them from the comparison."""

    line: int
    range: Range
    flags: bool = True


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a case; ``config`` are symbols of the kernel's configuration without CONFIG_."""

    devices: tuple[str, ...] = ()
    dialect: str | None = None
    machine: str | None = None
    config: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """How often a case runs; with ``fresh`` each time on a newly booted guest, otherwise always on the same one."""

    times: int = 1
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A software table, or (``stage``) a hardware domain; ``label`` is its part of the item's id."""

    label: str
    config: TableConfig
    stage: str | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """One domain of an instance. ``command`` creates it, in the test module's language."""

    name: str
    config: TableConfig
    hardware: bool
    device: str | None
    command: str
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class DomainDef:
    """One domain as named in the case; ``table`` None means the variant's."""

    line: int
    name: str
    stage: str | None = None
    table: TableSpec | None = None
    device: str = "edu0"


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a suite, before expansion."""

    path: Path
    line: int
    name: str
    rules: tuple[str, ...]
    steps: tuple[Step, ...]
    domains: tuple[DomainDef, ...]
    machines: tuple[str, ...]
    stages: tuple[str, ...]
    tables: tuple[TableSpec, ...]
    granule: int
    needs: Needs = Needs()
    kernel: str = "plain"
    fresh: bool = False
    timeout: float = 10.0
    repeat: Repeat = Repeat()
    hand: tuple[tuple[str | None, tuple[HandLine, ...]], ...] = ()
    race: RaceSpec | None = None
    storm: StormSpec | None = None
    stays: tuple[Stretch, ...] = ()
    never: tuple[Stretch, ...] = ()
    named: bool = False
    """Whether the machines are named, or needed: else they are the default ones."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One variant of a case, which one test runs."""

    id: str
    case: Case
    machine: str
    variant: str
    domains: dict[str, DomainSpec]

    @property
    def path(self) -> Path:
        return self.case.path

    @property
    def line(self) -> int:
        return self.case.line

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that the case names, and those of the page table that every case checks."""
        return tuple(dict.fromkeys([*self.case.rules, *self._of_tables()]))

    def _of_tables(self) -> Iterator[str]:
        steps = self.case.steps
        if any(isinstance(step, MapStep) and step.errno is None for step in steps):
            yield from ("TAB-1", "TAB-2", "TAB-3", "TAB-6", "TAB-7")
        if any(isinstance(step, UnmapStep) for step in steps):
            yield "TAB-4"
        if any(isinstance(step, MapStep | UnmapStep) and step.errno is not None for step in steps):
            yield "TAB-5"
        if self.case.storm is not None:
            yield "TAB-8"
        hardware = [domain.config for domain in self.domains.values() if domain.hardware]
        if any(isinstance(step, AttachStep) for step in steps):
            yield from ("HW-1", "HW-3", "TLB-4")
            if any(config.format.endswith("_s1") for config in hardware):
                yield "HW-2"
        left = any(isinstance(step, DetachStep | ReplaceStep) for step in steps)
        if left or any(isinstance(step, PlugStep) and not step.add for step in steps):
            yield "HW-5"
        if hardware:
            yield from ("ISO-1", "ISO-2")

    @property
    def needs(self) -> Needs:
        return self.case.needs

    @property
    def kernel(self) -> str:
        return self.case.kernel

    @property
    def fresh(self) -> bool:
        """Whether its guest must be freshly booted."""
        return self.case.fresh or self.case.repeat.fresh

    @property
    def timeout(self) -> float:
        return self.case.timeout

    @property
    def guests(self) -> int:
        """On how many guests it runs, one after the other."""
        return self.case.repeat.times if self.case.repeat.fresh else 1

    @property
    def repeat(self) -> int:
        """How often it runs on each of its guests."""
        return 1 if self.case.repeat.fresh else self.case.repeat.times

    @property
    def boot_mode(self) -> str:
        """The boot mode of its guest."""
        if self.case.storm:
            return RACES
        return HELD if self.case.race else FUNCTIONAL

    @property
    def anywhere(self) -> bool:
        """Whether it runs on any machine: it has software tables alone, and names no machine and no device."""
        case = self.case
        named = len(case.machines) > 1 or self.needs.machine is not None or bool(self.needs.devices)
        return not named and not any(domain.hardware for domain in self.domains.values())


@dataclass(frozen=True, slots=True)
class Suite:
    """One file."""

    path: Path
    name: str
    cases: tuple[Case, ...]
    instances: tuple[Instance, ...]
