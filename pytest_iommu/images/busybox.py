# SPDX-License-Identifier: GPL-2.0-only
"""A static busybox for the guest's architecture, used only for interactive shells; fetched on demand."""

from __future__ import annotations

from pathlib import Path

from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.apt import Apt, unpack
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, StoreEntry

PACKAGE = "busybox-static"


def find(store: Store, machine: Machine, progress: Progress, offline: bool) -> Path:
    """Return the program; fetches it from the machine's own suite if it is not cached. SetupError if there is none."""
    arch = machine.debian_arch
    found = store.get("busybox", arch)
    if found is None:
        with Apt.of(store, f"fetching {PACKAGE} for {arch}", progress, offline, arch) as apt:
            found = store.get("busybox", arch) or _fetch(store, apt, arch, progress)
    return found["busybox"]


def _fetch(store: Store, apt: Apt, arch: str, progress: Progress) -> StoreEntry:
    package = apt.find([PACKAGE], [apt.mirror.codename])
    if package is None:
        raise SetupError(f"{apt.mirror.codename} of this machine's mirror has no {PACKAGE} for {arch}")
    with progress.step(f"fetching {PACKAGE} for {arch}") as step, store.scratch("busybox") as work:
        unpack(apt.download(package, step.update), work)
        programs = [path for path in (work / "bin/busybox", work / "usr/bin/busybox") if path.is_file()]
        if not programs:
            raise SetupError(f"{PACKAGE} {package.version} contains no bin/busybox")
        return store.put("busybox", arch, {"busybox": programs[0]}, {"version": package.version})
