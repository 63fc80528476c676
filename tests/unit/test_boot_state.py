# SPDX-License-Identifier: GPL-2.0-only
"""What is looked at when a guest is compared with what it was after boot."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest.state import BootState


def test_files_whose_reading_does_something_are_left_alone() -> None:
    """To read those of real-time throttling rebuilds scheduling domains, which lockdep reports (docs/findings.md)."""
    listed = b"panic\nsched_rt_period_us\nsched_rt_runtime_us\ntainted"
    seen: list[str] = []

    def send(batch: Sequence[Op]) -> Reply:
        seen.extend(op.path for op in batch)
        return Reply(tuple(Result(0, listed if op.path == "/proc/sys/kernel" else b"") for op in batch))

    BootState(send)
    assert "/proc/sys/kernel/panic" in seen
    assert not [path for path in seen if "sched_rt" in path or "tainted" in path]
