# SPDX-License-Identifier: GPL-2.0-only
"""The guest agent: one static program, compiled with the machine's cross compiler."""

from __future__ import annotations

from pytest_iommu import paths
from pytest_iommu.images import process
from pytest_iommu.images.kernel import compiler_identity
from pytest_iommu.images.machines import Machine
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Entry, Store, digest, tree_digest
from pytest_iommu.outcomes import SetupError

FLAGS = ("-static", "-O2", "-pthread", "-Wall")


def build_id() -> str:
    """What the agent says of itself in HELLO: a hash of its sources."""
    return tree_digest(paths.agent())


def build(store: Store, machine: Machine, progress: Progress) -> Entry:
    """The agent for this machine, as ``agent`` in the entry. SetupError with the compiler's words when it fails."""
    build = build_id()
    key = digest("agent", build, machine.make_arch, compiler_identity(machine, ()), FLAGS)
    found = store.get("agent", key)
    if found is not None:
        return found
    sources = sorted(paths.agent().glob("*.c"))
    if not sources:
        raise SetupError(f"{paths.agent()}: no sources of the guest agent; is the installation complete?")
    store.need_lock()
    compiler = machine.cross_compile + "gcc"
    with progress.step(f"compiling the guest agent for {machine.name}"), store.scratch(f"agent-{key}") as work:
        target = work / "agent"
        argv = [compiler, *FLAGS, f'-DAGENT_BUILD="{build}"', "-o", str(target), *map(str, sources)]
        done = process.run(argv)
        if done.status != 0:
            hint = ""
            if any("cannot find -l" in line or "stdio.h" in line for line in done.lines):
                hint = f"\nits C library is missing: install libc6-dev-{machine.make_arch}-cross"
            raise SetupError("the guest agent does not compile:\n" + "\n".join(done.lines[:15]) + hint)
        return store.put("agent", key, {"agent": target}, {"build": build})
