# SPDX-License-Identifier: GPL-2.0-only
"""What must be: EXPECTED from a list of mappings, IN RAM from memory and registers, the transfers that DONE needs."""

from __future__ import annotations

from pytest_iommu.oracle.expected import Expected, Run, count, merge, merge_entries
from pytest_iommu.oracle.tables import MappingError, TableModel, cut

__all__ = ["Expected", "MappingError", "Run", "TableModel", "count", "cut", "merge", "merge_entries"]
