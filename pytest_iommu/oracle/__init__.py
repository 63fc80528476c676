# SPDX-License-Identifier: GPL-2.0-only
"""EXPECTED: what a dump must say, from the list of mappings alone."""

from __future__ import annotations

from pytest_iommu.oracle.expected import Expected, Run, count, merge
from pytest_iommu.oracle.tables import MappingError, TableModel, cut

__all__ = ["Expected", "MappingError", "Run", "TableModel", "count", "cut", "merge"]
