# SPDX-License-Identifier: GPL-2.0-only
"""The dialect of a kernel that has no dump: there is no file to read, and nothing to parse."""

from __future__ import annotations

from collections.abc import Mapping, Set

from pytest_iommu.core.model import Dump
from pytest_iommu.dialects.dialect import DumpSyntaxError


class NoDump:
    """EXPECTED is then compared with IN RAM alone, and DMA is done as on any kernel."""

    name = "none"
    place = "domains/{domain}/{file}"
    files: tuple[str, ...] = ()

    def probe(self, names: Set[str]) -> bool:
        """Never chosen by what a directory holds: it is what remains."""
        return False

    def parse(self, texts: Mapping[str, str]) -> Dump:
        """An empty dump."""
        return Dump()

    def read(self, texts: Mapping[str, str]) -> tuple[Dump, list[DumpSyntaxError]]:
        """An empty dump, without errors."""
        return Dump(), []


NO_DUMP = NoDump()
