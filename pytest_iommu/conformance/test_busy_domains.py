# SPDX-License-Identifier: GPL-2.0-only
"""Default domains of devices that do I/O while they are dumped.

QEMU says where a virtio device's rings are: they stay mapped whatever else comes and goes, and what the device has
written there is seen in memory at the address that the dump gives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import table_of
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.check.owners.drivers import plugged_in
from pytest_iommu.check.owners.guest_program import Owner
from pytest_iommu.check.witnesses.in_ram import ranges_of
from pytest_iommu.core.model import Dump, Range
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DomainRow

#: at least so many batches; at most so many, for a buffer to be met that is mapped for a moment only
ROUNDS, MOST = 12, 300
#: bytes of each read(2): small ones take long, and much happens meanwhile
CHUNKS = (0, 40, 100, 1000) * 4
PATIENCE = 30.0
"""Seconds in which a device that is asked for data has given some."""
RANDOM = "/dev/hwrng"
NAME, DEVICE = "virtio-rng", "rng0"
"""QEMU's word for the device, and its name."""


class Rings:
    """The queue that the device's data goes through."""

    def __init__(self, guest: GuestHandle) -> None:
        self._guest = guest
        found = [row["path"] for row in guest.ask_qemu("x-query-virtio") if row["name"] == NAME]
        assert len(found) == 1, f"one {NAME} is needed, there are {found}"
        self._path, self._queue = found[0], 0
        #: IOVAs of the three rings
        self.iovas = self._places()

    def _places(self) -> list[int]:
        """Wait until the driver has told the device, which it does some time after the device is there."""
        deadline = Deadline(PATIENCE)
        while True:
            status = self._status()
            found = [status[f"vring-{part}"] for part in ("desc", "avail", "used")]
            if any(found) or deadline.over:
                return found
            time.sleep(0.01)

    def _status(self) -> dict[str, int]:
        status: dict[str, int] = self._guest.ask_qemu("x-query-virtio-queue-status", path=self._path, queue=self._queue)
        return status

    def used(self) -> int:
        """How many buffers the device has given back, modulo 2^16."""
        return self._status()["used-idx"]


def translated(dump: Dump, iova: int) -> int | None:
    """Where a dump says that an IOVA leads, if anywhere."""
    for line in dump.ranges or ():
        if line.first <= iova <= line.last:
            return line.oa + iova - line.first
    return None


def ordered(ranges: tuple[Range, ...]) -> None:
    """RNG-2, also of a table that changes."""
    for line in ranges:
        if line.first > line.last:
            raise CheckFailed(f"0x{line.first:x} is behind 0x{line.last:x}", ("RNG-2", "CON-5"))
    for before, after in pairwise(ranges):
        if after.first <= before.last:
            raise CheckFailed(f"0x{after.first:x} comes after 0x{before.last:x}", ("RNG-2", "CON-5"))


@pytest.fixture
def device(iommu_guest: GuestHandle) -> Iterator[None]:
    """The virtio device with its driver."""
    with plugged_in(iommu_guest, DEVICE):
        yield


@contextmanager
def busy(guest: GuestHandle) -> Iterator[None]:
    """Keeps the device at work."""
    with Owner(guest) as owner:
        owner.tell(f"reader r {RANDOM}")
        yield


def in_ram(guest: GuestHandle, name: str) -> Mapping[str, str]:
    """The files that a true dump of the default domain of a device has; its entries are as they must be."""
    witness, config, _ = table_of(guest, name)
    wanted = guest.hardware_table(next(iter(guest.machine.stages)))
    texts = witness.texts(wanted, DomainRow(name, "-", (name,), None, config.levels))
    assert texts is not None
    return texts


def domain_of(guest: GuestHandle, name: str) -> str:
    """The id of the domain whose table the IOMMU walks for a device. Others may use the same IOVAs."""
    _, _, top = table_of(guest, name)
    numbers = sorted(directories(guest))
    results = guest.run([ops.read_file(f"{DOMAINS}/{number}/info") for number in numbers]).results
    for number, result in zip(numbers, results, strict=True):
        info = guest.dialect.parse({"info": ops.text_of(result)}).info
        if info is not None and info.top == top:
            return number
    raise CheckFailed(f"no domain has the table of {name}, which is at 0x{top:x}", ("LAY-2", "INF-3"))


@pytest.mark.iommu_rules("LAY-2", "INF-3", "RNG-1", "RNG-2", "RNG-4", "CON-2", "CON-5")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=(DEVICE,))
def test_a_domain_under_io(iommu_guest: GuestHandle, device: None, iommu: Iommu) -> None:
    """Each dump is well formed, and has the rings where they were at first."""
    rings = Rings(iommu_guest)
    number = domain_of(iommu_guest, DEVICE)
    places: set[tuple[int | None, ...]] = set()
    changes: set[bytes] = set()
    began = rings.used()
    with busy(iommu_guest):
        for count in range(MOST):
            if count >= ROUNDS and len(changes) > 1:
                break
            reads = [ops.read_file(f"{DOMAINS}/{number}/page_table", chunk) for chunk in CHUNKS]
            listings = [ops.read_file(f"{DOMAINS}/{number}/{file}", CHUNKS[-1]) for file in ("entries", "stats")]
            results = iommu_guest.run([*reads, *listings], timeout=30).results
            for result in results[: len(CHUNKS)]:
                dump = iommu_guest.dialect.parse({"page_table": ops.text_of(result)})
                ordered(dump.ranges or ())
                places.add(tuple(translated(dump, iova) for iova in rings.iovas))
                changes.add(result.data)
            texts = {file: ops.text_of(result) for file, result in zip(("entries", "stats"), results[-2:], strict=True)}
            iommu_guest.dialect.parse(texts)
        ended = rings.used()
    assert ended != began, "the device did nothing meanwhile"
    assert len(changes) > 1, "no dump met a buffer that comes or goes"
    if len(places) != 1 or any(None in place for place in places):
        raise CheckFailed(f"the rings at {rings.iovas} are seen in different places: {places}", ("CON-2",))
    (place,) = places
    seen(iommu_guest, rings, place[2])


@pytest.mark.iommu_rules("HW-1", "TAB-1", "TAB-2")
@pytest.mark.iommu_needs(machine="emulated", devices=(DEVICE,))
def test_the_rings_of_a_device_in_memory(iommu_guest: GuestHandle, device: None) -> None:
    """Where the table in memory leads to, the device has written its index; with a dump or without."""
    rings = Rings(iommu_guest)
    with busy(iommu_guest):
        deadline = Deadline(PATIENCE)
        while rings.used() < 2:
            assert not deadline.over, "the device does nothing"
            iommu_guest.run([ops.sleep(10)])
    found = Dump(ranges=tuple(ranges_of(in_ram(iommu_guest, DEVICE))))
    places = [translated(found, iova) for iova in rings.iovas]
    if None in places:
        raise CheckFailed(f"no memory is mapped for the rings at {rings.iovas}: {places}", ("TAB-1",))
    seen(iommu_guest, rings, places[2], "TAB-1")
    writable = [line.prot.write for line in found.ranges or () if line.first <= rings.iovas[2] <= line.last]
    if writable != [True]:
        raise CheckFailed(f"the device cannot write to its used ring at 0x{rings.iovas[2]:x}", ("TAB-2",))


@pytest.mark.iommu_rules("ENT-1", "LAY-2", "HW-1")
@pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump", devices=("serial0",))
def test_a_domain_with_the_buffers_of_a_driver(iommu_guest: GuestHandle) -> None:
    """A domain of the DMA API: the driver mapped page by page, where the kernel chose."""
    with plugged_in(iommu_guest, "serial0"):
        before = set(in_ram(iommu_guest, "serial0")["entries"].splitlines())
        number = domain_of(iommu_guest, "serial0")
        shown = set(iommu_guest.read(f"{DOMAINS}/{number}/entries").decode().splitlines())
        stays = before & set(in_ram(iommu_guest, "serial0")["entries"].splitlines())
    assert len(stays) > 20, "the device has no buffers mapped"
    missing = stays - shown
    if missing:
        raise CheckFailed(f"in memory before and after, and not in the dump: {sorted(missing)}", ("ENT-1",))


def seen(guest: GuestHandle, rings: Rings, address: int | None, rule: str = "RNG-4") -> None:
    """At the address given for it the used ring has the index that the device has written last."""
    if guest.memory is None or address is None:
        return
    # QEMU's count and memory must agree in a moment of rest
    for _ in range(50):
        count = rings.used()
        there = int.from_bytes(bytes(guest.memory.read(address + 2, 2)), "little")
        if count == there == rings.used():
            return
    raise CheckFailed(f"no used ring with index {count} at 0x{address:x}, but {there}", (rule,))
