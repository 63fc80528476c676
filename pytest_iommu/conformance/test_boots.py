# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that are booted, or built, another way: debugfs=off, locked down, and without the option at all."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, configured, type_of
from pytest_iommu.check.owners.device_entries import Entries
from pytest_iommu.check.owners.drivers import group, plugged_in, vfio
from pytest_iommu.check.owners.guest_program import Owner, Space
from pytest_iommu.conformance.helpers import FILES, assert_table_in_memory, in_memory
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE, DomainRow
from pytest_iommu.oracle.iommu import PASSES, TRANSLATES
from pytest_iommu.session.hookcalls import listener

LOCKDOWN = "/sys/kernel/security/lockdown"
LEVELS = ("none", "integrity", "confidentiality")
IOVA, OA = 0x31230000, 0x912340000
#: places for open files of the agent
SLOT, LOG = 9, 10
RECORDS = 1000
RANDOM = "/dev/hwrng"
"""Read from a virtio device that is behind the IOMMU."""
#: levels of the kernel's messages
ERROR, WARNING = 3, 4
#: functions of the dump, and of the tables that wait for a grace period, in the kernel itself
OURS = re.compile(r"^\w+ \w (\w*iommu_ptd\w*|ptd_\w+|iommu_free_table_rcu)$", re.MULTILINE)


def messages(guest: GuestHandle) -> Iterator[tuple[int, str]]:
    """What the kernel's log has: level and text of each message."""
    batch = [ops.open_file(LOG, "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), ops.lseek(LOG, 0)]
    reads = [ops.read(LOG, 8192)] * RECORDS
    _, _, *records, _ = guest.run([*batch, *reads, ops.close(LOG)]).results
    for record in records:
        if record.ok:
            head, _, text = ops.text_of(record).partition(";")
            yield int(head.partition(",")[0]) & 7, text.splitlines()[0] if text else ""


def complaints(guest: GuestHandle) -> list[str]:
    """Errors in the kernel's log, and warnings of those who deal with IOMMUs or debugfs."""
    about = re.compile(r"debugfs:|arm-smmu|DMAR|AMD-Vi|iommu[: ]|_ptd_")
    banner = "IOMMU DebugFS SUPPORT HAS BEEN ENABLED"
    return [
        text
        for level, text in messages(guest)
        if level <= ERROR or (level == WARNING and about.search(text) and banner not in text)
    ]


@pytest.fixture
def owner(iommu_guest: GuestHandle) -> Iterator[Owner]:
    """A process that makes domains through VFIO, which takes no debugfs."""
    with Owner(iommu_guest) as started:
        yield started


@pytest.mark.iommu_boot_mode("without-debugfs")
@pytest.mark.iommu_rules("LAY-1", "LAY-4", "FLT-1")
class TestWithoutDebugfs:
    """debugfs=off: the files are not there, and nothing else is missed."""

    @pytest.mark.iommu_rules("HW-1")
    @pytest.mark.iommu_needs(machine="emulated", devices=("rng0",))
    def test_the_machine_works(self, iommu_guest: GuestHandle) -> None:
        assert "debugfs" not in iommu_guest.read("/proc/filesystems").decode().split()
        assert not iommu_guest.run([ops.stat("/sys/kernel/debug")]).results[0].ok
        # That the device answers is DMA through a domain without a directory, or past the IOMMU where the kernel was
        # told so.
        device = iommu_guest.machine.device("rng0")
        with plugged_in(iommu_guest, "rng0"):
            _, random, _ = iommu_guest.run([ops.open_file(SLOT, RANDOM), ops.read(SLOT, 16), ops.close(SLOT)]).results
            assert random.value == len(random.data) == 16
            kind = type_of(iommu_guest, f"/sys/bus/pci/devices/0000:{device.address}")
            assert kind == configured(iommu_guest) or configured(iommu_guest) is None
            if iommu_guest.in_ram is not None and iommu_guest.in_ram.iommu is not None:
                Entries(iommu_guest, "rng0").must_be(PASSES if kind == IDENTITY else TRANSLATES, "is in use")
        assert not complaints(iommu_guest)

    @pytest.mark.iommu_rules("TAB-1", "TAB-4")
    @pytest.mark.iommu_needs(machine="emulated", devices=("edu1",), config=("VFIO_PCI", "VFIO_CONTAINER"))
    def test_domains_come_and_go(self, iommu_guest: GuestHandle, owner: Owner) -> None:
        page = iommu_guest.page
        config = iommu_guest.hardware_table(next(iter(iommu_guest.machine.stages)))
        with vfio(iommu_guest, owner, "edu1") as device:
            for _ in range(3):
                owner.tell(f"container c {group(iommu_guest, device)}")
                space = Space(owner, "c")
                model = space.table("c", config)
                memory = owner.memory("m", 16 * page)
                row = DomainRow("c", "-", ("edu1",), None, model.top + 1)
                space.map(IOVA, memory)
                space.map(2 * IOVA, memory, "r", 0, 4 * page)
                assert in_memory(iommu_guest, model, row) == model.snapshot().ranges
                space.unmap(IOVA)
                assert in_memory(iommu_guest, model, row) == model.snapshot().ranges
                owner.tell("drop m", "drop c")
        assert not complaints(iommu_guest)


def texts(guest: GuestHandle, paths: Sequence[str]) -> list[bytes]:
    """What files have in them; none of them is empty."""
    results = guest.run([ops.read_file(path) for path in paths]).results
    for path, result in zip(paths, results, strict=True):
        assert result.value > 0, f"reading {path} gives {result.value} ({ops.errno_name(result.value)})"
    return [result.data for result in results]


@pytest.mark.iommu_boot_mode("lockdown")
@pytest.mark.iommu_fresh
@pytest.mark.iommu_rules("LAY-5")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", config=("SECURITY_LOCKDOWN_LSM", "SECURITYFS"))
def test_lockdown_allows_reading_and_nothing_else(iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    """A guest of its own: what is locked down stays so, the module's control file as well."""
    iommu = Iommu(iommu_guest, listener(request.node))
    domain = iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    domain.map(IOVA, OA, "64K", "rwc")
    domain.attach("edu0")
    if not iommu_guest.run([ops.stat(LOCKDOWN)]).results[0].ok:
        pytest.skip(f"this kernel has no {LOCKDOWN}")
    paths = [domain.path(file) for file in FILES]
    (listed,) = iommu_guest.run([ops.list_directory(f"{DEBUGFS}/arm_smmu_v3")]).results
    if listed.ok:
        stream = f"{DEBUGFS}/arm_smmu_v3/{ops.text_of(listed).split('/')[0]}/stream_table/8"
        paths += [f"{stream}/{file}" for file in ("ste", "cd")]
    before = texts(iommu_guest, paths)
    for level in LEVELS[1:]:
        iommu_guest.write(LOCKDOWN, level)
        assert f"[{level}]" in iommu_guest.read(LOCKDOWN).decode()
        # It is in force: the module's control file, which may be written, cannot be opened any more.
        (control,) = iommu_guest.run([ops.open_file(SLOT, f"{MODULE}/control", os.O_WRONLY)]).results
        assert ops.errno_name(control.value) == "EPERM"
        assert texts(iommu_guest, paths) == before, f"reading gives something else under {level}"
        iommu.check(domain)
        for path in paths:
            for flags in (os.O_RDWR, os.O_WRONLY):
                opened, _ = iommu_guest.run([ops.open_file(SLOT, path, flags), ops.close(SLOT)]).results
                assert ops.errno_name(opened.value) == "EPERM", f"{path}, {level}, flags {flags}"


@pytest.mark.iommu_rules("LAY-1")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")
def test_the_option_is_there(iommu_guest: GuestHandle) -> None:
    """What test_no_trace_of_the_option looks for is found where it is on."""
    assert iommu_guest.run([ops.list_directory(f"{DEBUGFS}/domains")]).results[0].ok
    assert {"iommu_ptd_add", "iommu_ptd_del"} <= set(OURS.findall(iommu_guest.read("/proc/kallsyms").decode()))


@pytest.mark.iommu_fresh
@pytest.mark.iommu_rules("LAY-2", "LAY-4")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")
def test_nobody_complains_while_booting(iommu_guest: GuestHandle) -> None:
    """debugfs reports a directory or file that is made twice, or in a directory that is gone, in the log alone."""
    assert complaints(iommu_guest) == []


@pytest.mark.iommu_flavour("nodump")
@pytest.mark.iommu_rules("LAY-1", "FLT-2")
class TestOptionOff:
    """CONFIG_IOMMU_PTDUMP_DEBUGFS=n."""

    @pytest.mark.iommu_needs(machine="emulated")
    def test_no_trace_of_the_option(self, iommu_guest: GuestHandle) -> None:
        names = ops.text_of(iommu_guest.run([ops.list_directory(DEBUGFS)]).results[0]).splitlines()
        assert "domains/" not in names
        assert not [name for name in names if name.startswith("arm_smmu_v3")]
        symbols = iommu_guest.read("/proc/kallsyms").decode()
        assert "iommu_put_pages_list" in symbols
        assert not OURS.findall(symbols)
        assert not complaints(iommu_guest)

    @pytest.mark.iommu_needs(machine="emulated", devices=("edu0",))
    @pytest.mark.parametrize("stage", ["s1", "s2"])
    def test_domains_work(self, stage: str, iommu_guest: GuestHandle, iommu: Iommu) -> None:
        domain = iommu.domain(stage=stage)
        assert domain.id == "-", "a domain has a directory without the option"
        domain.attach("edu0")
        scratch = iommu_guest.machine.scratch
        assert scratch is not None
        domain.map(IOVA, scratch[0], "64K", "rwc")
        domain.map(0x80000000, 0x940000000, "2M", "r")
        assert_table_in_memory(iommu_guest, domain)
        if iommu_guest.memory is not None:
            done = iommu.command(f"dma edu0 write {IOVA + 8:#x} 64 seed=7")
            written = bytes(iommu_guest.memory.read(scratch[0] + 8, 64))
            assert int(done["sum"], 0) == zlib.crc32(written)
        domain.unmap(0x80000000, "2M")
        assert_table_in_memory(iommu_guest, domain)
        iommu.command("detach edu0")
        assert not complaints(iommu_guest)
