# SPDX-License-Identifier: GPL-2.0-only
"""iommu-owner, the guest's program that owns domains through VFIO and iommufd, built for the tested kernel's UAPI."""

from __future__ import annotations

from pathlib import Path

from pytest_iommu.core import paths
from pytest_iommu.core.machines import Machine
from pytest_iommu.images import program
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, StoreEntry

#: taken from the tree, because those of the cross compiler's C library are older
HEADERS = ("linux/iommufd.h", "linux/vfio.h")
#: 6.7: page tables on request, nest parents
NEEDED = b"IOMMU_HWPT_ALLOC_NEST_PARENT"
#: kernel-internal words that `make headers` (11 seconds) would remove; it does nothing else here
FLAGS = ("-D__user=", "-D__counted_by(x)=")


def build(store: Store, machine: Machine, progress: Progress, tree: Path) -> StoreEntry | None:
    """Return this machine's program, as ``iommu-owner`` in the entry; None if the kernel tree is too old for it.

    SetupError with the compiler's output if it fails.
    """
    files = {name: tree / "include/uapi" / name for name in HEADERS}
    if not all(path.is_file() for path in files.values()):
        return None
    headers = {name: path.read_bytes() for name, path in files.items()}
    if NEEDED not in headers["linux/iommufd.h"]:
        return None
    what = program.Program("iommu-owner", "iommu-owner", paths.owner(), FLAGS, headers)
    return program.build(store, machine, progress, what)
