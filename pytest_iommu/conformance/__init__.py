# SPDX-License-Identifier: GPL-2.0-only
"""The suite: ``pytest --pyargs pytest_iommu.conformance --iommu-target=qemu``.

``scenarios/*.iommu.yaml`` say which mappings to make; ``test_*.py`` hold what has no mapping list.
"""
