# SPDX-License-Identifier: GPL-2.0-only
"""Ready-made builds: an image and its modules, as provided by a CI system."""

from __future__ import annotations

import tarfile
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.kernel import MODULE
from pytest_iommu.images.store import Store, StoreEntry, digest


def _stat(path: Path) -> str:
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def modules(store: Store, given: Path) -> StoreEntry:
    """Copy the test module from a directory or a tar file into the store. SetupError if it is not in there."""
    name = f"{MODULE}.ko"
    if given.is_dir():
        found = sorted(given.rglob(name))
        if not found:
            raise SetupError(f"--iommu-modules: no {name} below {given}")
        key = digest("modules", _stat(found[0]))
        return store.get("modules", key) or store.put("modules", key, {name: found[0]}, {})
    key = digest("modules", _stat(given))
    entry = store.get("modules", key)
    if entry is not None:
        return entry
    try:
        with tarfile.open(given) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == name:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    return store.put("modules", key, {name: stream.read()}, {})
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SetupError(f"--iommu-modules: {given}: {error}") from error
    raise SetupError(f"--iommu-modules: no {name} in {given}")
