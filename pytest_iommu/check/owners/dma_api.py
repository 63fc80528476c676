# SPDX-License-Identifier: GPL-2.0-only
"""The default domain of a device's group, and what drivers map into it with the DMA API.

The test module maps for edu as a driver does. EXPECTED follows from the direction of the transfers, IN RAM is the table
that the device's entries lead to.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import type_of
from pytest_iommu.check.owners.guest_program import OwnerMemory
from pytest_iommu.check.witnesses.transfers import Transfers
from pytest_iommu.compare.comparison import compare_table
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.guest.testmodule import DomainRow
from pytest_iommu.oracle import TableModel

ALLOWED = {"r": "rxc", "w": "wxc", "rw": "rwxc", "coherent": "rwxc"}
"""Direction -> what is asked for a device that sees the CPU's caches. The DMA API never asks for no execution."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory or registers mapped for the device. ``iova``: what the device is told of the first of ``size`` bytes.

    ``pages``: the physical address of each page that is touched.
    """

    name: str
    iova: int
    size: int
    pages: tuple[int, ...]


class DefaultDomain:
    """The default domain of the group of one device, with a model of what is mapped in it. Skips without memory."""

    def __init__(self, guest: GuestHandle, iommu: Iommu, device: str) -> None:
        self.transfers = Transfers.of(guest, iommu, device)
        self._in_ram = self.transfers.in_ram
        self._guest = guest
        self._iommu = iommu
        self.device = device
        self.page = guest.page
        self.model = TableModel(guest.hardware_table(next(iter(guest.machine.stages))))
        self._unmapped = False

    @property
    def kind(self) -> str:
        """Its type, as sysfs has it."""
        return type_of(self._guest, f"/sys/bus/pci/devices/0000:{self._guest.machine.device(self.device).address}")

    def share(self, name: str, pages: int, direction: str) -> Shared:
        """Map that many pages of new memory for the device; ``direction`` is a key of ALLOWED."""
        return self.share_bytes(name, pages * self.page, direction)

    def share_bytes(
        self, name: str, size: int, direction: str, at: int = 0, apart: bool = False, registers_of: str = ""
    ) -> Shared:
        """Map new memory for the device, from offset ``at`` of its first page on. CheckFailed for a wrong IOVA.

        ``apart``: each page is a piece of its own, with other memory between them. ``registers_of``: not memory, but
        what that device has in BAR 0.
        """
        line = f"share {name} {self.device} {size:#x} {direction}"
        line += f" at={at:#x}" * bool(at) + " pages=apart" * apart + f" to={registers_of}" * bool(registers_of)
        said = self._iommu.command(line)
        made = Shared(name, int(said["iova"], 0), size, tuple(int(one, 0) for one in said["pages"].split(",")))
        if made.iova % self.page != at:
            what = f"{line}: the device is told 0x{made.iova:x}, expected an address 0x{at:x} bytes into a page"
            raise CheckFailed(what, ("TAB-1",), verdict=Verdict.MAPPING, because="what the DMA API returns")
        # Registers are neither coherent nor memory.
        prot = ALLOWED[direction].replace("c", "m") if registers_of else ALLOWED[direction]
        # The DMA API maps what is contiguous in memory at once, so leaves may be larger than a page.
        for offset, address, length in OwnerMemory(name, self.page, made.pages).runs(0, len(made.pages) * self.page):
            self.model.map(made.iova - at + offset, address, length, Prot.from_letters(prot))
        if apart and not _follow(said["segments"], made):
            what = f"{line}: the device is told {said['segments']}, expected 0x{size:x} bytes without a gap"
            raise CheckFailed(what, ("TAB-1",), verdict=Verdict.MAPPING, because="what dma_map_sgtable() returns")
        return made

    def unshare(self, shared: Shared) -> None:
        """Unmap and free it."""
        self._iommu.command(f"unshare {shared.name}")
        self.model.unmap(shared.iova & -self.page, len(shared.pages) * self.page)
        self._unmapped = True

    def check(self) -> None:
        """Compare the leaves in memory with the model. CheckFailed names the rules.

        Of a domain that is as old as the kernel nobody knows which empty tables there are.
        """
        __tracebackhide__ = True
        name = f"the default domain of {self.device}"
        memory = self._in_ram.texts(self.model.config, DomainRow(name, "?", (self.device,)))
        assert memory is not None
        leaves = {"page_table": memory["page_table"]}
        comparison = compare_table(self.model.snapshot(), leaves, self._unmapped)
        if not comparison.ok:
            raise comparison.failure(f"{name}:\n", (name,))


def _follow(segments: str, shared: Shared) -> bool:
    """Whether these segments, each ``iova+length``, are all of it in order."""
    at = shared.iova
    for iova, length in (piece.split("+") for piece in segments.split(",")):
        if int(iova, 0) != at:
            return False
        at += int(length, 0)
    return at == shared.iova + shared.size
