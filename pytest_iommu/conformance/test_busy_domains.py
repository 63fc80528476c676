# SPDX-License-Identifier: GPL-2.0-only
"""Default domains of devices that do I/O while they are dumped.

QEMU says where a virtio device's rings are: they stay mapped whatever else comes and goes, and what the device has
written there is seen in memory at the address that the dump gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from pytest_iommu.check.handles import GuestHandle, Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, type_of
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.check.owners.guest_program import Owner
from pytest_iommu.core.model import Dump, Range
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.guest import ops

#: at least so many batches; at most so many, for a buffer to be met that is mapped for a moment only
ROUNDS, MOST = 12, 300
#: bytes of each read(2): small ones take long, and much happens meanwhile
CHUNKS = (0, 40, 100, 1000) * 4
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
        status = self._status()
        #: IOVAs of the three rings
        self.iovas = [status[f"vring-{part}"] for part in ("desc", "avail", "used")]

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


@contextmanager
def busy(guest: GuestHandle) -> Iterator[None]:
    """Keeps the device at work."""
    with Owner(guest) as owner:
        owner.tell(f"reader r {RANDOM}")
        yield


def domain_of(guest: GuestHandle) -> str:
    """The id of the domain whose table the SMMU walks for the device. Others may use the same IOVAs."""
    witness = guest.in_ram
    if witness is None or witness.smmu is None:
        pytest.skip("the stream table in memory cannot be read")
    device = guest.machine.device(DEVICE)
    if type_of(guest, f"/sys/bus/pci/devices/0000:{device.address}") == IDENTITY:
        pytest.skip(f"needs a default domain with a table: that of {NAME} is {IDENTITY}")
    found = witness.smmu.table(device.sid)
    assert found is not None, f"the stream of {NAME} leads to no table"
    _, top = found
    numbers = sorted(directories(guest))
    results = guest.run([ops.read_file(f"{DOMAINS}/{number}/info") for number in numbers]).results
    for number, result in zip(numbers, results, strict=True):
        info = guest.dialect.parse({"info": ops.text_of(result)}).info
        if info is not None and info.top == top:
            return number
    raise CheckFailed(f"no domain has the table of {NAME}, which is at 0x{top:x}", ("LAY-2", "INF-3"))


@pytest.mark.iommu_rules("LAY-2", "INF-3", "RNG-1", "RNG-2", "RNG-4", "CON-2", "CON-5")
@pytest.mark.iommu_needs(machine="smmuv3topo", dialect="io_ptdump", devices=(DEVICE,))
def test_a_domain_under_io(iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """Each dump is well formed, and has the rings where they were at first."""
    rings = Rings(iommu_guest)
    number = domain_of(iommu_guest)
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


def seen(guest: GuestHandle, rings: Rings, address: int | None) -> None:
    """At the address given for it the used ring has the index that the device has written last."""
    if guest.memory is None or address is None:
        return
    # QEMU's count and memory must agree in a moment of rest
    for _ in range(50):
        count = rings.used()
        there = int.from_bytes(bytes(guest.memory.read(address + 2, 2)), "little")
        if count == there == rings.used():
            return
    raise CheckFailed(f"no used ring with index {count} at 0x{address:x}, but {there}", ("RNG-4",))
