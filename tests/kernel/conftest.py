# SPDX-License-Identifier: GPL-2.0-only
"""What the checks of our C need: an unpacked kernel tree, the one that conformance builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_iommu.images import source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store
from pytest_iommu.settings import Settings


@pytest.fixture(scope="session")
def kernel_tree(iommu_settings: Settings) -> Path:
    """The tree of --iommu-kernel, else Debian's linux-source, fetched if it is not in the cache."""
    store = Store(iommu_settings.cache)
    found = source.current(iommu_settings.kernel, store)
    if found is None:
        progress = Progress(None)
        with store.locked(progress):
            found = source.cached(store) or source.fetch(store, progress, iommu_settings.offline)
    return found.path
