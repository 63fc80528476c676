# SPDX-License-Identifier: GPL-2.0-only
"""The cache: finished things under the hash of their inputs, stored by one rename; incomplete ones are not visible.

``<cache>/artefacts/<kind>-<hash>/`` holds a finished thing and its manifest.json. ``sources/``, ``trees/``, ``builds/``
and ``qemu/`` hold the inputs. ``tmp/`` holds incomplete things, ``locks/`` the locks of their makers.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import disk_full, no_room
from pytest_iommu.images.locks import Locks, own_directory, sweep
from pytest_iommu.images.progress import Progress

MANIFEST = "manifest.json"
FORMAT = 1
"""Part of every hash: increment it when the contents or the format of entries change, which invalidates old entries."""


def digest(*parts: object) -> str:
    """A short hash of the parts' text; order and boundaries count."""
    state = hashlib.sha256(str(FORMAT).encode())
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        state.update(f"{len(text)}:".encode() + text)
    return state.hexdigest()[:24]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(root: Path) -> str:
    """A hash of names and contents of all files below ``root`` (for our own few hundred kilobytes, not for kernels)."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest(*(part for path in files for part in (path.relative_to(root), path.read_bytes())))


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One finished thing: its directory, its stored files, and its metadata."""

    path: Path
    files: Mapping[str, str]
    about: Mapping[str, Any]

    def __getitem__(self, name: str) -> Path:
        return self.path / name


class Store:
    """The cache directory; entries are verified by checksum. SetupError if make cannot build at this path."""

    def __init__(self, root: Path) -> None:
        self.root = paths.require_cache(root)
        # Kept open: a shared lock on each manifest tells `cache prune` that this session uses the entry.
        self._used: dict[Path, IO[bytes]] = {}
        weakref.finalize(self, _close_all, self._used)
        self.locks = Locks(self.path("locks"))
        self._numbers = itertools.count()
        self._swept = False

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def get(self, kind: str, key: str) -> StoreEntry | None:
        """Return the finished entry, or None; a damaged one counts as absent, and put() replaces it."""
        path = self.path("artefacts", f"{kind}-{key}")
        try:
            guard = (path / MANIFEST).open("rb")
        except OSError:
            return None
        try:
            fcntl.flock(guard, fcntl.LOCK_SH)
            manifest = json.load(guard)
            good = all(file_digest(path / name) == want for name, want in manifest["files"].items())
            # Removed by another process between open and lock: the path no longer leads to the locked file.
            good = good and os.fstat(guard.fileno()).st_nlink > 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            guard.close()
            return None
        if path in self._used:
            self._used[path].close()
        self._used[path] = guard
        touch(path)
        return StoreEntry(path, manifest["files"], manifest["about"])

    def hold(self, path: Path) -> None:
        """Protect a directory with a manifest from `cache prune` for the lifetime of this session."""
        if path not in self._used:
            guard = (path / MANIFEST).open("rb")
            fcntl.flock(guard, fcntl.LOCK_SH)
            self._used[path] = guard

    def put(self, kind: str, key: str, files: Mapping[str, Path | bytes], about: Mapping[str, Any]) -> StoreEntry:
        """Store files (a path is copied) under the hash of their inputs, by one rename. SetupError: disk full."""
        final = self.path("artefacts", f"{kind}-{key}")
        with self.lock(f"artefacts-{final.name}", f"storing {kind}", Progress(None)):
            return self.get(kind, key) or self._put(final, kind, key, files, about)

    def _put(
        self, final: Path, kind: str, key: str, files: Mapping[str, Path | bytes], about: Mapping[str, Any]
    ) -> StoreEntry:
        with self.making(final) as work:
            sums = {}
            for name, source in files.items():
                target = work / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    target.write_bytes(source)
                else:
                    shutil.copyfile(source, target)
                sums[name] = file_digest(target)
            manifest = {"kind": kind, "files": sums, "about": dict(about), "created": time.time()}
            (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        entry = self.get(kind, key)
        if entry is None:
            raise SetupError(f"{final}: reading the new entry back gave different data; is the disk in order?")
        return entry

    @contextmanager
    def making(self, final: Path) -> Iterator[Path]:
        """A directory to fill, which becomes ``final`` if the block succeeds and is removed otherwise.

        Call it with the lock of the thing that is made.
        """
        with self.scratch(final.name) as work:
            yield work
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                shutil.rmtree(final)
            os.rename(work, final)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty directory that is removed at the end. SetupError if the disk is full."""
        self._writable()
        if not self._swept:
            self._swept = True
            sweep(self.path("tmp"))
        # Numbered: an enclosing block may use the same name.
        work = self.path("tmp", f"{os.getpid()}-{next(self._numbers)}-{name}")
        try:
            with own_directory(work):
                yield work
        except OSError as error:
            if no_room(error):
                raise disk_full(work) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def lock(self, name: str, what: str, progress: Progress, shared: bool = False) -> Iterator[None]:
        """Hold the lock of one thing that is made here: check whether it exists, take the lock, and check again.

        Waiting sessions are shown the holder and ``what`` it makes. SetupError if the cache is not writable.
        """
        self._writable()
        with self.locks.hold(name, what, progress, shared):
            yield

    def _writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"x")
        except OSError as error:
            if no_room(error):
                raise disk_full(self.root) from error
            raise SetupError(f"--iommu-cache: {self.root}: {error.strerror}") from error

    def release(self) -> None:
        """Let `cache prune` remove the entries that this session used."""
        for guard in self._used.values():
            guard.close()
        self._used.clear()


def touch(path: Path) -> None:
    """Record that a thing was used, for `cache prune`; a read-only cache is never pruned."""
    try:
        os.utime(path)
    except OSError:
        pass


def size_of(path: Path) -> int:
    """Return the bytes on disk below ``path``; a hard-linked file counts in each place."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total


@dataclass(frozen=True, slots=True)
class Listed:
    """One thing in the cache: ``used`` is the time of its last use (seconds since the epoch), ``size`` is in bytes."""

    path: Path
    kind: str
    size: int
    used: float

    @property
    def lock(self) -> str:
        """The name of the lock held while it is made."""
        if self.kind == "sources":
            return "sources"
        if self.kind == "qemu":
            return f"qemu-{self.path.name.partition('_')[0]}"
        # The test module is built beside its kernel, under the same lock.
        return f"{self.kind}-{self.path.name.removesuffix(f'-{paths.MODULE}')}"


KINDS = ("artefacts", "builds", "trees", "sources", "qemu", "apt", "logs")


def listing(root: Path) -> list[Listed]:
    """Return everything in the cache, least recently used first."""
    found = []
    for kind in KINDS:
        for path in sorted((root / kind).glob("*")):
            if path.is_dir() and not path.is_symlink():
                found.append(Listed(path, kind, size_of(path), path.stat().st_mtime))
    return sorted(found, key=lambda one: one.used)


def prune(store: Store, max_size: int, say: Callable[[str], None]) -> int:
    """Remove least recently used things until at most ``max_size`` bytes are left; returns the bytes removed.

    Things that a running session uses or makes are kept.
    """
    everything = listing(store.root)
    left = sum(one.size for one in everything)
    removed = 0
    for one in everything:
        if left <= max_size:
            break
        with store.locks.try_alone(one.lock, "pruning the cache") as alone:
            if not alone or _in_use(one.path):
                say(f"in use, kept: {one.path.relative_to(store.root)}")
                continue
            shutil.rmtree(one.path, ignore_errors=True)
            for beside in one.path.parent.glob(one.path.name + ".*"):
                beside.unlink(missing_ok=True)
        left -= one.size
        removed += one.size
        say(f"removed: {one.path.relative_to(store.root)}")
    return removed


def _close_all(guards: Mapping[Path, IO[bytes]]) -> None:
    for guard in guards.values():
        guard.close()


def _in_use(path: Path) -> bool:
    try:
        with (path / MANIFEST).open("rb") as manifest:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
