# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel maps in a default domain when a driver asks the DMA API: leaves as the direction of transfers says.

The type of the default domain is the kernel's own: identity domains have no table, lazy ones invalidate later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, LAZY, STRICT, group_of, set_type
from pytest_iommu.check.owners.device_entries import Entries
from pytest_iommu.check.owners.dma_api import ALLOWED, DefaultDomain
from pytest_iommu.check.witnesses.transfers import BYTES
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.iommu import PASSES, PERMISSION, TRANSLATION

pytestmark = pytest.mark.iommu_rules("TAB-1", "TAB-2", "TAB-4", "TLB-1", "ISO-1")

DEVICE = "edu0"
DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
PAGES = 3
MACHINES = [
    pytest.param(name, marks=pytest.mark.iommu_needs(machine=name, devices=(DEVICE,)))
    for name in ("emulated", "smmuv3s1", "smmuv3s2")
]
"""The first one of the run, and Arm's with one stage."""
one_machine = pytest.mark.iommu_needs(machine="emulated", devices=(DEVICE,))
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    # the last bytes are in a page that the size alone, without the offset, does not reach
    "unaligned": (0x1804, {"at": 0x800}),
    "in-pieces": (5 * 0x1000, {"apart": True}),
    "unaligned-in-pieces": (0x2004, {"at": 0x80C, "apart": True}),
    "registers": (0x2000, {"registers_of": "edu1"}),
}
"""For pages of 4K; larger ones are touched by fewer bytes."""


@pytest.fixture
def default(iommu_guest: GuestHandle, iommu: Iommu) -> Iterator[DefaultDomain]:
    """The default domain of the device's group, which nobody has mapped anything in."""
    iommu.command("reset")
    yield DefaultDomain(iommu_guest, iommu, DEVICE)
    if iommu_guest.alive:
        iommu.command("reset")


def with_table(default: DefaultDomain) -> None:
    if default.kind == IDENTITY:
        pytest.skip(f"needs a default domain with a table: this kernel's are {IDENTITY}")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("direction", ALLOWED)
def test_leaves_allow_what_the_direction_needs(direction: str, machine: str, default: DefaultDomain) -> None:
    """Mapped, and unmapped again; beside it another mapping stays that allows other transfers."""
    with_table(default)
    other = default.share("other", 1, "r" if direction != "r" else "rw")
    default.check()
    shared = default.share("b", PAGES, direction)
    default.check()
    default.unshare(shared)
    default.check()
    default.unshare(other)


@one_machine
@pytest.mark.parametrize("direction", ALLOWED)
def test_transfers_go_where_the_direction_allows(direction: str, default: DefaultDomain) -> None:
    """Where a format has no leaf for writing alone, a device can read what it only has to write."""
    with_table(default)
    shared = default.share("b", PAGES, direction)
    (prot,) = {line.prot for line in default.model.snapshot().ranges}
    ends = [(shared.iova + number * default.page, shared.pages[number]) for number in (0, PAGES - 1)]
    # What is refused comes first: of what it has cached, QEMU's VT-d reports no refusal.
    for allowed, how in sorted(((prot.read, "read"), (prot.write, "write"))):
        for iova, address in ends:
            default.transfers.hold(how, iova, "" if allowed else PERMISSION, at=address)
    default.check()
    if default.kind != STRICT:
        return  # the IOMMU may hold a copy of what was unmapped for a while
    keeps = default.share("keeps", 1, "rw")  # the group stays on its default domain
    default.unshare(shared)
    default.check()
    for iova, _ in ends:
        default.transfers.hold("write", iova, TRANSLATION, rule="TLB-1")
    default.transfers.hold("write", keeps.iova, at=keeps.pages[0])


@pytest.mark.iommu_needs(machine="emulated", devices=(DEVICE, "edu1"))
@pytest.mark.parametrize("direction", ["r", "w", "rw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_is_touched_is_mapped(shape: str, direction: str, default: DefaultDomain) -> None:
    """Whole pages from the first byte to the last, the pieces of a scatterlist in order, registers as such."""
    with_table(default)
    keeps = default.share("keeps", 1, "w")
    size, how = SHAPES[shape]
    shared = default.share_bytes("b", size, direction, **how)
    default.check()
    if direction != "r" and shape != "registers":
        at = shared.iova % default.page
        default.transfers.hold("write", shared.iova, at=shared.pages[0] + at)
        last = at + size - BYTES
        end = shared.pages[last // default.page] + last % default.page
        default.transfers.hold("write", shared.iova + size - BYTES, at=end)
    default.unshare(shared)
    default.check()
    default.unshare(keeps)


@one_machine
def test_a_lazy_domain_is_empty_in_memory_at_once(iommu_guest: GuestHandle, default: DefaultDomain) -> None:
    """Its invalidations come later, its unmaps do not (iommu.strict=0)."""
    if default.kind == IDENTITY:
        pytest.skip(f"needs a default domain with a table: this kernel's are {IDENTITY}")
    if default.kind == STRICT:
        # There is no way back while devices are in use; the guest goes after the test.
        iommu_guest.write(f"{group_of(iommu_guest, address(iommu_guest))}/type", LAZY)
    shared = default.share("b", PAGES, "rw")
    keeps = default.share("keeps", 1, "w")
    default.check()
    default.unshare(shared)
    default.check()
    default.unshare(keeps)


@one_machine
def test_an_identity_domain_maps_nothing(iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """The device's DMA goes past the tables, and it is told physical addresses."""
    iommu.command("reset")
    default = DefaultDomain(iommu_guest, iommu, DEVICE)
    place, entries = address(iommu_guest), Entries(iommu_guest, DEVICE)
    kind, at_boot = f"{group_of(iommu_guest, place)}/type", default.kind
    name = place.rpartition("/")[2]
    iommu_guest.write(f"{DRIVER}/unbind", name)
    set_type(iommu_guest, kind, IDENTITY)
    iommu_guest.write(f"{DRIVER}/bind", name)
    try:
        said = iommu.command(f"share b {DEVICE} {default.page:#x} rw")
        if said["iova"] != said["pages"]:
            what = f"the device is told 0x{int(said['iova'], 0):x} for memory at {said['pages']}"
            raise CheckFailed(
                what, ("TAB-1",), verdict=Verdict.MAPPING, because="its default domain is an identity domain"
            )
        entries.must_be(PASSES, "is on an identity domain")
        default.transfers.hold("write", int(said["iova"], 0), at=int(said["pages"], 0))
        iommu.command("unshare b")
    finally:
        if iommu_guest.alive:
            iommu.command("reset")
            iommu_guest.write(f"{DRIVER}/unbind", name)
            iommu_guest.write(kind, at_boot)
            iommu_guest.write(f"{DRIVER}/bind", name)


def address(guest: GuestHandle) -> str:
    """The device's directory in sysfs."""
    return f"/sys/bus/pci/devices/0000:{guest.machine.device(DEVICE).address}"
