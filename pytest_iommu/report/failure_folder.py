# SPDX-License-Identifier: GPL-2.0-only
"""The artefact folder: ``.pytest-iommu/<run>/<test>/``, with a ``latest`` link to the last run that kept files."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = ".pytest-iommu"
INCOMPLETE = "incomplete"
"""The file that says why another one is not there."""
NAME_LIMIT = 120


def run_folder(rootdir: Path) -> Path:
    """Return the folder of a run that starts now; it is created when the first file is stored."""
    return rootdir / ROOT / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def folder_name(nodeid: str) -> str:
    """Return a file name for a test: file, suite and case, shortened with a hash if it would be too long."""
    short = nodeid.rpartition("/")[2].replace(".iommu.yaml", "")
    name = re.sub(r"[^\w.@+-]+", "-", short).strip("-")
    if len(name) > NAME_LIMIT:
        name = f"{name[:NAME_LIMIT]}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
    return name


def give_up(folder: Path, name: str, error: Exception) -> None:
    """Remove a file that is half written, and say why it is not there."""
    with suppress(OSError):
        if name:
            (folder / name).unlink(missing_ok=True)
        (folder / INCOMPLETE).write_text(f"{error}\n")


class Folder:
    """The artefacts of one run."""

    def __init__(self, path: Path, keep: str) -> None:
        self.path = path
        self.keep = keep

    def save(self, nodeid: str, files: Mapping[str, bytes], failed: bool) -> Path | None:
        """Write a test's files if they are to be kept, and return their folder.

        A full disk must not hide the failure that these files are about: files that cannot be written are left out.
        """
        if not files or self.keep == "none" or (self.keep == "failed" and not failed):
            return None
        folder = self.path / folder_name(nodeid)
        name = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._mark()
            for name, data in files.items():
                (folder / name).write_bytes(data)
        except OSError as error:
            if not folder.is_dir():
                return None
            give_up(folder, name, error)
        return folder

    def _mark(self) -> None:
        """Exclude the folder from git, and point ``latest`` here; atomically, because other workers do the same."""
        ignore = self.path.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        link = self.path.parent / "latest"
        try:
            if os.readlink(link) == self.path.name:
                return
        except OSError:
            pass
        fresh = self.path.parent / f".latest-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        fresh.replace(link)
