# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios -> the text that ptdump_cases of kselftest/ reads: commands, and what each file must say afterwards.

A line begins with a word; kselftest/ptdump_cases.c is its reader. A case lasts until the next one.

    case NAME                        as KTAP prints it
    rules RULE ...                   what it proves
    device DEV                       it cannot do without this device of the test module's
    domain NAME CONFIG_...           a software table, and the option that its format needs
    domain NAME DEV key=value ...    a domain of the device's IOMMU, and what the module must say of it: else no case
    > COMMAND                        a line for the module's control file, `? COMMAND` where it may fail
    ! LINE ERRNO                     that line of the batch must be refused like this
    run                              write what was gathered, look at the status
    access NAME FILE ACTION WANT     `-` and an absolute path for no domain, `.` for the domain's directory
    read NAME FILE KIND SIZE N ...   chunk SIZE; pread or lseek SIZE at offsets N; parallel SIZE in N threads
    stream DEV present|absent DOMAIN CONFIG     `*`: not looked at
    check NAME MASK                  compare; MASK are the bits of an address in a table item
    i|p|e|s LINE                     a line of info (without top), page_table, entries, stats
    P|E LINES CRC                    in place of many: how many lines, and zlib's crc32 of their text

In lines of entries that are tables the address is `*` and raw lacks the bits of MASK: where tables lie is the kernel's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from pytest_iommu import formats
from pytest_iommu.check.witnesses.streams import DEFAULT
from pytest_iommu.core import paths
from pytest_iommu.core.boot_modes import FUNCTIONAL
from pytest_iommu.core.model import Entry, Kind
from pytest_iommu.core.names import clean
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.dialects.io_ptdump import render_entry, render_range
from pytest_iommu.dialects.io_ptdump_small import render_info, render_stats
from pytest_iommu.oracle import Expected
from pytest_iommu.scenario import DomainSpec, Instance, Phase, Plan, compile_plan, load
from pytest_iommu.scenario.schema import DmaStep, PlugStep, ReadStep, StreamStep

MACHINE, KERNEL = "smmuv3", "plain"
HEAD = "# SPDX-License-Identifier: GPL-2.0-only\n# Made by pytest-iommu of {}; not to be edited.\n"
#: more lines than these are told by their number and checksum
MANY = 24
_CONFIGS = {
    "amdv1": "CONFIG_IOMMU_PT_AMDV1",
    "vtdss": "CONFIG_IOMMU_PT_VTDSS",
    "x86_64": "CONFIG_IOMMU_PT_X86_64",
    "riscv_64": "CONFIG_IOMMU_PT_RISCV64",
}
_LPAE = "CONFIG_IOMMU_IO_PGTABLE_LPAE"
_DEVICE = re.compile(r"\bedu\d+\b")


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a file of cases/: as KTAP names it, and what it is compiled from."""

    file: str
    name: str
    rules: tuple[str, ...]
    instance: Instance

    @property
    def text(self) -> str:
        """Its lines. ScenarioError where the scenario contradicts the model."""
        return "".join(f"{line}\n" for line in case_lines(self.name, compile_plan(self.instance)))


@cache
def find(folder: Path | None = None) -> tuple[Case, ...]:
    """Every case that a guest can carry out alone, in order. SetupError when two get one name.

    To compile one takes far longer than to find it: only its ``text`` does.
    """
    found: list[Case] = []
    seen: set[str] = set()
    for path in sorted((folder or paths.conformance() / "scenarios").glob("*.iommu.yaml")):
        suite = load(path)
        for instance in suite.instances:
            if not suitable(instance):
                continue
            name = clean(f"{suite.name}-{instance.case.name}-{instance.variant}")
            if name.lower() in seen:
                raise SetupError(f"{path}: two cases of kselftest would be named {name}")
            seen.add(name.lower())
            found.append(Case(path.name.removesuffix(".iommu.yaml"), name, tuple(map(str, instance.rules)), instance))
    return tuple(found)


def compile_all(folder: Path | None = None) -> dict[str, str]:
    """File name -> text, one a scenario file that has cases for a guest alone. SetupError when two get one name."""
    files = groupby(find(folder), key=lambda case: case.file)
    return {
        f"{file}.txt": HEAD.format(f"{file}.iommu.yaml") + "".join(case.text for case in members)
        for file, members in files
    }


def suitable(instance: Instance) -> bool:
    """Whether a guest can carry it out alone: not what takes QEMU's monitor, DMA by a host's word, or races."""
    if instance.machine != MACHINE or instance.kernel != KERNEL or instance.boot_mode != FUNCTIONAL:
        return False
    return not any(
        isinstance(step, (PlugStep, DmaStep))
        # It does not look up what a default domain is.
        or (isinstance(step, StreamStep) and step.config == DEFAULT)
        or (isinstance(step, ReadStep) and not step.same)
        for step in instance.case.steps
    )


def case_lines(name: str, plan: Plan) -> Iterator[str]:
    """The lines of one case."""
    instance = plan.instance
    yield f"case {name}"
    yield f"rules {' '.join(instance.rules)}"
    said = " ".join(phase.script for phase in plan.phases)
    streams = [stream.device for phase in plan.phases for stream in phase.streams]
    for device in sorted({*instance.needs.devices, *_DEVICE.findall(said), *streams}):
        yield f"device {device}"
    for spec in instance.domains.values():
        yield _domain(spec)
    for phase in plan.phases:
        yield from _phase(phase)


def _domain(spec: DomainSpec) -> str:
    config = spec.config
    if not spec.hardware:
        return f"domain {spec.name} {_CONFIGS.get(config.format, _LPAE)}"
    facts = f"format={config.format} ias={config.ias} oas={config.oas} granule={config.granule >> 10}K"
    return f"domain {spec.name} {spec.device} {facts}"


def _phase(phase: Phase) -> Iterator[str]:
    yield from (f"> {line}" for line in phase.script.splitlines())
    yield from (f"! {number} {want.errno}" for number, want in phase.expect.items() if want.errno)
    if phase.script:
        yield "run"
    for access in phase.access:
        where = f"- {access.path}" if access.path else f"{access.domain} {access.file or '.'}"
        yield f"access {where} {access.action} {access.want}"
    for read in phase.reads:
        how = read.how
        size = how.size if how.kind in ("pread", "lseek") else how.chunk or 65536
        numbers = how.offsets if how.kind in ("pread", "lseek") else (how.threads,) if how.kind == "parallel" else ()
        yield " ".join(("read", read.domain, read.file, how.kind, str(size), *map(str, numbers)))
    for stream in phase.streams:
        state = "present" if stream.present else "absent"
        yield f"stream {stream.device} {state} {stream.domain or '*'} {stream.config or '*'}"
    for check in phase.checks:
        yield from _check(check.domain, check.expected)


def _check(domain: str, expected: Expected) -> Iterator[str]:
    mask = formats.get(expected.config.format).address_mask(expected.config)
    yield f"check {domain} 0x{mask:016x}"
    info = render_info(expected.info).splitlines()
    yield from (f"i {line}" for line in info if not line.startswith("top:"))
    yield from _lines("p", [render_range(row) for row in expected.ranges])
    yield from _lines("e", [entry_line(row) for row in expected.entries])
    yield from (f"s {line}" for line in render_stats(expected.stats).splitlines())


def entry_line(row: Entry) -> str:
    """A line of entries; of a table all but where it lies."""
    line = render_entry(row)
    return line.replace("0x0000000000000000 raw", "* raw") if row.kind is Kind.TABLE else line


def _lines(key: str, lines: Sequence[str]) -> Iterable[str]:
    if len(lines) <= MANY:
        return [f"{key} {line}" for line in lines]
    text = "".join(f"{line}\n" for line in lines)
    return [f"{key.upper()} {len(lines)} 0x{zlib.crc32(text.encode()):08x}"]
