# SPDX-License-Identifier: GPL-2.0-only
"""Our C as the kernel wants it: checkpatch --strict for the test module and iommu-owner, no warnings from gcc."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_iommu.core import paths

MODULE = sorted(path.name for path in paths.module().glob("*.[ch]"))
AGENT = sorted(path.name for path in paths.agent().glob("*.[ch]"))
OWNER = sorted(path.name for path in paths.owner().glob("*.[ch]"))
TREES = sorted((Path(__file__).parents[1] / "data" / "trees").glob("*/files/**/*.c"))
#: what a program has of the C library's, and not the kernel's
NOT_FOR_PROGRAMS = "PREFER_KERNEL_TYPES,PREFER_DEFINED_ATTRIBUTE_MACRO,BIT_MACRO"


@pytest.mark.parametrize("name", MODULE)
def test_checkpatch_accepts_the_module(name: str, checkpatch: Callable[..., str]) -> None:
    assert checkpatch("--file", paths.module() / name) == ""


def test_checkpatch_accepts_the_dumps_of_other_trees(checkpatch: Callable[..., str]) -> None:
    assert checkpatch("--file", *TREES) == ""


def test_checkpatch_accepts_the_owner(checkpatch: Callable[..., str]) -> None:
    assert checkpatch(f"--ignore={NOT_FOR_PROGRAMS}", "--file", *(paths.owner() / name for name in OWNER)) == ""


@pytest.mark.parametrize(
    "path",
    [
        *(paths.module() / name for name in MODULE),
        *(paths.agent() / name for name in AGENT),
        *(paths.owner() / name for name in OWNER),
        *TREES,
    ],
    ids=str,
)
def test_licence_is_stated_and_files_are_small(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert "SPDX-License-Identifier: GPL-2.0-only" in lines[0]
    assert len(lines) <= 400


@pytest.mark.parametrize("compiler", ["gcc", "aarch64-linux-gnu-gcc"])
def test_agent_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler}: not found")
    sources = [str(path) for path in sorted(paths.agent().glob("*.c"))]
    argv = [
        compiler,
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        '-DAGENT_BUILD="test"',
        "-o",
        str(tmp_path / "agent"),
    ]
    done = subprocess.run([*argv, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
