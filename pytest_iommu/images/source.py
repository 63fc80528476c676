# SPDX-License-Identifier: GPL-2.0-only
"""The kernel source: the user's tree, or Debian's linux-source in the cache, by default the newest supported one."""

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
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import tree
from pytest_iommu.images.apt import Apt, Package, unpack
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


def _wanted(series: str) -> tuple[str, ...]:
    """The series that will do, best first: the one that was asked for, else those with hooks."""
    return (series,) if series else SUPPORTED


def _series(path: Path) -> str:
    found = re.match(r"linux-source-(\d+\.\d+)_", path.name)
    return found[1] if found else ""


def _newest_first(path: Path) -> list[int]:
    return [-int(number) for number in re.findall(r"\d+", path.name.partition("_")[2])]


def cached(store: Store, series: str = "") -> Source | None:
    """Return the best Debian source in the cache, of this series (``6.12``) if one is named."""
    wanted = _wanted(series)
    found = [path for path in store.path("sources").glob("linux-source-*_*") if _series(path) in wanted]
    for path in sorted(found, key=lambda path: (wanted.index(_series(path)), _newest_first(path))):
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
        return fetch(store, progress, offline, _series(source.path))


def fetch(store: Store, progress: Progress, offline: bool, series: str = "") -> Source:
    """Download and unpack the newest linux-source of all Debian suites, of this series if one is named.

    SetupError if there is none.
    """
    what = "fetching the kernel source"
    with store.lock("sources", what, progress):
        found = cached(store, series)  # by the session that this one waited for
        if found is not None:
            return found
        with Apt.of(store, what, progress, offline) as apt:
            return _fetch(store, progress, apt, series)


def _find(apt: Apt, series: str) -> Package:
    """Return the newest package of the best series. SetupError if no suite has one; it names those that there are."""
    for one in _wanted(series):
        # A series may be in several suites, and the newest suite need not have its newest version.
        found = [package for suite in apt.suites if (package := apt.find([f"linux-source-{one}"], [suite]))]
        if found:
            return max(found, key=lambda package: [int(number) for number in re.findall(r"\d+", package.version)])
    there = ", ".join(f"debian:{one}" for one in sorted(_offered(apt), key=lambda one: [*map(int, one.split("."))]))
    raise SetupError(
        f"none of {', '.join(apt.suites)} of this machine's mirror has linux-source-{' or -'.join(_wanted(series))}"
        + (f"; there {'is' if ',' not in there else 'are'} {there}" if there else "")
        + "; give --iommu-kernel=DIR"
    )


def _offered(apt: Apt) -> set[str]:
    """The series that all suites have together."""
    names = [name for suite in apt.suites for name in apt.names("^linux-source-[0-9.]+$", suite)]
    return {name.removeprefix("linux-source-") for name in names}


def _fetch(store: Store, progress: Progress, apt: Apt, series: str) -> Source:
    package = _find(apt, series)
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
    found = cached(store, series)
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


def current(settings: Settings, store: Store) -> Source | None:
    """Return the source that would be built now, without fetching: the user's tree, else a cached source."""
    return user_tree(settings.kernel) if settings.kernel is not None else cached(store, settings.series)


def path(settings: Settings, store: Store) -> Path | None:
    """Return where that source is; faster than current(), because a user's tree is not looked at."""
    found = cached(store, settings.series) if settings.kernel is None else None
    return settings.kernel or (found.path if found else None)


def get(settings: Settings, store: Store, progress: Progress) -> Source:
    """Return that source, fetched if it is not there. SetupError if it cannot be had."""
    return current(settings, store) or fetch(store, progress, settings.offline, settings.series)
