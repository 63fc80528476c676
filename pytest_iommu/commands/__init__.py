# SPDX-License-Identifier: GPL-2.0-only
"""The subcommands of pytest-iommu, one file each."""
