# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest programs for a machine, from the cache or built now; runs on the controller before workers start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.check.kselftest.export import in_tree, sources
from pytest_iommu.check.kselftest.programs import guest_files
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import busybox, source, toolchain
from pytest_iommu.images.artefacts import store_at
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, digest, tree_digest

BUSYBOX = "kselftest/busybox"
# Sources of the programs that come from the kernel tree.
_HARNESS = ("lib.mk", "kselftest.h", "kselftest_harness.h", "kselftest/ktap_helpers.sh")


@dataclass(frozen=True, slots=True)
class Selftest:
    """Relative guest path -> local file. ``lacks`` says why there are no programs, ``no_shell`` why no shell."""

    files: Mapping[str, Path] = field(default_factory=dict)
    lacks: str = ""
    no_shell: str = ""


def prepare(settings: Settings, machine: Machine, progress: Progress, shell: bool) -> Selftest:
    """Return the files that a guest of that machine needs, with ``shell`` also a shell. SetupError if the build fails.

    Without a kernel tree there are none, because headers and makefiles of kselftest belong to the tree.
    """
    if settings.image is not None:
        return Selftest(lacks="the kselftest needs a kernel tree to build, and --iommu-image has none")
    store = store_at(settings.cache)
    # Fingerprinting the user's tree takes longer than building the programs.
    tree = source.path(settings, store)
    if tree is None:
        return Selftest(lacks="the kselftest needs a kernel tree to build: none in the cache, and no --iommu-kernel")
    return _prepare(store, settings, tree.resolve(), machine, progress, shell)


def _prepare(
    store: Store, settings: Settings, tree: Path, machine: Machine, progress: Progress, shell: bool
) -> Selftest:
    harness = in_tree(tree).parent
    parts = [part for name in _HARNESS for part in (name, _content(harness / name))]
    key = digest("kselftest", tree_digest(sources()), machine.make_arch, toolchain.identity(machine), *parts)
    entry = store.get("kselftest", key)
    if entry is None:
        toolchain.require(["program"], toolchain.tools(machine))
        what = f"compiling the kselftest for {machine.name}"
        with store.lock(f"artefacts-kselftest-{key}", what, progress):
            entry = store.get("kselftest", key)
            if entry is None:
                with progress.step(what), store.scratch(f"kselftest-{key}") as work:
                    entry = store.put("kselftest", key, guest_files(work, tree, machine, {}), {"tree": tree.name})
    files = {name: entry[name] for name in entry.files}
    if not shell:
        return Selftest(files)
    # A user with a tree of their own may have no apt: use a busybox only if one is cached already.
    offline = settings.offline or settings.kernel is not None
    try:
        return Selftest(files | {BUSYBOX: busybox.find(store, machine, progress, offline)})
    except SetupError as error:
        told = "not in the cache; `pytest-iommu shell` fetches it" if offline else error.message.splitlines()[0]
        return Selftest(files, no_shell=f"no busybox for the guest: {told}")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
