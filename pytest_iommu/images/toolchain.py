# SPDX-License-Identifier: GPL-2.0-only
"""The compilers for a machine's kernel and programs: which ones they are, and whether a tree accepts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_iommu.core import needs
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError

SCRIPT = "scripts/min-tool-version.sh"
LLVM_WANTED = "17.0.1"
"""The LLVM version in SCRIPT of the kernels that we fetch, for use before one has been fetched."""


def tools(machine: Machine, make_args: Sequence[str] = ()) -> needs.Tools:
    """The compilers for this machine's kernel."""
    return needs.tools_of(machine.make_arch, machine.arch, machine.cross, make_args)


def identity(machine: Machine, make_args: Sequence[str] = (), tree: Path | None = None, configuration: str = "") -> str:
    """Identify the compiler by the path, size and time of its file. Nothing is executed.

    Without ``tree`` it is the compiler of the guest's programs. SetupError if it is missing, with a list of all missing
    tools.
    """
    chosen = tools(machine, make_args)
    found = shutil.which(chosen.compiler)
    if found is None:
        require(["program"] if tree is None else ["kernel", "program"], chosen, configuration, tree)
        raise needs.command_missing(chosen.compiler)
    real = os.path.realpath(found)
    stat = os.stat(real)
    return f"{real} {stat.st_size} {stat.st_mtime_ns}"


def wanted(chosen: needs.Tools, tree: Path | None) -> str:
    """Describe which LLVM the tree accepts."""
    script = tree / SCRIPT if tree is not None else None
    who = f"this tree ({script})" if script is not None and script.is_file() else "the fetched kernel"
    return (
        f"{who} requires LLVM {llvm_wanted(tree, chosen.arch)} or newer; LLVM=-N or LLVM=/path/to/bin/ selects another"
    )


def llvm_wanted(tree: Path | None, arch: str) -> str:
    """Return the oldest LLVM that a tree accepts, e.g. ``17.0.1``; without a tree, that of the kernels we fetch."""
    if tree is None or not (tree / SCRIPT).is_file():
        return LLVM_WANTED
    env = {**os.environ, "ARCH": arch, "SRCARCH": arch}
    done = subprocess.run(["sh", str(tree / SCRIPT), "llvm"], capture_output=True, text=True, check=False, env=env)
    return done.stdout.strip() or LLVM_WANTED


def require(
    groups: Sequence[needs.Group], chosen: needs.Tools, configuration: str = "", tree: Path | None = None
) -> None:
    """SetupError, with the packages, if tools of these groups are missing for a kernel of this configuration.

    With LLVM also if it is too old for ``tree``.
    """
    lacking = needs.missing(needs.needed(groups, chosen, needs.symbols_of(configuration)), chosen)
    if lacking:
        told = needs.complaint(lacking)
        of_llvm = chosen.llvm is not None and set(lacking) & set(chosen.compilers())
        raise SetupError(f"{told}\n{wanted(chosen, tree)}" if of_llvm else told)
    if "kernel" in groups:
        require_version(chosen, tree)


def require_version(chosen: needs.Tools, tree: Path | None) -> None:
    """SetupError if the kernel is to be built with an LLVM that is too old for the tree (kbuild checks gcc itself)."""
    if chosen.llvm is None:
        return
    for name in map(chosen.llvm_program, ("clang", "ld.lld")):
        if shutil.which(name) is None:
            continue
        done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"(?:version|LLD) (\d+(?:\.\d+)*)", done.stdout)
        if found and _numbers(found[1]) < _numbers(llvm_wanted(tree, chosen.arch)):
            raise SetupError(f"{name} is version {found[1]}, which is too old: {wanted(chosen, tree)}")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
