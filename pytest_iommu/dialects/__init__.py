# SPDX-License-Identifier: GPL-2.0-only
"""Text forms in which kernels dump a page table, with one parser each. Add one as a new file and a line here."""

from __future__ import annotations

from pytest_iommu.dialects.dialect import Dialect, DumpSyntaxError
from pytest_iommu.dialects.io_ptdump import IO_PTDUMP
from pytest_iommu.dialects.no_dump import NO_DUMP

__all__ = ["DIALECTS", "IO_PTDUMP", "NO_DUMP", "Dialect", "DumpSyntaxError"]

#: tried in this order on what the guest has
DIALECTS: tuple[Dialect, ...] = (IO_PTDUMP,)
