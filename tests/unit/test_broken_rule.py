# SPDX-License-Identifier: GPL-2.0-only
"""Which rule the kernel breaks by the result of a command."""

from __future__ import annotations

import pytest

from pytest_iommu.scenario import broken_rule


@pytest.mark.parametrize(
    ("command", "errno", "message", "rule"),
    [
        ("domain d dev=edu3 stage=1", "ENODEV", "edu3 has no IOMMU", "HW-1"),
        ("domain d dev=edu3 stage=1", "ENODEV", "no such device: edu3", None),
        ("map d 0x1000 0x2000 0x1000 r", None, "", "TAB-5"),
        ("attach d edu0", None, "", None),
        ("map d 0x1000 0x2000 0x1000 r", "EEXIST", "the kernel refused 0x1000: -17", "TAB-1"),
        ("clean d 0x1000 0x1000", "ENOENT", "read_and_clear_dirty(0x1000, 0x1000)", "TAB-2"),
        ("clean d 0x1000 0x1000", "EOPNOTSUPP", "no dirty tracking in amdv1", None),
        ("share b edu0 0x1000 rw", "EIO", "the DMA API refused", "TAB-1"),
        ("share b edu0 0x1000 rw", "EBUSY", "a domain is attached", None),
        ("map d 0x1000 0x2000 0x1000 r", "ENOMEM", "the kernel refused 0x1000: -12", None),
        ("unmap d 0x1000 0x1000", "EIO", "iommu_unmap(0x1000, 0x1000) returned 0x0", "TAB-4"),
    ],
)
def test_rule_of_a_result(command: str, errno: str | None, message: str, rule: str | None) -> None:
    broken = broken_rule(command, errno, message)
    assert (broken and broken[0]) == rule
