# SPDX-License-Identifier: GPL-2.0-only
"""One lock per thing that sessions make in the cache, so that a session waits only for what it needs itself.

flock(2): a lock disappears with its holder, however that ends. Readers can share it. A file beside the lock tells
waiting sessions its holders, since when they hold it, and for what.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import disk_full, no_room
from pytest_iommu.images import progress as watching
from pytest_iommu.images.progress import Progress

POLL = 0.2


class Locks:
    """The locks of one cache, in ``folder``. A session may take a lock again that it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, bool] = {}  # name -> whether it is shared

    @contextmanager
    def hold(self, name: str, what: str, progress: Progress, shared: bool = False) -> Iterator[None]:
        """Hold a lock during the block. Waiting sessions are shown ``what`` it is for, as this one is shown theirs.

        SetupError if the cache is not writable, or nothing can be locked there.
        """
        if name in self._held:
            if self._held[name] and not shared:
                raise RuntimeError(f"the lock {name} is held shared and cannot be taken exclusively")
            yield
            return
        descriptor = self._acquire(name, shared)
        if descriptor is None:
            # A session without a progress display still has to report that it waits.
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
        """Take a lock if no session holds it, including this one; returns whether that succeeded."""
        descriptor = None if name in self._held else self._acquire(name, shared=False)
        if descriptor is None:
            yield False
            return
        with self._kept(descriptor, name, what, shared=False):
            yield True

    def holders(self, name: str) -> str:
        """Return who holds a lock, since when and for what, as far as known."""
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
        """Record the time and purpose for which the lock is held."""
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
                # Sessions that wait for this file notice that it is gone, and take the next one with this name.
                self._path(name).unlink(missing_ok=True)
            os.close(descriptor)

    def _acquire(self, name: str, shared: bool) -> int | None:
        """Return a descriptor that holds the lock, or None if another session holds it."""
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
            except OSError as error:
                os.close(descriptor)
                # ENOLCK of a file server, ENOSYS of a kernel without CONFIG_FILE_LOCKING
                raise SetupError(f"--iommu-cache: {self.folder.parent}: flock(2) fails: {error.strerror}") from error
            except BaseException:
                os.close(descriptor)
                raise
            # Its last holder removed this file; by now another file has this name.
            os.close(descriptor)


@contextmanager
def own_directory(path: Path) -> Iterator[None]:
    """Make a directory that sweep() spares until the end of the block or of this process."""
    while True:
        path.mkdir(parents=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_file(descriptor, path):
            break
        os.close(descriptor)  # swept before it was locked
    try:
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the directories that killed sessions left there."""
    for left in folder.glob("*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(descriptor)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if no_room(error):
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
