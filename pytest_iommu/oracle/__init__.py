# SPDX-License-Identifier: GPL-2.0-only
"""The expected results: EXPECTED from a list of mappings, IN RAM from memory and registers, the transfers for DONE."""

from __future__ import annotations

from pytest_iommu.oracle.expected import Expected, LeafRun, count, merge, merge_entries
from pytest_iommu.oracle.tables import MappingError, TableModel, cut

__all__ = ["Expected", "LeafRun", "MappingError", "TableModel", "count", "cut", "merge", "merge_entries"]
