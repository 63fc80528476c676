# SPDX-License-Identifier: GPL-2.0-only
"""Machine descriptions: those of qemu-images/, and what is said of a mistake in one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_iommu.core import flavours, machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import config

SMMUV3 = machines.get("smmuv3")


def test_the_machine_is_what_the_plugin_relies_on() -> None:
    assert [(one.name, one.sid, one.slot) for one in SMMUV3.on(10).devices] == [
        ("edu0", 8, "01.0"),
        ("edu1", 16, "02.0"),
    ]
    assert [one.name for one in SMMUV3.on(11).devices] == ["edu0", "edu1", "edu2", "testdev0"]
    assert "iommu_platform" not in SMMUV3.agent.driver, "a broken SMMU would silence the guest"
    assert SMMUV3.device("edu0").argument == "edu,dma_mask=0xffffffffffffffff,id=edu0,addr=01.0"
    assert SMMUV3.memory == 512 << 20
    assert list(SMMUV3.stages) == ["s1", "s2"]
    assert SMMUV3.stages["s2"].format == "arm_64_lpae_s2"
    assert not SMMUV3.stages["s2"].parameters
    assert SMMUV3.ids == {"idr0": 0x0D44101B, "idr1": 0x02730010, "idr3": 0x1414, "idr5": 0x74}
    with pytest.raises(KeyError):
        SMMUV3.device("edu9")


def test_linux_is_kept_out_of_the_scratch_memory() -> None:
    assert SMMUV3.scratch == (0x5C000000, 64 << 20)
    assert SMMUV3.limit == "mem=448M"
    assert replace(SMMUV3, scratch=None).limit == ""


def test_a_device_says_all_that_qemu_has_to_know(tmp_path: Path) -> None:
    text = (machines.paths.qemu_images() / "machines/smmuv3.yaml").read_text()
    more = '{name: x, driver: edu, bus: rp0, address: "01:00.0", sids: [0x100, 0x101], hotplug: true, qemu: 11}'
    (tmp_path / "m.yaml").write_text(text.replace("devices:\n", f"devices:\n  - {more}\n"))
    machine = machines.load(tmp_path / "m.yaml")
    device = machine.device("x")
    assert (device.sids, device.sid, device.hotplug) == ((0x100, 0x101), 0x100, True)
    assert device.argument == "edu,id=x,bus=rp0,addr=00.0"
    assert "x" in [one.name for one in machine.on(11).devices]
    assert "x" not in [one.name for one in machine.on(10).devices]


def test_cross_compiling_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.platform, "machine", lambda: "x86_64")
    assert SMMUV3.cross_compile == "aarch64-linux-gnu-"
    monkeypatch.setattr(machines.platform, "machine", lambda: "aarch64")
    assert SMMUV3.cross_compile == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: smmuv3\n", "", "bad.yaml:3: a machine needs 'name'"),
        ("memory: 512M", "memory: lots", "here should be a number or a size such as 64K, not 'lots'"),
        ("s1: {format: arm_64_lpae_s1}", "s1: {ias: 48}", "a stage needs 'format'"),
        ("sid: 16", "sod: 16", r":4\d: a device has no key 'sod'; known: name, driver"),
        ("name: smmuv3\n", "name: [\n", r"bad.yaml:\d+: is not YAML"),
        ("base: 0x5c000000", "base: 0x5d000000", "must be at the end of RAM, which is 0x40000000 to 0x5fffffff"),
        ("base: 0x5c000000, size: 64M", "base: 0x40000000, size: 512M", "scratch must be at the end of RAM"),
        ("base: 0x5c000000, size: 64M", "base: 0x5ffff000, size: 4K", "scratch must be at the end of RAM"),
        ("sid: 16", "sids: 16", "here should be a list"),
        ("sid: 16", "sid: 16, hotplug: perhaps", "unknown value 'perhaps'; known: true, false"),
    ],
)
def test_a_mistake_in_a_machine_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (machines.paths.qemu_images() / "machines/smmuv3.yaml").read_text()
    assert old in text
    (tmp_path / "bad.yaml").write_text(text.replace(old, new))
    with pytest.raises(SetupError, match=message):
        machines.load(tmp_path / "bad.yaml")


def test_a_machine_is_laid_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("name: over\nbase: smmuv3\nqemu: {memory: 1G}\nscratch:\nstages:\n  s1:\n")
    made = machines.load(tmp_path / "over.yaml")
    assert (made.name, made.memory, made.scratch, list(made.stages)) == ("over", 1 << 30, None, ["s2"])
    assert (made.cpu, made.devices) == (SMMUV3.cpu, SMMUV3.devices)
    (tmp_path / "third.yaml").write_text("name: third\nbase: over\n")
    with pytest.raises(SetupError, match=r"third.yaml:2: over.yaml has a base itself"):
        machines.load(tmp_path / "third.yaml")
    (tmp_path / "over.yaml").write_text("name: over\nbase: absent\n")
    with pytest.raises(SetupError, match=r"over.yaml:2: no machine 'absent' beside this file or among amd, "):
        machines.load(tmp_path / "over.yaml")


def test_a_base_beside_the_file_comes_first(tmp_path: Path) -> None:
    text = (machines.paths.qemu_images() / "machines/smmuv3.yaml").read_text()
    (tmp_path / "smmuv3.yaml").write_text(text.replace("cpu: cortex-a57", "cpu: max"))
    (tmp_path / "over.yaml").write_text("name: over\nbase: smmuv3\n")
    assert machines.load(tmp_path / "over.yaml").cpu == "max"


def test_a_second_key_of_one_name_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("name: over\nbase: smmuv3\nqemu:\n  memory: 1G\n  memory: 2G\n")
    with pytest.raises(SetupError, match=r"over.yaml:5: 'memory' is here a second time; the first is on line 4"):
        machines.load(tmp_path / "over.yaml")


@pytest.mark.parametrize("name", machines.names())
def test_machines_of_one_architecture_have_the_same_kernel(name: str) -> None:
    machine = machines.get(name)
    first = next(one for one in map(machines.get, machines.names()) if one.make_arch == machine.make_arch)
    assert machine.name == name
    assert "-" not in name, "a scenario's node id ends the machine's name there"
    for flavour in flavours.names():
        assert config.merged(machine, flavour, ()) == config.merged(first, flavour, ())
    assert (machine.arch, machine.target, machine.image) == (first.arch, first.target, first.image)


def test_stream_ids_of_a_device_tree(tmp_path: Path) -> None:
    made = machines.get("smmuv3ids")
    assert made.moved[0x10] == made.device("edu1").sid == 0x5010
    assert made.iommus["virtio_mmio@a003c00"] == (0x7000, 0x7000)
    text = (machines.paths.qemu_images() / "machines/smmuv3.yaml").read_text()
    for bad in ("moved: {x: 1}", "moved: {0x10: y}", "iommus: {a: 5}"):
        (tmp_path / "bad.yaml").write_text(f"{text}\ndevice-tree: {{{bad}}}\n")
        with pytest.raises(SetupError, match=r"bad.yaml:\d+: here should be"):
            machines.load(tmp_path / "bad.yaml")


def test_an_unknown_machine_lists_the_others() -> None:
    with pytest.raises(SetupError, match="no machine 'x'; there are: .*smmuv3"):
        machines.get("x")


def test_the_processor_follows_the_pages_of_the_kernel() -> None:
    assert [SMMUV3.with_pages(page).cpu for page in (0, 4096, 16384, 65536)] == [
        *("cortex-a57", "cortex-a57"),
        *("neoverse-n1", "cortex-a57"),
    ]
