# SPDX-License-Identifier: GPL-2.0-only
"""What a live guest is like as far as its page tables depend on it: the kernel's sizes and the IOMMU's ID registers.

The test module reports what the kernel was compiled with, and an SMMUv3's registers; it asks no driver. Those of other
IOMMUs are read from outside, or where that is not possible from sysfs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pytest

from pytest_iommu import formats
from pytest_iommu.core.flavours import Sizes
from pytest_iommu.core.model import format_size
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.formats import ConfigError
from pytest_iommu.formats.vtdss import READABLE
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import HARDWARE, parse_hardware
from pytest_iommu.oracle.iommu import PERMISSION
from pytest_iommu.oracle.iommus import IommuHardware, hardware_of, iommu_at
from pytest_iommu.scenario import variants
from pytest_iommu.scenario.schema import DmaStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.core.protocol import Guest, Op, Reply
    from pytest_iommu.scenario import Instance


@dataclass(frozen=True, slots=True)
class Platform:
    """The kernel's sizes, and what the IOMMU's ID registers say; None without an IOMMU that is known."""

    kernel: Sizes
    iommu: IommuHardware | None


SYSFS: Mapping[str, Mapping[str, str]] = {
    "vtd": {name: f"/sys/class/iommu/dmar0/intel-iommu/{name}" for name in ("cap", "ecap")},
    "amd": {"efr": "/sys/class/iommu/ivhd0/amd-iommu/features"},
}
_KNOWN: WeakKeyDictionary[Guest, Platform | None] = WeakKeyDictionary()


def platform_of(guest: Guest, machine: Machine) -> Platform | None:
    """Return the platform of a guest, which is read once; None where no test module tells it."""
    if guest not in _KNOWN:
        (told,) = guest.run([ops.read_file(HARDWARE)]).results
        _KNOWN[guest] = _platform(guest, ops.text_of(told), machine) if told.ok else None
    return _KNOWN[guest]


def _platform(guest: Guest, text: str, machine: Machine) -> Platform:
    rows = parse_hardware(text)
    sizes = Sizes(rows.page, rows.va_bits, rows.own_tables)
    if machine.iommu is None or machine.iommu.type == "smmuv3":
        ids = rows.smmus.get(machine.smmu or 0) or next(iter(rows.smmus.values()), None)
        return Platform(sizes, hardware_of("smmuv3", ids) if ids else None)
    # Asked in any case: a recording of this guest has no memory.
    shown = _from_sysfs(guest, machine.iommu.type)
    if guest.memory is not None:
        return Platform(sizes, iommu_at(machine.iommu, guest.memory).hardware)
    return Platform(sizes, hardware_of(machine.iommu.type, shown) if shown else None)


def _from_sysfs(guest: Guest, type_: str) -> dict[str, int] | None:
    """Return the ID registers as the driver read them; None where no driver shows them."""
    files = SYSFS.get(type_, {})
    results = guest.run([ops.read_file(path) for path in files.values()]).results
    if not files or not all(one.ok for one in results):
        return None
    # AMD's file has both feature registers, with a colon (drivers/iommu/amd/init.c, amd_iommu_show_features()).
    return {name: int(ops.text_of(one).partition(":")[0], 16) for name, one in zip(files, results, strict=True)}


def linear_map(run: Callable[[Sequence[Op]], Reply]) -> Callable[[int], int] | None:
    """Return the function from a physical address to the kernel's virtual one; None where no test module tells it."""
    (told,) = run([ops.read_file(HARDWARE)]).results
    offset = parse_hardware(ops.text_of(told)).linear if told.ok else None
    return None if offset is None else lambda address: (address + offset) & (1 << 64) - 1


def hardware_table(guest: Guest, machine: Machine, stage: str, otherwise: Sizes) -> TableConfig:
    """Return what the table of a domain of that stage is like in this guest; skips where it has no such stage.

    ``otherwise`` are the kernel's sizes where no test module tells them.
    """
    found = platform_of(guest, machine)
    try:
        kernel, iommu = (found.kernel, found.iommu) if found is not None else (otherwise, None)
        return variants.hardware(machine.name, stage, kernel, iommu).config
    except ConfigError as problem:
        pytest.skip(str(problem))


def placed(instance: Instance, guest: Guest, machine: Machine) -> Instance:
    """Return the instance with hardware domains as in this guest; skips if it has none with such pages."""
    hardware = [domain for domain in instance.domains.values() if domain.stage is not None]
    found = platform_of(guest, machine) if hardware else None
    if found is None:
        return instance
    try:
        there = variants.placed(instance, machine.name, found.kernel, found.iommu)
    except ConfigError as problem:
        pytest.skip(str(problem))
    for domain in hardware:
        granule = there.domains[domain.name].config.granule
        if granule != domain.config.granule:
            pages, have = map(variants.granule_word, (domain.config.granule, granule))
            pytest.skip(f"its hardware domains have {pages} pages, but this kernel creates them with {have}")
    readable = any(READABLE in domain.config.features for domain in there.domains.values())
    if readable and any(isinstance(step, DmaStep) and _refused_read(step) for step in instance.case.steps):
        pytest.skip("a device can read all that this kernel maps for it")
    return there


def _refused_read(step: DmaStep) -> bool:
    return step.event == PERMISSION and not step.write


WHY = "by the IOMMU's ID registers and the kernel's configuration"


def hold(name: str, values: Mapping[str, str], config: TableConfig) -> list[CheckFailed]:
    """Compare what the module reports of a new hardware domain with what the hardware and the kernel ask for."""
    return [
        CheckFailed(f"domain {name}: {what}", (rule,), verdict=Verdict.MAPPING, because=WHY, domains=(name,))
        for rule, what in _differing(values, config)
    ]


def _differing(values: Mapping[str, str], config: TableConfig) -> Iterator[tuple[str, str]]:
    """What differs, with its rule: sizes go to the CD or the STE, page sizes decide leaves, the aperture what maps."""
    sizes = "HW-2" if config.format.endswith("_s1") else "HW-1"
    first, last = formats.get(config.format).aperture(config)
    wanted = {
        "ias": (sizes, str(config.ias)),
        "oas": (sizes, str(config.oas)),
        "granule": (sizes, format_size(config.granule)),
        "pgsizes": ("TAB-3", f"{sum(config.page_sizes):#x}"),
        "aperture": ("TAB-1", f"{first:#x}-{last:#x}"),
    }
    for key, (rule, want) in wanted.items():
        have = values.get(key, "-")
        if have not in ("-", want):
            yield rule, f"{key} is {have}, must be {want}"
