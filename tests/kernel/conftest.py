# SPDX-License-Identifier: GPL-2.0-only
"""What the checks of our C need: an unpacked kernel tree, the one that conformance builds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_iommu.core.settings import Settings
from pytest_iommu.images import source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store


@pytest.fixture(scope="session")
def kernel_tree(iommu_settings: Settings) -> Path:
    """The tree of --iommu-kernel, else Debian's linux-source, fetched if it is not in the cache."""
    store = Store(iommu_settings.cache)
    return source.get(iommu_settings, store, Progress(None)).path


@pytest.fixture(scope="session")
def checkpatch(kernel_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What the tree's checkpatch --strict says of patches, or with --file of files.

    It keeps a list of names where it is started: in the tree, which is not ours to write to, that passes for damage.
    """
    where = tmp_path_factory.mktemp("checkpatch")
    argv = ["perl", str(kernel_tree / "scripts/checkpatch.pl"), f"--root={kernel_tree}"]

    def run(*words: object) -> str:
        told = [*argv, "--strict", "--no-summary", "--terse", *map(str, words)]
        done = subprocess.run(told, cwd=where, capture_output=True, text=True, check=False)
        # What it finds is on stdout; that it could not look at all is not.
        assert done.returncode == bool(done.stdout), done.stdout + done.stderr
        return done.stdout.strip()

    return run
