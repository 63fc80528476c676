# SPDX-License-Identifier: GPL-2.0-only
"""Programs of Debian packages that are unpacked and not installed: run by the dynamic linker that came with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError


@dataclass(frozen=True, slots=True)
class Linker:
    """A dynamic linker, the directories of its libraries as it takes them, and Debian's name of the architecture."""

    program: str
    path: str
    triplet: str


def linker(root: Path) -> Linker:
    """Return the linker of an unpacked root, whose libraries then all match. SetupError if it has none."""
    libc = sorted([*root.glob("lib/*/libc.so.6"), *root.glob("usr/lib/*/libc.so.6")])
    triplet = libc[0].parent.name if libc else ""
    # The linker's name in the unpacked lib64 may be an absolute symlink to the machine's own.
    linkers = _linker_files(root, triplet)
    linkers += sorted([*root.glob("lib64/ld-linux-*.so.*"), *root.glob("usr/lib64/ld-linux-*.so.*")])
    linkers += sorted([*root.glob("lib/ld-linux-*.so.*"), *root.glob("usr/lib/ld-linux-*.so.*")])
    if not linkers or not libc:
        raise SetupError(f"{root}: no dynamic linker and C library in there")
    folders = [root / "usr/lib" / triplet, root / "lib" / triplet]
    folders += [path for name in ("pulseaudio", "blas", "lapack") if (path := folders[0] / name).is_dir()]
    return Linker(str(linkers[0]), ":".join(map(str, folders)), triplet)


def _linker_files(root: Path, triplet: str) -> list[Path]:
    found = []
    for folder in (root / "usr/lib" / triplet, root / "lib" / triplet):
        linkers = sorted(folder.glob("ld-linux-*.so.*"))
        found += [path for path in linkers if path.exists() and not _leads_out(path, root)]
    return found


def _leads_out(path: Path, root: Path) -> bool:
    return not str(path.resolve()).startswith(str(root.resolve()) + os.sep)


def run_by(found: Linker, program: Path, real: Path | None = None) -> None:
    """Replace a program by a script that starts it, or ``real`` in its place, with that linker."""
    target = real or program.with_name(program.name + ".elf")
    if real is None:
        program.rename(target)
    words = f'"{found.program}" --library-path "{found.path}" "{target}"'
    # Not written in place: the file may be shared with another name.
    script = program.with_name(program.name + ".new")
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    os.replace(script, program)
