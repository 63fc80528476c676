# SPDX-License-Identifier: GPL-2.0-only
"""Turns settings into something bootable: kernel, initramfs and QEMU, from the cache or made now."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.core import needs, paths
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import disk_full, no_room
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import (
    agent,
    bootimage,
    busybox,
    config,
    initramfs,
    kernel,
    owner,
    qemu_binary,
    ready,
    reference,
    source,
    toolchain,
)
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.images.store import Store, StoreEntry, digest


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Everything that starts a guest. ``kernel`` describes the kernel, ``reference`` says that its dump is ours.

    ``vmlinux`` and ``config`` are None for a ready image; ``page`` are the bytes of a page, 0 if the image does not
    tell; ``timings`` maps each executed step to its seconds.
    """

    machine: str
    flavour: str
    image: Path
    initrd: Path
    qemu: Qemu
    kernel: str
    reference: bool = False
    modules: tuple[Path, ...] = ()
    vmlinux: Path | None = None
    config: Path | None = None
    page: int = 0
    agent: str = ""
    notes: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict, hash=False)
    timings: Mapping[str, float] = field(default_factory=dict, hash=False)

    def describe(self) -> str:
        """Return one line for a report's header."""
        return "; ".join([f"{self.kernel}, flavour {self.flavour}, {self.qemu}", *self.notes])


@dataclass(frozen=True, slots=True)
class _Kernel:
    image: Path
    modules: tuple[Path, ...]
    description: str
    reference: bool
    vmlinux: Path | None = None
    config: Path | None = None
    notes: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    tree: Path | None = None


# A store holds locks on the entries that it returned, for the lifetime of the session.
_stores: dict[Path, Store] = {}


def store_at(root: Path) -> Store:
    """Return this session's store for that cache directory."""
    return _stores.setdefault(root, Store(root))


def prepare(
    settings: Settings, machine: Machine, flavour: str, progress: Progress | None = None, shell: bool = False
) -> Artefacts:
    """Prepare a kernel, its initramfs and a QEMU. With a warm cache it takes 0.1 s and starts no program.

    ``shell`` adds a busybox to the initramfs. SetupError with all necessary advice if it fails.
    """
    progress = progress or Progress(None)
    store = store_at(settings.cache)
    began, before = time.monotonic(), dict(progress.timings)
    try:
        made = _prepare(store, settings, machine, flavour, progress, shell)
        if progress.timings != before:
            _keep_timings(store, progress)
            progress.note(f"ready after {time.monotonic() - began:.0f}s: {made.describe()}")
        return made
    except OSError as error:
        if no_room(error):
            raise disk_full(store.root) from error
        raise SetupError(f"{error.filename or store.root}: {error.strerror}") from error


def _keep_timings(store: Store, progress: Progress) -> None:
    """Record how long each step took, for `make bench`."""
    note = store.path("state", "timings.json")
    note.parent.mkdir(exist_ok=True)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    partial.write_text(json.dumps({**timings(store), **progress.timings}))
    os.replace(partial, note)


def timings(store: Store) -> dict[str, float]:
    """Return the seconds of the last execution of each step, by its name."""
    try:
        noted = json.loads(store.path("state", "timings.json").read_text())
        return {str(name): float(seconds) for name, seconds in noted.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _prepare(
    store: Store, settings: Settings, machine: Machine, flavour: str, progress: Progress, shell: bool
) -> Artefacts:
    if settings.image is not None:
        bootimage.check(settings.image, machine.arch, machine.memory)
    # QEMU first: report a wrong --iommu-qemu before a kernel build that takes minutes.
    emulator = qemu_binary.find(store, machine, settings.qemu)
    if emulator is None:
        _require(store, settings, machine, flavour)
        emulator = qemu_binary.fetch(store, machine, progress, settings.offline, settings.qemu)
    if settings.image is not None:
        built = _given(store, settings.image, settings.modules)
    else:
        built = _build(store, settings, machine, flavour, progress)
    program = agent.build(store, machine, progress)
    sources = {"agent": program["agent"]}
    # A ready image does not tell which kernel headers belong to it.
    owning = owner.build(store, machine, progress, built.tree) if built.tree is not None else None
    if owning is not None:
        sources["iommu-owner"] = owning["iommu-owner"]
    if shell:
        sources["busybox"] = busybox.find(store, machine, progress, settings.offline)
    initrd = _initramfs(store, sources, built.modules)
    return Artefacts(
        machine=machine.name,
        flavour=flavour,
        image=built.image,
        initrd=initrd["initramfs"],
        qemu=emulator,
        kernel=built.description,
        reference=built.reference,
        modules=built.modules,
        vmlinux=built.vmlinux,
        config=built.config,
        page=bootimage.page_size(built.image),
        agent=str(program.about["build"]),
        notes=built.notes,
        hashes={**built.hashes, **initrd.files},
        timings=dict(progress.timings),
    )


def _initramfs(store: Store, sources: Mapping[str, Path], modules: Sequence[Path]) -> StoreEntry:
    manifest = paths.qemu_images() / "initramfs.yaml"
    inputs: list[object] = [manifest.read_bytes()]
    for name, path in [*sorted(sources.items()), *((path.name, path) for path in modules)]:
        inputs += [name, path.read_bytes()]
    key = digest("initramfs", *inputs)
    found = store.get("initramfs", key)
    return found or store.put("initramfs", key, {"initramfs": initramfs.build(sources, modules)}, {})


def _given(store: Store, image: Path, modules: Path | None) -> _Kernel:
    entry = ready.modules(store, modules) if modules is not None else None
    found = tuple(entry[name] for name in entry.about[ready.ORDER]) if entry is not None else ()
    notes = () if found else ("no test module; give --iommu-modules",)
    return _Kernel(image.absolute(), found, f"{image} as given", reference=False, notes=notes)


def _require(store: Store, settings: Settings, machine: Machine, flavour: str) -> None:
    """Check the machine before anything is fetched: SetupError if something is missing that is needed afterwards."""
    chosen = toolchain.tools(machine, settings.make_args)
    if settings.image is not None:
        toolchain.require(["program"], chosen)
        return
    tree = source.path(settings, store)
    groups: list[needs.Group] = ["kernel", "program"] if tree is not None else ["kernel", "program", "fetch"]
    toolchain.require(groups, chosen, config.text(config.merged(machine, flavour, settings.config)), tree)


def _build(store: Store, settings: Settings, machine: Machine, flavour: str, progress: Progress) -> _Kernel:
    if source.path(settings, store) is None:
        _require(store, settings, machine, flavour)
    found = source.get(settings, store, progress)
    with_reference, without = reference.decide(store, found, settings.reference)
    plan = kernel.plan(machine, flavour, found, settings.config, settings.make_args, with_reference)
    builder = kernel.Builder(store, plan, progress)
    if found.immutable and store.get("kernel", plan.key) is None and not source.intact(found):
        source.whole(store, found, progress, settings.offline)
        return _build(store, settings, machine, flavour, progress)
    finished = builder.kernel()
    bootimage.check(finished["Image"], machine.arch, machine.memory, "the kernel")
    modules = builder.modules()
    lost = [name for name in finished.about["not_taken"] if name not in kernel.DUMPS]
    return _Kernel(
        image=finished["Image"],
        modules=tuple(modules[name] for name in sorted(modules.files)),
        description=str(finished.about["description"]),
        reference=plan.reference,
        vmlinux=builder.vmlinux(),
        config=finished["config"],
        notes=tuple(filter(None, [without, f"not in this kernel: {', '.join(lost)}" if lost else ""])),
        hashes={**finished.files, **modules.files},
        tree=found.path,
    )
