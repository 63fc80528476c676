# SPDX-License-Identifier: GPL-2.0-only
"""A memory image with two page tables and a stream table, and what other kernels' dumps would show of them."""

from __future__ import annotations

from pathlib import Path

from synthetic_memory import BASE, SyntheticMemory, Written, write_table

from pytest_iommu.core.model import Prot
from pytest_iommu.formats import configure
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.items import Root
from pytest_iommu.oracle.saved_memory import SavedDomain, save_image

SMMU, SIZE, SID = 0x09050000, 1 << 22, 8
STAGE1, VTD = configure("arm_64_lpae_s1", ias=48, oas=44), configure("vtdss", levels=4)
FLAGS = ("V", "XN", "DBM", "AF", "SH_NS", "SH_OS", "SH_IS", "NS", "NST")


class Saved:
    """An image with a stage-1 table behind stream 8 and a table of VT-d, and the texts that show them truly."""

    def __init__(self, folder: Path) -> None:
        memory = self.memory = SyntheticMemory(SIZE)
        self.arm, self.vtd = self._table(STAGE1), self._table(VTD)
        streams, descriptor, queue = memory.allocate(64 << 5), memory.allocate(64), memory.allocate(32 << 2)
        memory.words(descriptor, [16 | 3 << 30 | 4 << 32 | 1 << 41, self.arm.top, 0, 0xF404FF44])
        memory.words(streams + SID * 64, [descriptor | 0xB])
        for offset, value in ((0x80, streams | 1 << 62), (0x88, 5), (0xA0, queue | 2), (0x100A8, 0)):
            memory.registers[SMMU + offset] = value
        self.image, self._folder, self.descriptor = folder / "ram.img", folder, descriptor
        self.streams = streams
        arm = SavedDomain("arm", STAGE1, self.arm.top, 4, (SID,))
        save_image(memory, BASE, SIZE, SMMU, self.image, [arm, SavedDomain("vtd", VTD, self.vtd.top, 4)])

    def _table(self, config: object) -> Written:
        model = TableModel(config)  # type: ignore[arg-type]
        model.map(0x1000000, 0x40100000, 0x3000, Prot.from_letters("rwc"))
        model.map(0x2000000, 0x40200000, 0x1000, Prot.from_letters("rc"))
        return write_table(self.memory, model.snapshot())

    def vtd_text(self) -> str:
        head = ("IOVA_PFN", "PML5E", "PML4E", "PDPE", "PDE", "PTE")
        text = f"Device 0000:00:02.0 @0x{self.vtd.top:x}\n" + "\t".join(head) + "\n"
        for leaf in self.vtd.expected.leaves():
            items = [0, *(one.raw for one in Root(VTD, self.vtd.top, 4).path(self.memory, leaf.iova))]
            text += f"0x{leaf.iova >> 12:013x} |\t" + "\t".join(f"0x{item:016x}" for item in items) + "\n"
        return text + "\n"

    def v1_text(self, device: str = "0000:00:02.0") -> str:
        rows = []
        for leaf in self.arm.expected.leaves():
            on = {"V", "XN", "AF", *leaf.flags}
            flags = "".join(f"{flag if flag in on else ' ' * len(flag)} " for flag in FLAGS)
            rows.append(f"{leaf.iova:x} - {leaf.last + 1:x}    lvl {3 - leaf.level}  stage ARM_64_LPAE_S1 {flags}")
        head = ["-- domain 1 --", "- group 1", f"  - {device}", "---[ RANGE START ]---"]
        return "\n".join([*head, *rows, "---[ RANGE END   ]---", ""])

    def words(self, address: int) -> list[int]:
        return [self.memory.word(address + 8 * at) for at in range(8)]

    def file(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        return path
