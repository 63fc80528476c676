# SPDX-License-Identifier: GPL-2.0-only
import kernel
from flat import Flat


def pytest_iommu_dialects(config):
    return [Flat()]


def pytest_iommu_targets(config):
    return {"printed": kernel.kind()}
