# SPDX-License-Identifier: GPL-2.0-only
"""DMA that the host starts: iommu-testdev in the group of a device that the test module drives."""

from __future__ import annotations

import pytest

from pytest_iommu.guest import ops
from pytest_iommu.guest.testdev import PATTERN, Probe, TestDevice
from pytest_iommu.guest.virtual import VirtualGuest

CONTROL = "/sys/kernel/debug/iommu_ptdump_test/control"
IOVA, PAGE = 0x7654321000, 4096


@pytest.fixture
def testdev(guest: VirtualGuest) -> TestDevice:
    if "testdev0" not in [device.name for device in guest.machine.devices]:
        pytest.skip("this QEMU has no iommu-testdev: --iommu-qemu=fetched:11")
    return TestDevice(guest.memory, guest.machine, "testdev0")


def tell(guest: VirtualGuest, *lines: str) -> None:
    (result,) = guest.run([ops.write_file(CONTROL, "\n".join(lines).encode())]).results
    assert result.ok, ops.errno_name(result.value)


@pytest.mark.parametrize("stage", [1, 2])
def test_probes_follow_the_domain_of_the_group(guest: VirtualGuest, testdev: TestDevice, stage: int) -> None:
    assert guest.machine.scratch is not None
    page = guest.machine.scratch[0] + PAGE
    blank = bytes(2 * PAGE)
    assert testdev.probe(IOVA, page) is Probe.WRITE_FAULT  # the group is blocked: nothing is attached

    tell(guest, f"domain d dev=edu2 stage={stage}", f"map d {IOVA:#x} {page:#x} 4K rw")
    tell(guest, f"map d {IOVA + PAGE:#x} {page + PAGE:#x} 4K r", "attach d edu2")
    assert testdev.probe(IOVA, page) is Probe.OK
    assert guest.memory.read(page, 8) == PATTERN + bytes(4)

    guest.memory.write(page, blank)
    assert testdev.probe(IOVA, page, PAGE) is Probe.OK
    assert guest.memory.read(page, PAGE) == PATTERN * (PAGE // 4)
    assert guest.memory.read(page + PAGE, PAGE) == bytes(PAGE)

    guest.memory.write(page, blank)
    assert testdev.probe(IOVA, page + 64) is Probe.ELSEWHERE
    assert testdev.probe(IOVA + PAGE, page + PAGE) is Probe.WRITE_FAULT  # may be read only
    assert testdev.probe(IOVA - PAGE, page) is Probe.WRITE_FAULT
    assert guest.memory.read(page + PAGE, PAGE) == bytes(PAGE)

    tell(guest, f"unmap d {IOVA:#x} 4K")
    assert testdev.probe(IOVA, page) is Probe.WRITE_FAULT
    tell(guest, "detach edu2")
    assert testdev.probe(IOVA + PAGE, page) is Probe.WRITE_FAULT


def test_a_paused_guest_is_probed_as_well(guest: VirtualGuest, testdev: TestDevice) -> None:
    assert guest.machine.scratch is not None
    page = guest.machine.scratch[0]
    tell(guest, "domain d dev=edu2 stage=1", f"map d {IOVA:#x} {page:#x} 4K rw", "attach d edu2")
    guest.pause()
    assert testdev.probe(IOVA, page) is Probe.OK
    assert testdev.probe(IOVA + PAGE, page) is Probe.WRITE_FAULT
