# SPDX-License-Identifier: GPL-2.0-only
"""Texts that kernels print for a page table, each read by one parser. A new one is a new file and a line here."""

from __future__ import annotations

from pytest_iommu.dialects.dialect import Dialect, DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import IO_PTDUMP

__all__ = ["DIALECTS", "IO_PTDUMP", "Dialect", "DumpSyntaxError"]

#: tried in this order on what the guest has
DIALECTS: tuple[Dialect, ...] = (IO_PTDUMP,)
