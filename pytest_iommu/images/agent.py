# SPDX-License-Identifier: GPL-2.0-only
"""The guest agent, which is every guest's init."""

from __future__ import annotations

from pytest_iommu.core import paths
from pytest_iommu.core.machines import Machine
from pytest_iommu.images import program
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, StoreEntry, tree_digest


def build_id() -> str:
    """The agent's build id in HELLO: a hash of its sources."""
    return tree_digest(paths.agent())


def build(store: Store, machine: Machine, progress: Progress) -> StoreEntry:
    """Return this machine's agent, as ``agent`` in the entry. SetupError with the compiler's output if it fails."""
    flags = ("-pthread", "-s", f'-DAGENT_BUILD="{build_id()}"')
    return program.build(store, machine, progress, program.Program("agent", "the guest agent", paths.agent(), flags))
