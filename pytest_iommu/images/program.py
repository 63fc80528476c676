# SPDX-License-Identifier: GPL-2.0-only
"""Our own programs for the guest: static, one directory of C each, compiled with the machine's cross compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.core import process
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import toolchain
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, StoreEntry, digest, tree_digest

FLAGS = ("-static", "-O2", "-Wall")


@dataclass(frozen=True, slots=True)
class Program:
    """A program to compile: ``what`` is its description, ``headers`` are added to the C library's, by their name."""

    name: str
    what: str
    sources: Path
    flags: tuple[str, ...] = ()
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def build_id(self) -> str:
        """A hash of its sources."""
        return tree_digest(self.sources)


def build(store: Store, machine: Machine, progress: Progress, program: Program) -> StoreEntry:
    """Return this machine's program, by its name in the entry. SetupError with the compiler's output if it fails."""
    name, what = program.name, program.what
    flags = (*FLAGS, *program.flags)
    headers = [part for header in sorted(program.headers) for part in (header, program.headers[header])]
    key = digest(name, program.build_id, machine.make_arch, toolchain.identity(machine), flags, *headers)
    found = store.get(name, key)
    if found is not None:
        return found
    sources = sorted(program.sources.glob("*.c"))
    if not sources:
        raise SetupError(f"{program.sources}: sources of {what} not found; is the installation complete?")
    toolchain.require(["program"], toolchain.tools(machine))
    with store.lock(f"artefacts-{name}-{key}", f"compiling {what} for {machine.name}", progress):
        return store.get(name, key) or _compile(store, machine, progress, program, key, sources)


def _compile(
    store: Store, machine: Machine, progress: Progress, program: Program, key: str, sources: Sequence[Path]
) -> StoreEntry:
    name, what = program.name, program.what
    with progress.step(f"compiling {what} for {machine.name}"), store.scratch(f"{name}-{key}") as work:
        for header, content in program.headers.items():
            path = work / "include" / header
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        target = work / name
        flags = (*FLAGS, *program.flags)
        argv = [machine.cross_compile + "gcc", *flags, f"-I{work / 'include'}", "-o", str(target), *map(str, sources)]
        done = process.run(argv)
        if done.status != 0:
            raise SetupError(f"{what} does not compile:\n" + "\n".join(done.lines[:15]))
        return store.put(name, key, {name: target}, {"build": program.build_id})
