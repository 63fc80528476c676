# SPDX-License-Identifier: GPL-2.0-only
"""Export the complete directory tools/testing/selftests/iommu_ptdump: sources, cases and test module."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_iommu.check.kselftest.cases import compile_all
from pytest_iommu.core import needs, paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import environment_of_make

NAME = "iommu_ptdump"
_SOURCES = ("*.c", "*.h", "*.sh", "Makefile", "config", "settings", "README", ".gitignore", "test_modules/Makefile")
_MODULE = ("*.c", "*.h", "Kbuild", "README")


def sources() -> Path:
    """Return the path of kselftest/, which lacks only cases/ and the module."""
    return paths.kselftest()


def export(target: Path, cases: dict[str, str] | None = None) -> list[Path]:
    """Write the directory, and remove stale files of cases/ and test_modules/. Returns the files, sorted.

    SetupError if ``target`` is something else.
    """
    if target.exists() and any(target.iterdir()) and not (target / "ptdump_cases.c").is_file():
        raise SetupError(f"{target} is not empty and is not an earlier {NAME}")
    files: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    for folder, patterns, into in ((sources(), _SOURCES, ""), (paths.module(), _MODULE, "test_modules/")):
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            name = f"{into}{path.relative_to(folder)}"
            files[name] = path.read_bytes()
            modes[name] = 0o755 if path.suffix == ".sh" else 0o644
    if "Makefile" not in files or "test_modules/Kbuild" not in files:
        raise SetupError(f"{sources()}: the kselftest is incomplete; is the installation broken?")
    files |= {f"cases/{name}": text.encode() for name, text in (compile_all() if cases is None else cases).items()}
    written = []
    for name, content in sorted(files.items()):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(modes.get(name, 0o644))
        written.append(path)
    for old in (*target.glob("cases/*.txt"), *target.glob("test_modules/*.[ch]")):
        if old not in written:
            old.unlink()
    return written


def in_tree(tree: Path) -> Path:
    """Return the directory's place in a kernel tree. SetupError if ``tree`` is no kernel tree or lacks kselftest."""
    selftests = tree / "tools/testing/selftests"
    if not (selftests / "lib.mk").is_file():
        raise SetupError(f"{tree} is not a kernel tree: {selftests / 'lib.mk'} is missing")
    return selftests / NAME


def add_target(tree: Path) -> bool:
    """Add it to the tree's TARGETS, in alphabetical order; False if it is there already."""
    makefile = tree / "tools/testing/selftests/Makefile"
    line = f"TARGETS += {NAME}\n"
    lines = makefile.read_text().splitlines(keepends=True)
    if line in lines:
        return False
    place = max((at for at, one in enumerate(lines) if one.startswith("TARGETS += ") and one < line), default=-1)
    if place < 0:
        raise SetupError(f"no TARGETS in {makefile}")
    lines.insert(place + 1, line)
    makefile.write_text("".join(lines))
    return True


@contextmanager
def _for_make(selftests: Path) -> Iterator[Path]:
    """Return tools/testing/selftests at a path that make accepts: the original, or a copy of what lib.mk uses."""
    if paths.make_takes(selftests):
        yield selftests
        return
    with tempfile.TemporaryDirectory(prefix="pytest-iommu-") as folder:
        copy = Path(folder, "tools/testing/selftests")
        copy.mkdir(parents=True)
        for path in selftests.iterdir():
            if path.is_file():
                shutil.copyfile(path, copy / path.name)
        for name in ("tools/include/uapi", "usr/include"):
            if (selftests.parents[2] / name).is_dir():
                shutil.copytree(selftests.parents[2] / name, Path(folder, name))
        yield copy


def build(source: Path, selftests: Path, make_args: Sequence[str] = (), goals: Sequence[str] = ("all",)) -> str:
    """Run make in an exported directory against a tree's tools/testing/selftests; returns its output.

    ``make_args`` are arguments such as ``ARCH=arm64``, ``CROSS_COMPILE=aarch64-linux-gnu-``, ``USERLDFLAGS=-static``,
    ``KDIR=``. SetupError if make fails.
    """
    if shutil.which("make") is None:
        raise needs.command_missing("make")
    if not paths.make_takes(source):
        raise SetupError(f"{str(source)!r}: make does not accept blanks, colons, quotes or any of #$%\\ in a path")
    with _for_make(selftests) as there:
        argv = ["make", "-C", str(source), f"SELFTESTS={there}", *make_args, *goals]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment_of_make())
    if done.returncode:
        raise SetupError("\n".join(["the kselftest does not build:", *(done.stdout + done.stderr).splitlines()[-15:]]))
    return done.stdout + done.stderr
