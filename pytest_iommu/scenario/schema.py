# SPDX-License-Identifier: GPL-2.0-only
"""What a scenario file says, as plain data: suites, cases and the steps they are made of.

``line`` is always the line in the file, from 1. Amounts are bytes once they are given a table (amount.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.core.boot_modes import FUNCTIONAL, RACES
from pytest_iommu.core.model import Prot, Range, TableConfig
from pytest_iommu.scenario.amount import Amount


@dataclass(frozen=True, slots=True)
class Step:
    """What all steps have: where it is written and, for most, the domain (None: the only one, or all)."""

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
    """Make a domain that is not made at the start."""


@dataclass(frozen=True, slots=True)
class DestroyStep(Step):
    """Free a domain."""


@dataclass(frozen=True, slots=True)
class AttachStep(Step):
    """Attach devices to the domain."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DetachStep(Step):
    """Detach devices from whatever they are attached to."""

    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplaceStep(Step):
    """Move a device that is attached to the domain, without a moment between."""

    device: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class PlugStep(Step):
    """Plug a device in, or out."""

    device: str = field(kw_only=True)
    add: bool = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class DmaStep(Step):
    """One transfer by a device that is attached; ``event`` is what it must end in, None where it must get through."""

    device: str = field(kw_only=True)
    write: bool = field(kw_only=True)
    iova: Amount = field(kw_only=True)
    size: int = 64
    event: str | None = None


@dataclass(frozen=True, slots=True)
class StreamStep(Step):
    """What a device's streams must show: ``config`` as STE-2 words it, ``on`` the domain, `-` for none."""

    device: str = field(kw_only=True)
    config: str | None = None
    on: str | None = None
    present: bool = True


@dataclass(frozen=True, slots=True)
class CheckStep(Step):
    """Compare now: one domain, or all that live."""


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
    """Read a file in pieces; with ``same`` the pieces must be those of the one read."""

    file: str = field(kw_only=True)
    how: ReadHow = field(kw_only=True)
    same: bool = True


@dataclass(frozen=True, slots=True)
class ExpectStep(Step):
    """What becomes of an access: ``action`` is exists, mode, open, read, write or ioctl; ``want`` is what it gives."""

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

    ``step`` None waits for a grace period: one that is over while the reader is held, or not before (``blocked``).
    """

    line: int
    step: Step | None
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class HoldSpec:
    """Where the reader of a race is held: a races.holds.Hold whose IOVA is not known yet."""

    line: int
    at: str
    iova: Amount | None = None
    level: int | None = None
    how: str = "preempted"
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class RaceSpec:
    """A reader of a domain's ``file``, ``size`` bytes a read(2) (0: 64 KiB), held while ``meanwhile`` happens."""

    line: int
    domain: str
    file: str
    size: int
    hold: HoldSpec
    meanwhile: tuple[Meanwhile, ...]


@dataclass(frozen=True, slots=True)
class StormSpec:
    """Threads of the kernel that change cells of a domain, and readers of it: a races.storm.Storm.

    ``cell`` and ``gap`` in bytes once they are given a table; ``readers`` are (file, bytes a read(2)), none for the
    usual ones; ``pause`` in seconds.
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
    """IOVAs of the raced domain that a case says something of: ``size`` bytes from ``iova`` on."""

    line: int
    iova: Amount
    size: Amount


@dataclass(frozen=True, slots=True)
class HandLine:
    """One hand-written line of page_table; ``flags`` False where `*` says not to compare them."""

    line: int
    range: Range
    flags: bool = True


@dataclass(frozen=True, slots=True)
class Needs:
    """What a case cannot do without; ``config`` are symbols of the kernel's configuration without CONFIG_."""

    devices: tuple[str, ...] = ()
    dialect: str | None = None
    machine: str | None = None
    config: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """How often a case runs; with ``fresh`` each time on a newly booted guest, else on one and the same."""

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
    """One domain of an instance. ``command`` makes it, in the test module's words."""

    name: str
    config: TableConfig
    hardware: bool
    device: str | None
    command: str


@dataclass(frozen=True, slots=True)
class DomainDef:
    """One domain as the case names it; ``table`` None means the variant's."""

    line: int
    name: str
    stage: str | None = None
    table: TableSpec | None = None
    device: str = "edu0"


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a suite, before it is expanded."""

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


@dataclass(frozen=True, slots=True)
class Instance:
    """One variant of a case: what one test runs."""

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
        return self.case.rules

    @property
    def needs(self) -> Needs:
        return self.case.needs

    @property
    def kernel(self) -> str:
        return self.case.kernel

    @property
    def fresh(self) -> bool:
        """Whether nobody may have had its guest before."""
        return self.case.fresh or self.case.repeat.fresh

    @property
    def timeout(self) -> float:
        return self.case.timeout

    @property
    def guests(self) -> int:
        """How many guests it runs on, one after the other."""
        return self.case.repeat.times if self.case.repeat.fresh else 1

    @property
    def repeat(self) -> int:
        """How often it runs on each of its guests."""
        return 1 if self.case.repeat.fresh else self.case.repeat.times

    @property
    def boot_mode(self) -> str:
        """How its guest is booted."""
        return RACES if self.case.race or self.case.storm else FUNCTIONAL

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
