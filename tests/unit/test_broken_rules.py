# SPDX-License-Identifier: GPL-2.0-only
"""The rules that a kernel report counts against."""

from __future__ import annotations

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.report.failure import broken_rules


def test_a_read_that_sleeps_under_rcu_breaks_con_7() -> None:
    what = "BUG: sleeping function called from invalid context at include/linux/sched/mm.h:321"
    error = KernelCrash(what, Evidence(splat=f"{what}\nCall trace:\n ptd_peek+0x10/0x20\n vfs_read+0xc4/0x2f0\n"))
    assert broken_rules(error, ("CON-1",)) == ("CON-7", "LAY-7", "CON-1")
