# SPDX-License-Identifier: GPL-2.0-only
"""The kernel source: the user's tree, or Debian's newest supported linux-source in the cache."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core import needs, process
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import disk_full
from pytest_iommu.images import tree
from pytest_iommu.images.apt import Apt, unpack
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, touch

SUPPORTED = ("7.3", "7.2")
"""Kernel series with hooks in the reference implementation, best first."""
UNPACKED = 2 << 30


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel tree to build. ``identity`` changes whenever the content may have; ``immutable``: it never does."""

    path: Path
    description: str
    identity: str
    kconfig: str
    immutable: bool


def user_tree(path: Path) -> Source:
    """Return the user's own tree in its current state. SetupError if it is not a kernel tree."""
    path = path.resolve()
    tree.require_kernel(path)
    now = tree.fingerprint(path)
    description = f"Linux {tree.release(path)} ({path})"
    return Source(path, description, f"{path} {now.everything}", now.kconfig, immutable=False)


def _series(name: str) -> int:
    found = re.match(r"linux-source-(\d+\.\d+)_", name)
    return SUPPORTED.index(found[1]) if found and found[1] in SUPPORTED else len(SUPPORTED)


def _sort_key(path: Path) -> tuple[int, list[int]]:
    """Sort key: best series first, newest version first within it."""
    return _series(path.name), [-int(number) for number in re.findall(r"\d+", path.name.partition("_")[2])]


def cached(store: Store) -> Source | None:
    """Return the best Debian source in the cache."""
    found = [path for path in store.path("sources").glob("linux-source-*_*") if _series(path.name) < len(SUPPORTED)]
    for path in sorted(found, key=_sort_key):
        if tree.is_kernel(path):
            package, _, version = path.name.partition("_")
            description = f"Linux {tree.release(path)} (Debian {package} {version})"
            touch(path)
            return Source(path, description, path.name, path.name, immutable=True)
    return None


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def intact(source: Source) -> bool:
    """Whether a cached source is unchanged since it was unpacked; checked before a build, not on every start."""
    try:
        noted = json.loads(_note(source.path).read_text())["fingerprint"]
        return bool(noted == tree.fingerprint(source.path).everything)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def whole(store: Store, source: Source, progress: Progress, offline: bool) -> Source:
    """Return this cached source; if it is damaged, fetch another one instead."""
    with store.lock("sources", "checking the kernel source", progress):
        if intact(source):
            return source
        progress.note(f"{source.path.name} in the cache is damaged: fetching it again")
        tree.LinkCopy(store, source.path, clean=True).drop(progress)
        _note(source.path).unlink(missing_ok=True)
        shutil.rmtree(source.path, ignore_errors=True)
        return fetch(store, progress, offline)


def fetch(store: Store, progress: Progress, offline: bool) -> Source:
    """Download and unpack the newest supported linux-source of all Debian suites. SetupError if there is none."""
    what = "fetching the kernel source"
    with store.lock("sources", what, progress):
        found = cached(store)  # by the session that this one waited for
        if found is not None:
            return found
        with Apt.of(store, what, progress, offline) as apt:
            return _fetch(store, progress, apt)


def _fetch(store: Store, progress: Progress, apt: Apt) -> Source:
    package = apt.find([f"linux-source-{series}" for series in SUPPORTED])
    if package is None:
        raise SetupError(
            f"none of {', '.join(apt.suites)} of this machine's mirror has linux-source-{' or -'.join(SUPPORTED)}; "
            "give --iommu-kernel=DIR"
        )
    free = shutil.disk_usage(store.root).free
    if free < UNPACKED + 2 * package.size:
        raise disk_full(store.root)
    with progress.step(f"fetching {package.name} {package.version}") as step:
        deb = apt.download(package, lambda: step.update(apt.downloaded() / package.size if package.size else None))
    with progress.step(f"unpacking {package.name}") as step:
        # make would parse an epoch's colon as a separator.
        final = store.path("sources", f"{package.name}_{package.version.replace(':', '-')}")
        with store.scratch(final.name + ".deb") as outer:
            unpack(deb, outer)
            deb.unlink()
            archives = sorted(outer.glob(f"usr/src/{package.name}.tar.*"))
            if not archives:
                raise SetupError(f"{package.name} {package.version} contains no tar file below usr/src")
            with store.making(final) as work:
                _untar(archives[0], work, step.update)
                _note(final).parent.mkdir(parents=True, exist_ok=True)
                _note(final).write_text(json.dumps({"fingerprint": tree.fingerprint(work).everything}))
    found = cached(store)
    if found is None:
        raise SetupError(f"{package.name} {package.version} is not a kernel tree after unpacking")
    return found


def _untar(archive: Path, target: Path, update: Callable[[float | None], None]) -> None:
    """Unpack without the leading directory, and report progress."""
    total = _unpacked_size(archive)
    done_bytes = 0

    def on_line(line: str) -> None:
        nonlocal done_bytes
        found = re.match(r"checkpoint (\d+)", line)
        if found:
            done_bytes = int(found[1]) * 10240
            update(done_bytes / total if total else None)

    argv = ["tar", "--extract", f"--file={archive}", f"--directory={target}", "--strip-components=1", "--no-same-owner"]
    checkpoints = ["--checkpoint=1000", "--checkpoint-action=exec=echo checkpoint $TAR_CHECKPOINT"]
    done = process.run([*argv, *checkpoints], on_line=on_line, env={**os.environ, "XZ_OPT": "-T0"})
    if done.status != 0:
        bad = [line for line in done.lines if not line.startswith("checkpoint")]
        raise SetupError(f"cannot unpack {archive.name}:\n" + "\n".join(bad[-5:]))


def _unpacked_size(archive: Path) -> int:
    """Return the unpacked size of an .xz file, 0 if unknown."""
    if shutil.which("xz") is None:
        raise needs.command_missing("xz")
    done = process.run(["xz", "--robot", "--list", str(archive)])
    for line in done.lines:
        if line.startswith("totals\t"):
            return int(line.split("\t")[4])
    return 0


def current(kernel: Path | None, store: Store) -> Source | None:
    """Return the source that would be built now, without fetching: the user's tree, else the cached source."""
    return user_tree(kernel) if kernel is not None else cached(store)
