# SPDX-License-Identifier: GPL-2.0-only
"""One lock for each thing that sessions make in the cache, so that nobody waits but for what he needs himself.

flock(2): a lock is gone with its holder, however that ended, and several may hold one together where they only read.
Who holds it since when, and what he makes, is in a file beside it, for those who wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import disk_full
from pytest_iommu.images import progress as watching
from pytest_iommu.images.progress import Progress

POLL = 0.2


class Locks:
    """The locks of one cache; ``folder`` is where they lie. A session may take one again that it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, bool] = {}  # name -> whether it is shared

    @contextmanager
    def hold(self, name: str, what: str, progress: Progress, shared: bool = False) -> Iterator[None]:
        """Hold a lock while the block runs; ``what`` it is for is told to those who wait, as others' is told here.

        SetupError when the cache cannot be written.
        """
        if name in self._held:
            if self._held[name] and not shared:
                raise RuntimeError(f"the lock {name} is held shared and cannot be had alone")
            yield
            return
        descriptor = self._acquire(name, shared)
        if descriptor is None:
            # A session that says nothing of its work has to say that it waits.
            teller = progress if progress.stream is not None else watching.of_this_session()
            with teller.step(f"waiting for {self.holders(name)}", timed=False) as step:
                while (descriptor := self._acquire(name, shared)) is None:
                    step.name = f"waiting for {self.holders(name)}"
                    step.update()
                    time.sleep(POLL)
        with self._kept(descriptor, name, what, shared):
            yield

    @contextmanager
    def try_alone(self, name: str, what: str) -> Iterator[bool]:
        """Hold a lock if nobody does, also not this session; whether that is so."""
        descriptor = None if name in self._held else self._acquire(name, shared=False)
        if descriptor is None:
            yield False
            return
        with self._kept(descriptor, name, what, shared=False):
            yield True

    def holders(self, name: str) -> str:
        """Who holds a lock, since when and for what, as far as they say."""
        said = []
        for path in sorted(self.folder.glob(f"{name}.holder-*")):
            pid = path.name.rpartition("-")[2]
            try:
                text = path.read_text().strip()
            except OSError:
                continue
            if text and pid.isdecimal() and _alive(int(pid)):
                said.append(f"pid {pid} {text}")
        return "; ".join(said) or f"another session ({name})"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    @contextmanager
    def _kept(self, descriptor: int, name: str, what: str, shared: bool) -> Iterator[None]:
        """The time that a lock is held."""
        holder = self.folder / f"{name}.holder-{os.getpid()}"
        self._held[name] = shared
        try:
            with _writing(self.folder):
                holder.write_text(f"since {time.strftime('%H:%M:%S')}: {what}\n")
            yield
        finally:
            del self._held[name]
            holder.unlink(missing_ok=True)
            if not shared:
                # Who waits for this file finds that it is gone, and takes the next one of this name.
                self._path(name).unlink(missing_ok=True)
            os.close(descriptor)

    def _acquire(self, name: str, shared: bool) -> int | None:
        """A descriptor that holds the lock, or None when somebody else does."""
        path = self._path(name)
        while True:
            with _writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_file(descriptor, path):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            # Its last holder removed this file; the lock is another one by now.
            os.close(descriptor)


@contextmanager
def own_directory(path: Path) -> Iterator[None]:
    """Make a directory that sweep() spares until the block ends, or this process."""
    while True:
        path.mkdir(parents=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_file(descriptor, path):
            break
        os.close(descriptor)  # swept before we had it
    try:
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed sessions left of their own directories in there."""
    for left in folder.glob("*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass  # somebody works in it
        finally:
            os.close(descriptor)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(folder) from error
        raise SetupError(f"--iommu-cache: {folder.parent}: {error.strerror}") from error


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        now, ours = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
