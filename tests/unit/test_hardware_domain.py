# SPDX-License-Identifier: GPL-2.0-only
"""What a hardware domain is like follows from ID registers and the kernel's sizes, and the kernel is held to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from model_guest import ModelGuest
from synthetic_memory import SyntheticMemory

from pytest_iommu import formats
from pytest_iommu.check import platform
from pytest_iommu.check.runner import Scenario
from pytest_iommu.core import machines
from pytest_iommu.core.flavours import Sizes, sizes
from pytest_iommu.core.model import TableConfig
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.formats.base import INCOHERENT, KEEPS_TABLES
from pytest_iommu.formats.vtdss import READABLE
from pytest_iommu.guest.testmodule import parse_hardware
from pytest_iommu.oracle.hardware_domain import hardware_config
from pytest_iommu.oracle.iommus import hardware_of
from pytest_iommu.oracle.stream_model import Hardware
from pytest_iommu.scenario.variants import hardware

SMMUV3 = machines.get("smmuv3")
QEMU = Hardware.of(**SMMUV3.ids)
GRANULES = {4: 4096, 16: 16384, 64: 65536}


def config(stage: int, page: int = 4, va_bits: int = 48, smmu: Hardware = QEMU) -> TableConfig:
    return hardware_config(f"arm_64_lpae_s{stage}", smmu, Sizes(GRANULES[page], va_bits))


def test_what_qemus_registers_say() -> None:
    assert (QEMU.oas, QEMU.granules, QEMU.vax, QEMU.fwb, QEMU.nests) == (44, (4096, 16384, 65536), False, False, True)
    assert not Hardware.of(**machines.get("smmuv3s1").ids).nests


@pytest.mark.parametrize(
    ("page", "va_bits", "ias", "levels"),
    [
        *[(4, 48, 48, 4), (4, 39, 39, 3), (4, 52, 48, 4)],
        *[(16, 48, 48, 4), (16, 47, 47, 3), (64, 48, 48, 3), (64, 42, 42, 2)],
    ],
)
def test_stage_1_takes_no_more_than_the_cpu(page: int, va_bits: int, ias: int, levels: int) -> None:
    made = config(1, page, va_bits)
    assert (made.ias, made.oas, made.levels, made.granule) == (ias, 44, levels, GRANULES[page])


@pytest.mark.parametrize("va_bits", [39, 48])
def test_stage_2_is_as_wide_as_its_output(va_bits: int) -> None:
    assert config(2, va_bits=va_bits) == formats.configure("arm_64_lpae_s2", ias=44, oas=44)


def test_concatenation_follows_the_output_size() -> None:
    assert config(2, smmu=replace(QEMU, oas=40)).levels == 3


def test_52_bits() -> None:
    large = replace(QEMU, oas=52, vax=True)
    assert config(1, 64, 52, large) == formats.configure("arm_64_lpae_s1", granule=65536, ias=52, oas=52)
    assert config(1, 4, 52, large).ias == 48


@pytest.mark.parametrize(
    ("granules", "page", "granule"), [((4096,), 64, 4096), ((65536, 16384), 4, 16384), ((4096, 16384), 64, 16384)]
)
def test_a_granule_that_the_smmu_has(granules: tuple[int, ...], page: int, granule: int) -> None:
    assert config(1, page, smmu=replace(QEMU, granules=granules)).granule == granule


def test_no_granule_at_all() -> None:
    with pytest.raises(formats.ConfigError, match="SMMU_IDR5"):
        config(1, smmu=replace(QEMU, granules=()))


def test_forced_write_back_is_for_nest_parents() -> None:
    assert config(2, smmu=replace(QEMU, fwb=True)).features == {"fwb"}
    assert not config(2, smmu=replace(QEMU, fwb=True, nests=False)).features
    assert not config(1, smmu=replace(QEMU, fwb=True)).features


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [("plain", Sizes()), ("64k", Sizes(65536, 48)), ("16k", Sizes(16384, 48)), ("va39", Sizes(4096, 39))],
)
def test_sizes_of_a_flavour(flavour: str, expected: Sizes) -> None:
    assert sizes(flavour) == expected


def test_the_guest_counts_and_not_the_machines_description() -> None:
    wide = replace(QEMU, oas=48)
    assert hardware("smmuv3", "s1", Sizes(va_bits=39), wide).config == config(1, va_bits=39, smmu=wide)
    assert hardware("smmuv3", "s1", Sizes()).config == config(1)


TEXT = """\
kernel page=4096 va_bits=39 linear=0xffffff7fc0000000
smmuv3 base=0x09050000 idr0=0xd44101b idr1=0x2730010 idr3=0x1414 idr5=0x74
"""


class Told(ModelGuest):
    """A guest whose module has a `hardware` file."""

    def _one(self, op: Op) -> Result:
        return Result(len(TEXT), TEXT.encode()) if op.path.endswith("/hardware") else super()._one(op)

    def _command(self, words: list[str]) -> str:
        return "" if words[0] == "probe" else super()._command(words)


def test_what_the_module_reports() -> None:
    guest = Told(config(1))
    found = platform.platform_of(guest, SMMUV3)
    assert found == platform.Platform(Sizes(4096, 39), QEMU)
    assert platform.hardware_table(guest, SMMUV3, "s1", Sizes()).ias == 39
    linear = platform.linear_map(guest.run)
    assert linear is not None
    assert linear(0x40000000) == 0xFFFFFF8000000000


def test_a_kernel_with_tables_of_its_drivers_own() -> None:
    """What AMD's driver and VT-d's had before generic_pt; recordings of older modules say nothing of it."""
    rows = parse_hardware(TEXT.replace("linear=", "own_tables=1 linear="))
    assert rows.own_tables
    assert not parse_hardware(TEXT).own_tables
    own = Sizes(own_tables=True)
    ids = {"cap": 0xD2008C222F0606, "ecap": 0x880000F00F4A}
    second, first = (hardware_config(name, hardware_of("vtd", ids), own) for name in ("vtdss", "x86_64"))
    assert second.features == {READABLE}
    assert INCOHERENT in hardware_config("vtdss", hardware_of("vtd", ids), Sizes()).features
    assert INCOHERENT not in first.features
    assert first.features == hardware_config("x86_64", hardware_of("vtd", ids), Sizes()).features - {INCOHERENT}
    amd = hardware_config("amdv1", hardware_of("amd", {"efr": 0x21D3}), own)
    assert (amd.ias, amd.levels) == (64, 3)
    assert KEEPS_TABLES in amd.features


def test_it_is_asked_once() -> None:
    guest = Told(config(1))
    for _ in range(3):
        platform.platform_of(guest, SMMUV3)
    assert guest.batches == 1


def test_a_recording_has_what_sysfs_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay has no memory to find the registers by, and asks sysfs."""
    asked = []

    class Seen(Told):
        memory = SyntheticMemory(4096)

        def _one(self, op: Op) -> Result:
            asked.append(op.path)
            return super()._one(op)

    monkeypatch.setattr(platform, "iommu_at", lambda registers, memory: SimpleNamespace(hardware=None))
    platform.platform_of(Seen(config(1)), machines.get("vtd"))
    assert set(platform.SYSFS["vtd"].values()) <= set(asked)


@pytest.mark.parametrize(
    ("machine", "texts"), [("vtd", {"cap": "d2008c222f0606\n", "ecap": "f00f4a\n"}), ("amd", {"features": "29d3:0\n"})]
)
def test_registers_as_sysfs_prints_them(machine: str, texts: dict[str, str]) -> None:
    class Printed(Told):
        def _one(self, op: Op) -> Result:
            text = texts.get(op.path.rpartition("/")[2])
            return super()._one(op) if text is None else Result(len(text), text.encode())

    described = machines.get(machine)
    assert described.iommu is not None
    found = platform.platform_of(Printed(config(1)), described)
    assert found is not None
    assert found.iommu == hardware_of(described.iommu.type, described.ids)


def test_another_smmu_than_the_machines() -> None:
    rows = parse_hardware(TEXT.replace("base=0x09050000", "base=0x2b400000").replace("idr5=0x74", "idr5=0x75"))
    assert rows.smmus[0x2B400000]["idr5"] == 0x75


@pytest.mark.parametrize("text", ["", "kernel page=4096\n", "kernel page=x va_bits=1 linear=0\n", "smmuv3 base=0x1\n"])
def test_malformed_text(text: str) -> None:
    with pytest.raises(SetupError, match="hardware file"):
        parse_hardware(text)


GOOD = {
    "ias": "39",
    "oas": "44",
    "granule": "4K",
    "pgsizes": "0x40201000",
    "aperture": "0x0-0x7fffffffff",
}


def test_a_domain_as_it_must_be() -> None:
    assert not platform.hold("d", GOOD, config(1, va_bits=39))
    assert not platform.hold("d", {"id": "3"}, config(1, va_bits=39)), "a module that does not tell"


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"ias": "48"}, "HW-2"),
        ({"oas": "48"}, "HW-2"),
        ({"granule": "64K"}, "HW-2"),
        ({"pgsizes": "0x201000"}, "TAB-3"),
        ({"aperture": "0x0-0xffffffffffff"}, "TAB-1"),
    ],
)
def test_a_domain_that_the_kernel_sets_up_wrong(changed: dict[str, str], rule: str) -> None:
    (problem,) = platform.hold("d", GOOD | changed, config(1, va_bits=39))
    assert problem.rules == (rule,)
    assert problem.verdict is Verdict.MAPPING
    ((key, value),) = changed.items()
    assert f"{key} is {value}, must be {GOOD[key]}" in problem.message


def test_stage_2_is_set_up_in_the_ste() -> None:
    (problem,) = platform.hold("d", {"ias": "48"}, config(2))
    assert problem.rules == ("HW-1",)


def test_unknown_platforms_leave_a_scenario_as_it_is(tmp_path: Path) -> None:
    from pytest_iommu.scenario import load

    path = tmp_path / "x.iommu.yaml"
    path.write_text("suite: x\ncases: [{name: a, rules: [RNG-1], stages: [s1], do: [{check: {}}]}]\n")
    (instance,) = load(path).instances
    silent: ModelGuest = ModelGuest(config(1))
    assert platform.placed(instance, silent, SMMUV3) is instance
    assert platform.placed(instance, Told(config(1)), SMMUV3).domains["d"].config == config(1, va_bits=39)


def test_other_pages_are_a_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_iommu.scenario import load

    path = tmp_path / "x.iommu.yaml"
    path.write_text("suite: x\ncases: [{name: a, rules: [RNG-1], stages: [s1], do: [{check: {}}]}]\n")
    (instance,) = load(path).instances
    monkeypatch.setitem(globals(), "TEXT", TEXT.replace("page=4096", "page=16384"))
    with pytest.raises(pytest.skip.Exception, match="have 4k pages, but this kernel creates them with 16k"):
        platform.placed(instance, Told(config(1)), SMMUV3)


def scenario(folder: Path, step: str, guest: ModelGuest) -> Scenario:
    from pytest_iommu.scenario import load

    path = folder / "x.iommu.yaml"
    path.write_text(f"suite: x\ncases: [{{name: a, rules: [RNG-1], stages: [s1], do: [{step}]}}]\n")
    (instance,) = load(path).instances
    return Scenario(instance, guest, SMMUV3, IO_PTDUMP)


def test_an_iova_beyond_the_aperture_is_a_skip(tmp_path: Path) -> None:
    beyond = "{map: {iova: 0x8000000000, pa: 0x912340000, size: page, prot: rw}}"
    why = r"does not fit this kernel's domains .39 bits of IOVA, 44 of PA.*outside the aperture"
    with pytest.raises(pytest.skip.Exception, match=why):
        scenario(tmp_path, beyond, Told(config(1, va_bits=39))).execute()


def test_a_mistake_of_the_scenario_is_none(tmp_path: Path) -> None:
    twice = "{unmap: {iova: 0x8000000000, size: page}}"
    with pytest.raises(SetupError, match="the kernel would refuse"):
        scenario(tmp_path, twice, Told(config(1, va_bits=39))).execute()


def test_the_end_of_the_aperture_is_the_kernels(tmp_path: Path) -> None:
    guest = Told(config(1, va_bits=39))
    last = scenario(tmp_path, "{map: {iova: last, pa: 0x912340000, size: page, prot: rw}}", guest)
    last.execute()
    assert b"map d 0x7ffffff000 0x912340000" in last.artefacts()["commands.txt"]


class Wide(Told):
    """A kernel that gives its domains as many bits as the SMMU takes."""

    def _command(self, words: list[str]) -> str:
        return super()._command(words) + (" ias=48" if words[0] == "domain" else "")


def test_a_kernel_that_makes_other_domains_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="domain d: ias is 48, must be 39") as caught:
        scenario(tmp_path, "{check: {}}", Wide(config(1, va_bits=39))).execute()
    assert caught.value.rules == ("HW-2",)
    assert caught.value.verdict is Verdict.MAPPING
