# SPDX-License-Identifier: GPL-2.0-only
"""Commands of an SMMUv3: their fields, and the queue that they are read back from."""

from __future__ import annotations

import pytest
from synthetic_memory import SyntheticMemory

from pytest_iommu.formats.smmuv3_commands import Command, decode_command
from pytest_iommu.oracle.command_queue import CMDQ_BASE, CMDQ_PROD, CommandQueue

SMMU = 0x09050000


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ((0x3 | 8 << 32, 1), Command("CFGI_STE", (8, 8), leaf=True)),
        ((0x4, 31), Command("CFGI_STE_RANGE", (0, (1 << 32) - 1))),
        ((0x4 | 0x208 << 32, 2), Command("CFGI_STE_RANGE", (0x208, 0x20F))),
        ((0x5 | 3 << 12 | 16 << 32, 1), Command("CFGI_CD", (16, 16), 3, leaf=True)),
        ((0x6 | 16 << 32, 0), Command("CFGI_CD_ALL", (16, 16))),
        ((0x11 | 7 << 48, 0), Command("TLBI_NH_ASID", asid=7, vmid=0)),
        ((0x10 | 2 << 32, 0), Command("TLBI_NH_ALL", vmid=2)),
        ((0x28 | 5 << 32, 0), Command("TLBI_S12_VMALL", vmid=5)),
        ((0x30, 0), Command("TLBI_NSNH_ALL")),
        ((0x46, 0), Command("SYNC")),
        ((0x99, 0), Command("0x99")),
        # one address, no range: its level hint means nothing
        ((0x12 | 9 << 48, 0x31230000 | 1 | 3 << 8), Command("TLBI_NH_VA", None, None, 9, 0, 0x31230000, None, True)),
        # (2 + 1) * 2^0 pages of 4K
        (
            (0x12 | 2 << 12 | 9 << 48, 0x31230000 | 1 << 10 | 3 << 8 | 1),
            Command("TLBI_NH_VA", None, None, 9, 0, 0x31230000, 0x31232FFF, True, 3),
        ),
        # (0 + 1) * 2^9 pages of 4K, items above the leaf as well
        (
            (0x2A | 9 << 20 | 4 << 32, 0x40000000 | 1 << 10),
            Command("TLBI_S2_IPA", None, None, None, 4, 0x40000000, 0x401FFFFF, False),
        ),
        # (1 + 1) * 2^1 pages of 64K
        (
            (0x12 | 1 << 12 | 1 << 20 | 1 << 48, 0x10000 | 3 << 10),
            Command("TLBI_NH_VA", None, None, 1, 0, 0x10000, 0x4FFFF, False),
        ),
    ],
)
def test_fields(words: tuple[int, int], command: Command) -> None:
    assert decode_command(words) == command


def test_a_command_as_text() -> None:
    assert str(Command("CFGI_STE_RANGE", (8, 15))) == "CFGI_STE_RANGE SID 8-15"
    text = "TLBI_NH_VA ASID 9 VMID 0 0x1000-0x1fff leaf 1 TTL 3"
    assert str(Command("TLBI_NH_VA", None, None, 9, 0, 0x1000, 0x1FFF, True, 3)) == text


class Queue:
    """A queue of eight commands in memory; every SYNC has its number as its second word."""

    def __init__(self) -> None:
        self.memory = SyntheticMemory()
        self.at = self.memory.allocate(4096)
        self.memory.registers[SMMU + CMDQ_BASE[0]] = self.at | 3
        self.prod = 0

    def put(self, *asids: int) -> None:
        for asid in asids:
            self.memory.words(self.at + self.prod % 8 * 16, (0x11 | asid << 48, 0))
            self.prod = (self.prod + 1) % 16
        self.memory.registers[SMMU + CMDQ_PROD[0]] = self.prod


def new(reader: CommandQueue) -> list[int | None] | None:
    found = reader.new()
    return None if found is None else [one.asid for one in found]


def test_commands_since_the_last_look() -> None:
    queue = Queue()
    reader = CommandQueue(queue.memory, SMMU)
    queue.put(1, 2)
    reader.skip()
    assert new(reader) == []
    queue.put(3, 4, 5)
    assert new(reader) == [3, 4, 5]
    queue.put(6, 7, 8, 9, 10)
    assert new(reader) == [6, 7, 8, 9, 10], "around the end"
    queue.put(*range(8))
    assert new(reader) == list(range(8)), "a full one"
    queue.put(*range(9))
    assert new(reader) is None, "the first of them is overwritten"
    assert (SMMU + CMDQ_PROD[0], 4) in queue.memory.sizes
    assert (SMMU + CMDQ_BASE[0], 8) in queue.memory.sizes


def test_a_queue_that_is_not_in_ram() -> None:
    queue = Queue()
    queue.put(1)
    queue.memory.registers[SMMU + CMDQ_BASE[0]] = 0x80000000 | 3
    assert new(CommandQueue(queue.memory, SMMU)) is None
