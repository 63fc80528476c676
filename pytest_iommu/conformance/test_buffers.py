# SPDX-License-Identifier: GPL-2.0-only
"""DONE where nobody sees the machine's memory: a device's DMA comes to a buffer of the test module, as the dump says.

The module fills the buffer and looks into it with the processor. So this is tried on every machine that has an edu
behind an IOMMU, local and ssh among them. What is held against it is what the dump says, not what was asked for.
"""

from __future__ import annotations

from itertools import count

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.witnesses.dma import BEFORE, pattern
from pytest_iommu.core.model import Range

pytestmark = [
    pytest.mark.iommu_needs(dialect="io_ptdump", devices=("edu0",)),
    pytest.mark.iommu_rules("RNG-1", "RNG-4", "PRT-1"),
]

DEVICE, BUFFER = "edu0", "b"
BASE, LENGTH = 0x40000000, 16
#: page after page of IOVAs: which page of the buffer, and prot; no two neighbours go on in both, and there are holes
LAYOUT = ((3, "rw"), (0, "rw"), None, (7, "r"), (1, "rw"), (2, "r"), None, (5, "w"), (5, "rw"))
PAGES = 8


@pytest.fixture(params=["s1", "s2"])
def made(request: pytest.FixtureRequest, iommu: Iommu, iommu_guest: GuestHandle) -> tuple[Domain, int]:
    """A domain with that layout, the device on it; and the physical address of the buffer."""
    if request.param not in iommu_guest.machine.stages:
        pytest.skip(f"machine {iommu_guest.machine.name} has no stage {request.param}")
    domain = iommu.domain(stage=request.param, device=DEVICE)
    start = int(iommu.command(f"buffer {BUFFER} {PAGES * domain.page}")["pa"], 0)
    iommu.command(f"fill {BUFFER} {BEFORE:#x}")
    for number, place in enumerate(LAYOUT):
        if place is not None:
            page, prot = place
            domain.map(BASE + number * domain.page, start + page * domain.page, domain.page, prot)
    domain.attach(DEVICE)
    return domain, start


def look(iommu: Iommu, page: int) -> dict[int, bytes]:
    """The beginning of each page of the buffer, by its offset."""
    offsets = range(0, PAGES * page, page)
    return {at: bytes.fromhex(iommu.command(f"peek {BUFFER} {at} {LENGTH}")["data"]) for at in offsets}


def leads(ranges: tuple[Range, ...], iova: int) -> tuple[int, Range] | None:
    """Where the dump says that an IOVA leads, and its line; None where it says nothing of it."""
    return next(((row.oa + iova - row.first, row) for row in ranges if row.first <= iova <= row.last), None)


def test_dma_comes_to_where_the_dump_says(made: tuple[Domain, int], iommu: Iommu) -> None:
    domain, start = made
    ranges = iommu.dump(domain).ranges
    assert ranges
    seeds = count(1)
    there = look(iommu, domain.page)
    for number in range(-1, len(LAYOUT) + 1):
        iova = BASE + number * domain.page
        where = leads(ranges, iova)
        seed = next(seeds)
        iommu.command(f"dma {DEVICE} write {iova:#x} {LENGTH} seed={seed}")
        if where is not None and where[1].prot.write:
            there[where[0] - start] = pattern(seed, LENGTH)
        assert look(iommu, domain.page) == there, f"a write to 0x{iova:x}, of which the dump says {where}"
        got = iommu.command(f"dma {DEVICE} read {iova:#x} {LENGTH} seed={next(seeds)}")["data"]
        held = there.get(where[0] - start) if where is not None and where[1].prot.read else bytes(LENGTH)
        assert bytes.fromhex(got) == held, f"a read of 0x{iova:x}, of which the dump says {where}"
    iommu.check(domain)
