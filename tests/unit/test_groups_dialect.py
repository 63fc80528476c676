# SPDX-License-Identifier: GPL-2.0-only
"""The file groups as text."""

from __future__ import annotations

import pytest

from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.groups import GroupLine, parse_groups

TEXT = "0 0000:00:01.0 - dma 3\n0 0000:00:01.0 5 sva -\n12 a003c00.virtio_mmio - identity -\n"


def test_lines() -> None:
    assert parse_groups(TEXT) == (
        GroupLine(0, "0000:00:01.0", None, "dma", "3"),
        GroupLine(0, "0000:00:01.0", 5, "sva", "-"),
        GroupLine(12, "a003c00.virtio_mmio", None, "identity", "-"),
    )
    assert parse_groups("") == ()


@pytest.mark.parametrize(
    "line",
    [
        "00 0000:00:01.0 - dma 3",
        "0 0000:00:01.0 - dma 0",
        "0 0000:00:01.0 0 dma 3",
        "0 0000:00:01.0 - DMA 3",
        "0 0000:00:01.0 - dma 3 ",
        "0 - dma 3",
        "",
    ],
)
def test_malformed_line(line: str) -> None:
    with pytest.raises(DumpSyntaxError) as found:
        parse_groups(f"{TEXT}{line}\n")
    assert (found.value.rule, found.value.number) == ("GRP-1", 4)


def test_cut_off() -> None:
    with pytest.raises(DumpSyntaxError, match="truncated"):
        parse_groups(TEXT[:-1])
