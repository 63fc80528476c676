# SPDX-License-Identifier: GPL-2.0-only
"""A table that the kernel gives to the hardware in a wrong way is the kernel's fault, and never the dump's."""

from __future__ import annotations

import buggy_kernel as kernel
import pytest
from synthetic_memory import SyntheticMemory, write_table

from pytest_iommu.check import reading
from pytest_iommu.check.witnesses.in_ram import InRam
from pytest_iommu.core import machines
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Result
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.formats import configure
from pytest_iommu.guest.testmodule import DomainRow
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.stream_table import SmmuV3
from pytest_iommu.scenario import Check

MACHINE = machines.get("smmuv3")
SMMU = MACHINE.smmu or 0
S1 = configure("arm_64_lpae_s1", ias=48, oas=44)
S2 = configure("arm_64_lpae_s2", ias=44, oas=44)
MAIR = 0xF404FF44
CD_WORD = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 7 << 45 | 9 << 48
VTCR = 20 | 2 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 4 << 16


class Board:
    """A table in memory, and edu0's stream that leads to it."""

    def __init__(self, config: TableConfig) -> None:
        self.memory = SyntheticMemory()
        model = TableModel(config)
        model.map(0x1000000, 0x41005000, 0x3000, Prot.from_letters("rw"))
        self.expected = model.snapshot()
        self.top = write_table(self.memory, self.expected).top
        self.streams = self.memory.allocate(64 << 8)
        self.cds = self.memory.allocate(4096)
        self.memory.registers |= {SMMU + 0x80: self.streams, SMMU + 0x88: 8}
        self.memory.registers |= {SMMU + at: MACHINE.ids[f"idr{at // 4}"] for at in (0, 4, 0xC, 0x14)}
        words = [0xD, 0, 5 | VTCR << 32 | 1 << 51 | 1 << 54 | 1 << 58, self.top, 0, 0, 0, 0]
        if config is S1:
            words = [self.cds | 0xB, 2 | 1 << 2 | 1 << 4 | 3 << 6, 0, 0, 0, 0, 0, 0]
            self.memory.words(self.cds, [CD_WORD, self.top, 0, MAIR, 0, 0, 0, 0])
        self.memory.words(self.streams + 8 * 64, words)
        self.witness = InRam(self.memory, MACHINE, SmmuV3(self.memory, SMMU))
        self.row = DomainRow("d", "3", ("edu0",), self.top, config.levels)

    def flip(self, address: int, mask: int) -> None:
        self.memory.words(address, [self.memory.word(address) ^ mask])

    def failure(self) -> CheckFailed:
        with pytest.raises(CheckFailed) as caught:
            self.witness.texts(self.expected.config, self.row)
        return caught.value

    def detached(self, levels: int | None = None, top: int | None = None) -> None:
        self.row = DomainRow("d", "3", (), top or self.top, levels or self.expected.config.levels)


@pytest.mark.parametrize("config", [S1, S2], ids=["s1", "s2"])
def test_as_it_must_be(config: TableConfig) -> None:
    board = Board(config)
    texts = board.witness.texts(config, board.row)
    assert texts is not None
    assert texts["page_table"] == kernel.texts(board.expected)["page_table"]


@pytest.mark.parametrize(
    ("config", "mask", "what"),
    [
        (S1, 1 << 31, "V is 0x0, must be 0x1"),
        (S1, 1 << 5, "T0SZ is 0x30, must be 0x10"),
        (S1, 1 << 14, "EPD0 is 0x1, must be 0x0"),
        (S1, 3 << 6, "TG0 is 0x3, must be 0x0"),
        (S1, 1 << 41, "AA64 is 0x0, must be 0x1"),
        (S2, 1 << 37, "S2T0SZ is 0x34, must be 0x14"),
        (S2, 1 << 38, "S2SL0 is 0x3, must be 0x2"),
        (S2, 3 << 46, "S2TG is 0x3, must be 0x0"),
        (S2, 1 << 51, "S2AA64 is 0x0, must be 0x1"),
    ],
    ids=lambda value: value.partition(" ")[0] if isinstance(value, str) else "",
)
def test_words_that_the_smmu_refuses_are_named(config: TableConfig, mask: int, what: str) -> None:
    """It would report C_BAD_CD or C_BAD_STE; that no table is found says less than the field."""
    board = Board(config)
    board.flip(board.cds if config is S1 else board.streams + 8 * 64 + 16, mask)
    error = board.failure()
    assert error.rules == ("HW-2" if config is S1 else "HW-1",)
    assert what in error.message
    assert error.verdict is Verdict.ENTRIES
    assert error.table == "stream table"


def test_an_ste_without_a_table() -> None:
    """A stream that bypasses the SMMU, one that is blocked, and what may be left there."""
    board = Board(S1)
    smmu = board.witness.smmu
    assert smmu is not None
    assert smmu.ste(8) is not None
    for config in (0b1001, 0b0001):
        board.memory.words(board.cds, [0])
        board.memory.words(board.streams + 8 * 64, [config, 0, 0, 0, 0, 0, 0, 0])
        assert list(smmu.wrong_without_table(8)) == []
        board.memory.words(board.streams + 8 * 64 + 24, [board.top])
        ((rule, what),) = smmu.wrong_without_table(8)
        assert rule == ("HW-1" if config == 0b1001 else "HW-5")
        assert "S2TTB" in what
        board.memory.words(board.streams + 8 * 64 + 24, [0])
        board.memory.words(board.cds, [CD_WORD])
        assert [rule for rule, _ in smmu.wrong_without_table(8)] == ["HW-5"]
        assert list(smmu.wrong_without_table(8, present=False)) == []


@pytest.mark.parametrize("config", [S1, S2], ids=["s1", "s2"])
@pytest.mark.parametrize("levels", [1, 2, 3, 5, 6, 7])
def test_a_number_of_levels_that_the_table_cannot_have(config: TableConfig, levels: int) -> None:
    """What SL0 or T0SZ make of it, without a device: no walk is possible with it, and no shift by a negative number."""
    board = Board(config)
    board.detached(levels=levels)
    error = board.failure()
    assert error.rules == ("HW-2" if config is S1 else "HW-1",)
    assert f"{levels} levels, must be 4" in error.message
    assert error.verdict is Verdict.MAPPING


def test_a_top_outside_ram() -> None:
    board = Board(S2)
    board.detached(top=1 << 40)
    error = board.failure()
    assert error.rules == ("HW-1",)
    assert "0x10000000000, where there is no RAM" in error.message


def judged(board: Board, texts: dict[str, str]) -> CheckFailed:
    attached = ",".join(board.row.attached) or "-"
    listed = f"d id=3 kind=hw attached={attached} top={board.top:#x} levels={board.row.levels}\n"
    where = reading.Where({"d": "3"}, IO_PTDUMP, board.witness)
    job = reading.check_job(Check("d", board.expected, 0), where, reading.ignore_comparison)
    files = [texts[name] for name in IO_PTDUMP.files]
    answered = ("", "1 error EINVAL not asked here\n")
    results = [Result(len(text), text.encode()) for text in (*files, listed, *answered)]
    return reading.joined(job.judge(results, {}), {})


def test_a_true_dump_of_a_wrong_table_is_not_blamed() -> None:
    """The dump shows what the kernel did: levels as SL0 says, and leaves where they would then be."""
    board = Board(S2)
    board.detached(levels=5)
    texts = kernel.texts(board.expected)
    texts |= {"info": texts["info"].replace("levels: 4", "levels: 5")}
    texts |= {"page_table": texts["page_table"].replace("0x0000000001002fff", "0x0000000001002ffe")}
    error = judged(board, texts)
    assert error.rules[0] == "HW-1"
    assert error.verdict is Verdict.MAPPING
