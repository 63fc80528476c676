# SPDX-License-Identifier: GPL-2.0-only
"""pytest-iommu: does an IOMMU page-table dump tell the truth?"""
