# SPDX-License-Identifier: GPL-2.0-only
"""Text forms in which kernels dump a page table, with one parser each. Add one as a new file and a line here."""

from __future__ import annotations

from pytest_iommu.dialects.dialect import Dialect, DumpSyntaxError
from pytest_iommu.dialects.io_page_tables import IO_PAGE_TABLES
from pytest_iommu.dialects.io_ptdump import IO_PTDUMP
from pytest_iommu.dialects.io_ptdump_text import IO_PTDUMP_TEXT
from pytest_iommu.dialects.kvm_stage2 import KVM_STAGE2
from pytest_iommu.dialects.no_dump import NO_DUMP
from pytest_iommu.dialects.ptdump_arm64 import PTDUMP_ARM64
from pytest_iommu.dialects.smmuv3_2021 import SMMUV3_2021
from pytest_iommu.dialects.smmuv3_posted import SMMUV3_POSTED, SMMUV3_RFC
from pytest_iommu.dialects.text_dialect import LiveFiles, LiveKernel, TextDialect
from pytest_iommu.dialects.vtd import VTD

__all__ = [
    "DIALECTS",
    "IO_PTDUMP",
    "LIVE_TEXTS",
    "NO_DUMP",
    "TEXTS",
    "Dialect",
    "DumpSyntaxError",
    "LiveFiles",
    "LiveKernel",
    "TextDialect",
]

#: tried in this order on what the guest has
DIALECTS: tuple[Dialect, ...] = (IO_PTDUMP,)
#: saved texts (`pytest-iommu judge`), in the order in which they are tried
TEXTS: tuple[TextDialect, ...] = (
    *(IO_PTDUMP_TEXT, VTD, IO_PAGE_TABLES, SMMUV3_POSTED, SMMUV3_RFC, SMMUV3_2021, PTDUMP_ARM64, KVM_STAGE2),
)
#: those that a kernel with an IOMMU may have files of; the files of the reference are read by its own dialect
LIVE_TEXTS = tuple(one for one in TEXTS if type(one).live is not TextDialect.live)
