# SPDX-License-Identifier: GPL-2.0-only
"""However a guest ends, it is named, in time, with its evidence, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.guest import ops
from pytest_iommu.guest.virtual import NO_GRANULE, VirtualGuest
from pytest_iommu.targets.qemu import Boot, QemuTarget

READ = [ops.read_file("/proc/version")]


def test_a_guest_answers_and_stands_still_when_paused(guest: VirtualGuest) -> None:
    assert guest.run(READ).results[0].data.startswith(b"Linux version")
    guest.pause()
    before = _cpu_seconds(guest.child.pid)
    time.sleep(0.5)
    assert _cpu_seconds(guest.child.pid) - before < 0.1
    assert guest.run(READ).results[0].ok


def test_a_killed_qemu(guest: VirtualGuest) -> None:
    os.kill(guest.child.pid, signal.SIGKILL)
    with pytest.raises(GuestLost, match="was killed by SIGKILL") as caught:
        guest.run(READ)
    _shows_the_guest(caught.value)


def test_a_stopped_qemu(guest: VirtualGuest) -> None:
    os.kill(guest.child.pid, signal.SIGSTOP)
    with pytest.raises(GuestLost, match="its process is stopped") as caught:
        guest.run(READ, timeout=1)
    _shows_the_guest(caught.value)


def test_a_panic(guest: VirtualGuest) -> None:
    with pytest.raises(KernelCrash, match="Kernel panic - not syncing: sysrq triggered crash") as caught:
        guest.run([ops.write_file("/proc/sysrq-trigger", b"c")])
    _shows_the_guest(caught.value)
    assert caught.value.evidence is not None
    assert "sysrq triggered crash" in caught.value.evidence.splat


def test_a_hang(guest: VirtualGuest) -> None:
    with pytest.raises(KernelHang, match="did not answer within 1 s; QEMU reports that the guest is running") as caught:
        guest.run([ops.sleep(10**8)], timeout=1)
    _shows_the_guest(caught.value)
    assert caught.value.evidence is not None
    assert b"PC=" in caught.value.evidence.files["registers.txt"]


def test_a_guest_that_powers_off(guest: VirtualGuest) -> None:
    with pytest.raises(GuestLost, match="QEMU ended with status 0"):
        guest.run([ops.poweroff()])


def test_a_closed_guest_keeps_its_evidence(guest: VirtualGuest) -> None:
    pid = guest.child.pid
    guest.close()
    guest.close()
    assert not Path(f"/proc/{pid}").exists()
    assert "qemu" in guest.evidence().command
    with pytest.raises(GuestLost, match="was closed"):
        guest.run(READ)


def test_nothing_stays_open(boot: Boot) -> None:
    QemuTarget(boot).start().close()
    before = sorted(os.listdir("/proc/self/fd"))
    QemuTarget(boot).start().close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_qemu_that_refuses_its_arguments(boot: Boot) -> None:
    with pytest.raises(SetupError, match=r"QEMU did not start: it ended with status 1; it said: .*-no-such-option"):
        QemuTarget(replace(boot, arguments=["-no-such-option"])).start()


def test_a_qemu_that_is_not_there(boot: Boot) -> None:
    with pytest.raises(SetupError, match=r"cannot start|did not start: it ended with status 127"):
        QemuTarget(replace(boot, program=["/nowhere/qemu"])).start()


def test_more_memory_than_there_is(boot: Boot) -> None:
    machine = replace(boot.machine, memory=1 << 50)
    with pytest.raises(SetupError, match=r"machine \w+ needs \d+ MiB, \d+ MiB are available") as caught:
        QemuTarget(replace(boot, machine=machine)).start()
    assert "command: " in caught.value.message


def test_a_kernel_that_does_not_boot(boot: Boot) -> None:
    # -S: the processor never runs its first instruction
    with pytest.raises(SetupError, match="the kernel does not boot: .* within 1 s; .*; it printed nothing"):
        QemuTarget(replace(boot, arguments=["-S"]), timeout=1).start()


def test_a_processor_without_the_pages_of_the_kernel(boot: Boot, tmp_path: Path) -> None:
    """All that such a kernel comes to: the loop of __no_granule_support. It is seen long before the time-out."""
    image = bytearray(4096)
    # b 64; text_offset 0, image_size 64K, flags: 16K pages
    struct.pack_into("<IIQQQ", image, 0, 0x14000010, 0, 0, 1 << 16, 0b100)
    image[56:60] = b"ARM\x64"
    image[64 : 64 + len(NO_GRANULE)] = NO_GRANULE
    (tmp_path / "Image").write_bytes(image)
    with pytest.raises(SetupError, match="the processor lacks the pages that it is configured for .-cpu cortex-a57"):
        QemuTarget(replace(boot, kernel=str(tmp_path / "Image"))).start()


def test_a_kernel_that_panics_and_stays(boot: Boot) -> None:
    with pytest.raises(SetupError, match="the kernel does not boot: panic and then hung: Kernel panic"):
        QemuTarget(replace(boot, append="rdinit=/nowhere init=/nowhere panic=0"), timeout=5).start()


def test_a_kernel_that_panics_while_booting(boot: Boot) -> None:
    with pytest.raises(SetupError, match="the kernel does not boot: panic while booting: Kernel panic"):
        QemuTarget(replace(boot, append="rdinit=/nowhere init=/nowhere")).start()


def test_a_kernel_that_breaks_while_booting(boot: Boot) -> None:
    """Drivers register with a bus that is not there: an oops is the kernel's, however early it comes."""
    with pytest.raises(KernelCrash, match="oops while booting: Unable to handle kernel NULL pointer"):
        QemuTarget(replace(boot, append="initcall_blacklist=pci_driver_init")).start()


def test_a_kernel_without_a_driver_for_the_iommu(boot: Boot) -> None:
    with pytest.raises(SetupError, match="the kernel drives no IOMMU of this machine: /sys/class/iommu is empty"):
        QemuTarget(replace(boot, append="initcall_blacklist=arm_smmu_driver_init")).start()


def _shows_the_guest(error: IommuError) -> None:
    assert error.evidence is not None
    assert "-machine virt" in error.evidence.command
    assert "Linux version" in error.evidence.files["console.txt"].decode()


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
