# SPDX-License-Identifier: GPL-2.0-only
"""What a storm leaves in the table, and how it is judged (TAB-8)."""

from __future__ import annotations

import pytest

from pytest_iommu import formats
from pytest_iommu.check.races.end_state import apply, ended_early, final_states, judge_end
from pytest_iommu.check.races.storm_log import StormLog, parse_storm
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.oracle import TableModel
from pytest_iommu.scenario.race_words import Storm

K, M = 1 << 10, 1 << 20
BASE = 0x40000000
CONFIG = formats.configure("arm_64_lpae_s1")
STATES = "".join(
    f"state {number} pa={0x800000001000 + (number << 32):#x} size=0x1000 leaf=0x1000 prot={prot}\n"
    for number, prot in enumerate(("rw", "r", "rw", "rwx"), 1)
)
#: two rounds of two threads: the second of each thread's cells is mapped, unmapped and mapped again
CHANGES = "0 1 100 200\n1 2 150 250\n1 0 260 270\n2 3 300 310\n3 1 320 330\n3 0 340 350\n3 4 360 370\n"


def storm_log(changes: str = CHANGES, error: int = 0) -> StormLog:
    head = f"storm d iova={BASE:#x} cell=0x1000 gap=0x1000 round={2 * M:#x} cells=4 threads=2"
    return parse_storm(f"{head} changes={changes.count(chr(10))} error={error}\n{STATES}{changes}")


def test_cells_of_a_round_lie_together() -> None:
    log = storm_log()
    assert [log.place(cell) for cell in range(4)] == [BASE, BASE + 4 * K, BASE + 2 * M, BASE + 2 * M + 4 * K]


def test_overlaps_are_counted_between_threads() -> None:
    assert storm_log().overlaps == 1
    assert storm_log("0 1 100 200\n1 2 200 250\n").overlaps == 0
    assert storm_log("0 1 100 200\n2 2 150 250\n").overlaps == 0, "one thread's calls follow one another"


def test_the_changes_one_after_the_other() -> None:
    log = storm_log()
    assert final_states(log) == {0: 1, 1: 0, 2: 3, 3: 4}
    model = TableModel(CONFIG)
    apply(log, model)
    expected = model.snapshot()
    assert [(run.iova, str(run.attributes.prot)) for run in expected.runs] == [
        (BASE, "rw----"),
        (BASE + 2 * M, "rw----"),
        (BASE + 2 * M + 4 * K, "rwx---"),
    ]
    assert len(expected.tables[0]) == 2


def test_a_lost_mapping_and_one_too_many_are_found() -> None:
    log = storm_log()
    model = TableModel(CONFIG)
    model.map(BASE + 64 * M, 0x1000, 4 * K, Prot.from_letters("rw"))
    sentinels = model.snapshot().ranges
    apply(log, model)
    good = model.snapshot().ranges
    assert judge_end(log, CONFIG, sentinels, good) == []
    (failure,) = judge_end(log, CONFIG, sentinels, good[1:])
    assert failure.rules == ("TAB-8",)
    assert f"expected  0x{BASE:016x}" in failure.message
    model.map(BASE + 4 * K, 0x7000, 4 * K, Prot.from_letters("rw"))
    (failure,) = judge_end(log, CONFIG, sentinels, model.snapshot().ranges)
    assert f"in RAM    0x{BASE + 4 * K:016x}" in failure.message


def test_a_call_that_fails_is_the_kernels_fault_unless_memory_is_out() -> None:
    assert ended_early(storm_log(error=5)).rules == ("TAB-8",)
    with pytest.raises(SetupError, match="ENOMEM"):
        ended_early(storm_log(error=12))


def test_the_command_of_rounds() -> None:
    storm = Storm(BASE, 4 * K, 96, 4 * K, 2, seed=7, round=2 * M, late=100)
    assert storm.command("d") == "storm d 0x40000000 4K cells=96 gap=4K threads=2 round=2M late=100 seed=7"
