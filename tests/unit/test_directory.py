# SPDX-License-Identifier: GPL-2.0-only
"""A dump that is not ours: the module does not know the directories, so they are found by the address of the top."""

from __future__ import annotations

from collections.abc import Sequence

import buggy_kernel as kernel
import pytest

from pytest_iommu import formats
from pytest_iommu.check.directory import find
from pytest_iommu.check.reading import Where, check_job, ignore_comparison
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.dialects import IO_PTDUMP, NO_DUMP
from pytest_iommu.oracle import TableModel
from pytest_iommu.scenario import Check

DOMAINS = """\
hard id=? kind=hw format=arm_64_lpae_s1 dev=edu0 stage=1 ias=48 oas=44 granule=4K attached=- top=0x41230000 levels=4
soft id=? kind=sw format=amdv1 dev=- stage=- ias=64 oas=52 granule=4K attached=- top=0x41240000 levels=3
arm id=? kind=sw format=arm_64_lpae_s1 dev=- stage=1 ias=48 oas=48 granule=4K attached=- top=0x41250000 levels=4
"""
INFOS = {"1": "0x40001000", "7": "0x41230000", "8": "0x41240000"}


class Guest:
    """Answers the two batches of find()."""

    def __init__(self, infos: dict[str, str]) -> None:
        self.infos = infos
        self.asked: list[str] = []

    def send(self, batch: Sequence[Op]) -> Sequence[Result]:
        self.asked += [op.path for op in batch]
        return [self.answer(op) for op in batch]

    def answer(self, op: Op) -> Result:
        if op.path.endswith("iommu_ptdump_test/domains"):
            return Result(0, DOMAINS.encode())
        if op.path.endswith("iommu/domains"):
            return Result(0, "\n".join(f"{name}/" for name in self.infos).encode())
        number = op.path.split("/")[-2]
        return Result(0, f"format: any\nlevels: 4\ntop: {self.infos[number]}\n".encode())


def test_directories_are_found_by_the_top() -> None:
    guest = Guest(INFOS)
    found = find(guest.send, IO_PTDUMP, {"hard": "?", "soft": "?", "arm": "?", "known": "5"})
    assert found == {"hard": "7", "soft": "8", "arm": "?", "known": "5"}


def test_a_table_that_a_driver_or_a_format_has_must_be_there() -> None:
    assert find(Guest({"1": "0x40001000"}).send, IO_PTDUMP, {"hard": "?", "soft": "?"}) == {"hard": "-", "soft": "-"}


def test_a_dump_may_show_the_others_too() -> None:
    assert find(Guest({"4": "0x41250000"}).send, IO_PTDUMP, {"arm": "?"}) == {"arm": "4"}


def test_nothing_is_asked_where_all_are_known_or_there_is_no_dump() -> None:
    guest = Guest(INFOS)
    assert find(guest.send, IO_PTDUMP, {"d": "3", "e": "-"}) == {"d": "3", "e": "-"}
    assert find(guest.send, NO_DUMP, {"d": "?"}) == {"d": "-"}
    assert guest.asked == []


def test_a_table_that_no_dump_was_offered_is_judged_in_memory_alone() -> None:
    """Its files are not read, and a test about them is skipped."""
    model = TableModel(formats.configure("arm_64_lpae_s1", granule=4096, ias=48, oas=44))
    model.map(0x1000, 0x41000000, 0x1000, Prot.from_letters("rw"))
    expected = model.snapshot()
    where = Where({"d": "?"}, IO_PTDUMP)
    with pytest.raises(pytest.skip.Exception, match="software tables of io-pgtable"):
        where.path("d", "page_table")
    job = check_job(Check("d", expected, 0), where, ignore_comparison)
    assert [op.path.rpartition("/")[2] for op in job.ops] == ["domains", "control", "status"]

    class InRam:
        def texts(self, config: object, row: object) -> dict[str, str]:
            model.unmap(0x1000, 0x1000)
            return kernel.texts(model.snapshot())

    row = (
        b"d id=? kind=sw format=arm_64_lpae_s1 dev=- stage=1 ias=48 oas=44 granule=4K attached=- top=0x1000 levels=4\n"
    )
    job = check_job(Check("d", expected, 0), Where({"d": "?"}, IO_PTDUMP, InRam()), ignore_comparison)  # type: ignore[arg-type]
    problem, *_ = job.judge([Result(0, row), Result(0), Result(0)], {})
    assert problem.rules[0] == "TAB-1"
    assert problem.verdict is Verdict.MAPPING
