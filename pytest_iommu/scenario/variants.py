# SPDX-License-Identifier: GPL-2.0-only
"""Where a case runs: hardware domains of a machine's stages, and software tables; case -> instances.

The table of a hardware domain follows from the IOMMU's ID registers and the kernel's sizes: EXPECTED must not take it
from the kernel's own word. An instance is made from what the machine's description says, and placed() makes it fit a
guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pytest_iommu import formats
from pytest_iommu.core import machines
from pytest_iommu.core.flavours import Sizes, page_size, sizes
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.model import TableConfig
from pytest_iommu.core.yaml_reader import ScenarioError, Value
from pytest_iommu.formats import ConfigError
from pytest_iommu.oracle.hardware_domain import hardware_config
from pytest_iommu.oracle.iommus import IommuHardware, hardware_of
from pytest_iommu.scenario.schema import (
    Case,
    DomainDef,
    DomainSpec,
    ExpectStep,
    Instance,
    Step,
    StreamStep,
    TableSpec,
)

STAGES = ("s1", "s2")
#: of cases that name none
DEFAULT_MACHINE = "smmuv3"
GRANULES = {"4K": 4096, "16K": 16384, "64K": 65536}
#: the machines by name; from qemu-images/ and register()
MACHINES: dict[str, Machine] = {name: machines.get(name) for name in machines.names()}
#: machine -> the names of its devices
DEVICES: dict[str, tuple[str, ...]] = {
    name: tuple(device.name for device in machines.get(name).devices) for name in machines.names()
}
_PARAMETERS = ("granule", "ias", "oas", "levels", "vasz", "oasz")


def register(machine: Machine) -> None:
    """Make a machine of another plugin known to scenarios."""
    MACHINES[machine.name] = machine
    DEVICES[machine.name] = tuple(device.name for device in machine.devices)


def other_granule(domains: Iterable[DomainSpec], flavour: str, page: int) -> str | None:
    """Return why a kernel of that flavour, with pages of ``page`` bytes, cannot create these domains, or None."""
    other = sorted({domain.config.granule for domain in domains if domain.hardware} - {page})
    if not other:
        return None
    have, make = granule_word(other[0]), granule_word(page)
    return f"its hardware domains have {have} pages, but a kernel of flavour {flavour} creates them with {make}"


def granule_word(granule: int) -> str:
    """Return a granule as used in ids: 4k, 16k, 64k."""
    return f"{granule >> 10}k"


def default_table(value: Value) -> TableSpec:
    """Return the software table of a format by name, in its default configuration."""
    name = value.choice(formats.names(), "format")
    return _spec(value, name, {}, None)


def read_table(value: Value) -> TableSpec:
    """Parse a software table: ``{format: ..., granule: ..., ...}``."""
    fields = value.fields(("format", *_PARAMETERS, "quirks", "features", "id"), "table")
    name = fields.need("format").choice(formats.names(), "format")
    given: dict[str, int] = {}
    for key in _PARAMETERS:
        if key in fields:
            inner = fields.found[key]
            given[key] = GRANULES[inner.choice(GRANULES, key)] if key == "granule" else inner.integer(1)
    word = formats.get(name).options_word
    if ({"quirks", "features"} - {word}) & set(fields.found):
        raise value.error(f"{name} takes `{word}`")
    spec = _spec(value, name, given, fields.words(word) if word in fields else None)
    return replace(spec, label=fields.found["id"].text()) if "id" in fields else spec


def _spec(value: Value, name: str, given: Mapping[str, int], options: tuple[str, ...] | None) -> TableSpec:
    fmt = formats.get(name)
    try:
        config = fmt.configure(**given, **({} if options is None else {"options": options}))
    except ConfigError as problem:
        raise value.error(str(problem)) from None
    words = [name]
    if "granule" in fmt.signature:
        words.append(granule_word(config.granule))
    words += [f"{key}{given[key]}" for key in fmt.signature if key in given and key != "granule"]
    command = software_command(fmt, config, given, options)
    return TableSpec("-".join((*words, *(options or ()))), config, command=command)


def software_command(
    fmt: formats.Format, config: TableConfig, given: Mapping[str, int], options: tuple[str, ...] | None
) -> str:
    """Return the arguments of ``domain NAME`` in the test module's command for a software table."""
    # All parameters are passed, so that the module's defaults do not matter.
    known = {"granule": config.granule, "ias": config.ias, "oas": config.oas, "levels": config.levels}
    known |= {"vasz": config.ias, "oasz": config.oas}
    words = [f"format={fmt.name}"]
    for key in fmt.signature:
        number = given.get(key, known[key])
        words.append(f"{key}={number >> 10}K" if key == "granule" else f"{key}={number}")
    chosen = sorted(fmt.default_options) if options is None else options
    if chosen or fmt.default_options:
        words.append(f"{fmt.options_word}={','.join(chosen) or 'none'}")
    return " ".join(words)


def hardware(machine: str, stage: str, kernel: Sizes, iommu: IommuHardware | None = None) -> TableSpec:
    """Return a domain of that stage on a machine. ConfigError if the machine has no such stage.

    ``iommu`` is the guest's; without a guest, the machine's description says what it is like.
    """
    known = MACHINES.get(machine)
    if known is None or stage not in known.stages:
        raise ConfigError(f"{machine} has no stage {stage}")
    found = known.stages[stage]
    if iommu is None and known.iommu is not None and known.ids and not found.parameters:
        iommu = hardware_of(known.iommu.type, known.ids)
    if iommu is not None:
        config = hardware_config(found.format, iommu, kernel)
    else:
        config = formats.configure(found.format, granule=kernel.page, **found.parameters)
    return TableSpec(f"{stage}-{granule_word(config.granule)}", config, stage, f"stage={stage[1:]}")


def placed(instance: Instance, machine: str, kernel: Sizes, iommu: IommuHardware | None) -> Instance:
    """Return the instance with its hardware domains as that kernel sets them up on that IOMMU. ConfigError as above."""
    domains = {
        name: domain
        if domain.stage is None
        else replace(domain, config=hardware(machine, domain.stage, kernel, iommu).config)
        for name, domain in instance.domains.items()
    }
    return replace(instance, domains=domains)


def expand(case: Case) -> list[Instance]:
    """Return the instances of a case: machines times stages and tables. ScenarioError if two get the same id."""
    page = page_size(case.kernel)
    if case.stages and case.granule != page:
        problem = (
            f"hardware domains have the kernel's page size as granule, which is {granule_word(page)} with {case.kernel}"
        )
        raise ScenarioError(case.path, case.line, problem)
    found = [_instance(case, machine, variant) for machine in case.machines for variant in _variants(case, machine)]
    for number, one in enumerate(found):
        if any(one.id == other.id for other in found[:number]):
            raise ScenarioError(case.path, case.line, f"two variants have the name {one.id}; give one table an `id`")
    return found


def elsewhere(case: Case, machine: str) -> list[Instance]:
    """Return the instances of a case on a machine with another IOMMU than that of the case's machines.

    They are those with hardware domains, of the stages that the IOMMU has. There are none if the case names its
    machines, or is about something that only an SMMUv3 has: entries of its stream table, a dump written out by hand, or
    a domain of a stage that the other IOMMU lacks.
    """
    known = MACHINES[machine]
    if case.named or case.hand or case.kernel != "plain" or any(map(_of_smmu, case.steps)):
        return []
    if set(case.needs.devices) - {device.name for device in known.devices}:
        return []
    own = [domain.stage for domain in case.domains if domain.stage]
    if not set(own) <= set(known.stages):
        return []
    if own:
        return [_instance(case, machine, None)] if _variants(case, machine) == [None] else []
    return [
        _instance(case, machine, _stage(case, case.line, machine, stage, case.granule))
        for stage in case.stages
        if stage in known.stages
    ]


def _of_smmu(step: Step) -> bool:
    """Whether a step is about the entries of a stream, or their files."""
    return isinstance(step, StreamStep) or (isinstance(step, ExpectStep) and "smmu" in (step.path or ""))


def scratch_of(instance: Instance, pa: int) -> int:
    """Return where a physical address is on the instance's machine.

    A case writes the addresses of its own machine. On another one, what is in scratch memory is in scratch memory, too.
    """
    own, there = MACHINES[instance.case.machines[0]].scratch, MACHINES[instance.machine].scratch
    if instance.machine in instance.case.machines or own is None or there is None:
        return pa
    return pa - own[0] + there[0] if own[0] <= pa < own[0] + own[1] else pa


def _instance(case: Case, machine: str, variant: TableSpec | None) -> Instance:
    page = page_size(case.kernel)
    label = variant.label if variant is not None else _label(case, machine, page)
    domains = {d.name: _domain(case, d, machine, variant, page) for d in case.domains}
    return Instance(f"{case.name}[{machine}-{label}]", case, machine, label, domains)


def _variants(case: Case, machine: str) -> list[TableSpec | None]:
    if all(domain.stage or domain.table for domain in case.domains):
        return [None]
    return [*(_stage(case, case.line, machine, stage, case.granule) for stage in case.stages), *case.tables]


def _stage(case: Case, line: int, machine: str, stage: str, granule: int) -> TableSpec:
    try:
        return hardware(machine, stage, replace(sizes(case.kernel), page=granule))
    except ConfigError as problem:
        raise ScenarioError(case.path, line, str(problem)) from None


def _label(case: Case, machine: str, page: int) -> str:
    specs = (domain.table or _stage(case, domain.line, machine, domain.stage or "", page) for domain in case.domains)
    return "+".join(dict.fromkeys(spec.label for spec in specs))


def _domain(case: Case, domain: DomainDef, machine: str, variant: TableSpec | None, page: int) -> DomainSpec:
    spec = domain.table
    if domain.stage is not None:
        spec = _stage(case, domain.line, machine, domain.stage, page)
    if spec is None:
        spec = variant
    assert spec is not None
    device = domain.device if spec.stage is not None else None
    where = f"dev={device} " if device is not None else ""
    command = f"domain {domain.name} {where}{spec.command}"
    return DomainSpec(domain.name, spec.config, device is not None, device, command, spec.stage)
