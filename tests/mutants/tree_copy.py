# SPDX-License-Identifier: GPL-2.0-only
"""A copy by links of the cached kernel source, into which one mutant of the kernel at a time is put.

The copy stays in the cache, so that its O= directory stays too and every mutant costs an incremental build only.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mutant import Mutant, MutantError

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.source import Source
from pytest_iommu.images.store import Store
from pytest_iommu.images.tree import Changes, LinkCopy, reference_changes


def kernel_source(cache: Path) -> Source:
    """The kernel source that the suite builds, fetched if it is not in the cache. SetupError if it cannot be had."""
    store = Store(cache)
    return source.cached(store) or source.fetch(store, Progress(sys.stderr), offline=False)


def changes(one: Mutant, tree: Path) -> Changes:
    """The files of ``tree`` that a mutant changes. MutantError if its patch does not apply."""
    with tempfile.TemporaryDirectory() as folder:
        hooks, scratch = Path(folder, "hooks"), Path(folder, "patched")
        hooks.mkdir()
        (hooks / one.path.name).write_bytes(one.path.read_bytes())
        try:
            return reference_changes(tree, [hooks.parent], scratch)
        except SetupError as error:
            raise MutantError(error.message) from error


@contextmanager
def planted(cache: Path, found: Source, one: Mutant | None) -> Iterator[Path]:
    """The copy with one mutant in it, or with none; nobody changes it during the block."""
    wanted = changes(one, found.path) if one else Changes({})
    # A root of its own: a user's run with the same source makes a link copy as well, with the reference in it.
    copy = LinkCopy(Store(cache / "mutants"), found.path, clean=True)
    what = f"mutant {one.name}" if one else "no mutant"
    with copy.held(wanted, found.identity, what, Progress(sys.stderr), immutable=True) as where:
        yield where
