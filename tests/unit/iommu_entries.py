# SPDX-License-Identifier: GPL-2.0-only
"""What VT-d, AMD's and RISC-V's IOMMU keep in memory: the entries of one requester, which lead to a table."""

from __future__ import annotations

from collections.abc import Callable

from synthetic_memory import SyntheticMemory

from pytest_iommu.core.model import TableConfig
from pytest_iommu.formats import configure
from pytest_iommu.oracle.context_table import ContextTable
from pytest_iommu.oracle.device_directory import DeviceDirectory
from pytest_iommu.oracle.device_table import DeviceTable
from pytest_iommu.oracle.iommu import Iommu

VTD, AMD, RISCV = 0xFED90000, 0xFED80000, 0x3010000
CAP, ECAP, SCALABLE_ECAP = 0xD2008C222F0606, 0xF00F4A, 0x880000F00F4A
REQUESTER = 0x0110
TOP, DOMAIN = 0x5000000, 0x17


class Entries:
    """An IOMMU with one requester on a table at TOP; ``place`` is the address of its last entry."""

    def __init__(self, iommu: Callable[[SyntheticMemory], Iommu], config: TableConfig) -> None:
        self.memory = SyntheticMemory(1 << 22)
        self.place = 0
        self.words: list[int] = []
        self.config = config
        self.iommu = iommu(self.memory)

    def write(self, *words: int) -> None:
        self.words = list(words)
        self.memory.words(self.place, words)

    def change(self, word: int, bits: int) -> None:
        """Change these bits of a word of the entry."""
        words = list(self.words)
        words[word] ^= bits
        self.memory.words(self.place, words)


def legacy() -> Entries:
    found = Entries(lambda memory: ContextTable(memory, VTD), configure("vtdss", levels=4, vasz=48))
    memory = found.memory
    root, contexts = memory.allocate(4096), memory.allocate(4096)
    memory.registers |= {VTD + 8: CAP, VTD + 16: ECAP, VTD + 32: root}
    memory.words(root + (REQUESTER >> 8) * 16, [contexts | 1, 0])
    found.place = contexts + (REQUESTER & 0xFF) * 16
    found.write(TOP | 1, DOMAIN << 8 | 2)
    return found


def scalable(first: bool, requester: int = REQUESTER) -> Entries:
    config = configure("x86_64", levels=4, vasz=48) if first else configure("vtdss", levels=4, vasz=48)
    found = Entries(lambda memory: ContextTable(memory, VTD), config)
    memory = found.memory
    root, contexts, directory, table = (memory.allocate(4096) for _ in range(4))
    memory.registers |= {VTD + 8: CAP, VTD + 16: SCALABLE_ECAP, VTD + 32: root | 1 << 10}
    half, function = divmod(requester & 0xFF, 128)
    memory.words(root + (requester >> 8) * 16 + half * 8, [contexts | 1])
    memory.words(contexts + function * 32, [directory | 1, 0, 0, 0])
    memory.words(directory, [table | 1])
    found.place = table
    if first:
        found.write(2 << 2 | 1 << 6 | 1, DOMAIN, TOP, 0, 0, 0, 0, 0)
    else:
        found.write(TOP | 2 << 2 | 2 << 6 | 1, DOMAIN, 0, 0, 0, 0, 0, 0)
    return found


def amd() -> Entries:
    found = Entries(lambda memory: DeviceTable(memory, AMD), configure("amdv1", levels=3))
    table = found.memory.allocate(1 << 16)
    found.memory.registers |= {AMD: table | 0xF, AMD + 0x30: 0x29D3}
    found.place = table + REQUESTER * 32
    found.write(TOP | 3 << 61 | 3 << 9 | 3, DOMAIN, 0xFFFF, 0xFF)
    return found


def riscv(extended: bool = True) -> Entries:
    config = configure("riscv_64", levels=5, vasz=57, options=("sign_extend", "svnapot", "svpbmt"))
    found = Entries(lambda memory: DeviceDirectory(memory, RISCV), config)
    memory = found.memory
    root, leaf = memory.allocate(4096), memory.allocate(4096)
    capabilities = 0x78E2CF0F10 if extended else 0x78E2CF0F10 & ~(1 << 22)
    memory.registers |= {RISCV: capabilities, RISCV + 16: root >> 12 << 10 | 3}
    lowest, words = (6, 8) if extended else (7, 4)
    memory.words(root + (REQUESTER >> lowest) * 8, [leaf >> 12 << 10 | 1])
    found.place = leaf + (REQUESTER & (1 << lowest) - 1) * 8 * words
    found.write(1, 0, DOMAIN << 12, 10 << 60 | TOP >> 12, *[0] * (words - 4))
    return found


KINDS: dict[str, Callable[[], Entries]] = {
    "legacy": legacy,
    "first": lambda: scalable(first=True),
    "second": lambda: scalable(first=False),
    "amd": amd,
    "riscv": riscv,
    "riscv-base": lambda: riscv(extended=False),
}
