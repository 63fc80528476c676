# SPDX-License-Identifier: GPL-2.0-only
from pgtbl import DIALECT


def pytest_iommu_dialects(config):
    return [DIALECT]
