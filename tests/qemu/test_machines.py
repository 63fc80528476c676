# SPDX-License-Identifier: GPL-2.0-only
"""Every machine boots, and is what its description says: stages, stream ids, groups. And devices come and go."""

from __future__ import annotations

import pytest

from pytest_iommu.core.outcomes import KernelHang, SetupError
from pytest_iommu.guest import ops
from pytest_iommu.guest.virtual import VirtualGuest
from pytest_iommu.targets.qemu import Boot

MODULE = "/sys/kernel/debug/iommu_ptdump_test"
GROUPS = "/sys/kernel/iommu_groups"
PORT0 = "/sys/bus/pci/devices/0000:00:08.0"


def on(machine: str, *values: object) -> object:
    """Parameters that need that machine: skipped where --iommu-machine does not name it."""
    return pytest.param(machine, *values, marks=pytest.mark.iommu_needs(machine=machine))


def read(guest: VirtualGuest, path: str) -> str:
    (result,) = guest.run([ops.read_file(path)]).results
    assert result.ok, f"{path}: {ops.errno_name(result.value)}"
    return result.data.decode()


def names(guest: VirtualGuest, path: str) -> list[str]:
    (result,) = guest.run([ops.list_directory(path)]).results
    return [name.rstrip("/@") for name in result.data.decode().splitlines()]


def groups(guest: VirtualGuest) -> set[frozenset[str]]:
    """What is in each IOMMU group, without PCI's domain number."""
    found = {number: names(guest, f"{GROUPS}/{number}/devices") for number in names(guest, GROUPS)}
    return {frozenset(name.removeprefix("0000:") for name in members) for members in found.values()}


def edus(guest: VirtualGuest) -> dict[str, tuple[str, str]]:
    """Address and first stream id of every edu, by the test module's name."""
    lines = [line.split() for line in read(guest, f"{MODULE}/devices").splitlines()]
    return {words[0]: (words[1], words[3].removeprefix("sid=").partition(",")[0]) for words in lines}


@pytest.mark.parametrize(
    ("machine", "stages"),
    [on("smmuv3", 3), on("smmuv3s1", 2), on("smmuv3s2", 1), on("smmuv3topo", 3), on("smmuv3ids", 3)],
)
def test_a_machine_is_what_it_says(guest: VirtualGuest, machine: str, stages: int) -> None:
    described = guest.machine
    assert described.name == machine
    assert described.smmu is not None
    # IDR0: S1P and S2P
    assert (guest.memory.register(described.smmu) & 1, guest.memory.register(described.smmu) >> 1 & 1) == (
        stages & 1,
        stages >> 1,
    )
    assert list(described.stages) == [name for bit, name in ((2, "s1"), (1, "s2")) if stages & bit]
    have = {
        one.name: (f"0000:{one.address}", str(one.sid) if one.sids else "-")
        for one in described.devices
        if one.driver.startswith("edu") and not one.hotplug
    }
    assert edus(guest) == have
    assert "Aliasing StreamID" not in guest.evidence().console or machine == "smmuv3topo"


@pytest.mark.parametrize("machine", [on("smmuv3topo")])
def test_who_shares_a_group(guest: VirtualGuest, machine: str) -> None:
    found = groups(guest)
    assert {"00:03.0", "00:03.1"} in found
    assert {"00:04.0", "01:01.0"} in found
    assert not [members for members in found if "01:02.0" in members]
    assert "Aliasing StreamID 0x100 (from 0000:01:01.0) unsupported" in guest.evidence().console
    for address in ("00:01.0", "00:02.0", "00:05.0", "00:06.0", "00:07.0", "00:08.0", "00:09.0"):
        assert {address} in found
    assert read(guest, "/sys/class/misc/hw_random/rng_current").startswith("virtio_rng")


@pytest.mark.parametrize("machine", [on("smmuv3ids")])
def test_devices_with_several_ids_work(guest: VirtualGuest, machine: str) -> None:
    found = groups(guest)
    assert {frozenset({"00:03.0", "01:01.0"}), frozenset({"00:04.0", "02:01.0"})} <= found
    assert {frozenset({"a003c00.virtio_mmio"}), frozenset({"a003e00.virtio_mmio"})} <= found
    assert guest.machine.scratch is not None
    page, size = guest.machine.scratch[0], 4096
    for name, arrives in (("edu2", True), ("edu3", True), ("edu1", False)):
        guest.memory.write(page, bytes(size))
        lines = (f"domain {name} dev={name}", f"map {name} 0x1000000 {page:#x} 4K rw", f"attach {name} {name}")
        batch = "\n".join([*lines, f"dma {name} write 0x1000000 16 seed=1"])
        (result,) = guest.run([ops.write_file(f"{MODULE}/control", batch.encode())]).results
        assert result.ok
        assert any(guest.memory.read(page, 16)) is arrives


@pytest.mark.parametrize("machine", [on("smmuv3topo")])
def test_devices_come_and_go(guest: VirtualGuest, machine: str) -> None:
    before, at_boot = groups(guest), edus(guest)
    assert not guest.devices.present("edu6")
    for _ in range(2):
        guest.devices.add("edu6")
        assert edus(guest)["edu6"] == ("0000:02:00.0", str(0x200))
        assert groups(guest) - before == {frozenset({"02:00.0"})}
        guest.pause()
        guest.devices.remove("edu6")
        assert not guest.devices.present("edu6")
        assert (groups(guest), edus(guest)) == (before, at_boot)
    guest.devices.add("edu6")
    guest.devices.add(guest.machine.device("edu7"))
    assert edus(guest)["edu7"] == ("0000:03:00.0", str(0x300))
    with pytest.raises(SetupError, match="Duplicate device ID 'edu6'"):
        guest.devices.add("edu6")
    with pytest.raises(SetupError, match="'edu9' not found"):
        guest.devices.remove("edu9")
    with pytest.raises(SetupError, match="has no device edu9"):
        guest.devices.add("edu9")


@pytest.mark.parametrize("machine", [on("smmuv3topo")])
def test_a_guest_that_does_not_take_part(guest: VirtualGuest, machine: str) -> None:
    (result,) = guest.run([ops.write_file("/sys/bus/pci/drivers/pcieport/unbind", b"0000:00:08.0")]).results
    assert result.ok
    with pytest.raises(KernelHang, match="no driver bound to edu6 within 1 s"):
        guest.devices.add("edu6", timeout=1)


@pytest.mark.parametrize("machine", [on("smmuv3ids")])
def test_a_qemu_that_does_not_tell_its_device_tree(boot: Boot, machine: str) -> None:
    from dataclasses import replace

    bad = replace(boot, machine=replace(boot.machine, qemu_machine="no-such-board"))
    with pytest.raises(SetupError, match="does not dump the device tree of machine smmuv3ids: .*no-such-board"):
        bad.device_tree()
