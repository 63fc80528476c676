# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

from pytest_iommu.core.machines import load


def pytest_iommu_machines(config):
    return [load(Path(__file__).with_name("board.yaml"))]
