# SPDX-License-Identifier: GPL-2.0-only
"""The rules that a kernel report counts against."""

from __future__ import annotations

import pytest

from pytest_iommu.core.outcomes import KernelCrash, KernelHang
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.report.failure import CRASH, broken_rules


def test_a_read_that_sleeps_under_rcu_breaks_con_7() -> None:
    what = "BUG: sleeping function called from invalid context at include/linux/sched/mm.h:321"
    error = KernelCrash(what, Evidence(splat=f"{what}\nCall trace:\n ptd_peek+0x10/0x20\n vfs_read+0xc4/0x2f0\n"))
    assert broken_rules(error, ("CON-1",)) == ("CON-7", "LAY-7", "CON-1")


def crash(splat: str) -> KernelCrash:
    return KernelCrash("oops while it ran a batch", Evidence(splat=splat))


OOPS = "Unable to handle kernel paging request at virtual address ffff\nCall trace:\n {} \n"
MAP, READ = OOPS.format("__arm_lpae_unmap+0x10/0x20"), OOPS.format("ptd_walk+0x10/0x20\n vfs_read+0xc4/0x2f0")


def test_a_crash_of_a_map_breaks_no_rule_of_the_test() -> None:
    """The kernel crashed before anything was judged: the fingerprint says where."""
    assert broken_rules(crash(MAP), ("TAB-1", "TAB-4", "RNG-1")) == (CRASH,)
    assert broken_rules(crash(MAP), ()) == (CRASH,)


def test_a_crash_of_a_reader_is_the_dumps() -> None:
    assert broken_rules(crash(READ), ("RNG-1",)) == ("LAY-7", "RNG-1")
    reader = "dma_seq_next+0x10/0x20\n seq_read_iter+0x1/0x2\n vfs_read+0xc4/0x2f0"
    assert broken_rules(crash(OOPS.format(reader)), ("V1-1",)) == ("V1-7", "LAY-7", "V1-1")
    assert broken_rules(crash(OOPS.format(f"dma_take+0x1/0x2\n {reader}")), ("V1-1",)) == ("V1-6", "LAY-7", "V1-1")
    assert broken_rules(crash(READ), ("FLT-3", "RNG-1")) == ("FLT-3", "RNG-1", "LAY-7")


@pytest.mark.parametrize("rule", ["CON-1", "CON-11", "FLT-1"])
def test_what_is_about_crashes_is_broken_by_one(rule: str) -> None:
    """A table that is freed under a reader may be found by whoever gets the page next."""
    assert broken_rules(crash(MAP), (rule, "RNG-1")) == (rule, "RNG-1")


def test_a_hang_is_the_tests() -> None:
    assert broken_rules(KernelHang("the agent did not answer"), ("CON-7",)) == ("CON-7",)
