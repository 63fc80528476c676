# SPDX-License-Identifier: GPL-2.0-only
"""iommu-owner built for this machine: its grammar, its background process; there is no IOMMU for it here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_iommu.core import paths
from pytest_iommu.images.owner import FLAGS, HEADERS

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
#: of Linux 6.12's headers, what is younger or of another name
OLDER = {"VFIO_DEVICE_ATTACH_PASID", "VFIO_DEVICE_DETACH_PASID", "IOMMU_IOAS_NOIOMMU_GET_PA"}


def compiled(compiler: str, tree: Path, place: Path, without: frozenset[str] = frozenset()) -> Path:
    """The program, with the tree's headers; ``without`` some of their macros. Skips without the compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler}: not found")
    for name in HEADERS:
        header = place / "include" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        lines = (tree / "include/uapi" / name).read_text().splitlines()
        kept = [line for line in lines if not any(line.startswith(f"#define {word}") for word in without)]
        header.write_text("\n".join(kept) + "\n")
    sources = [str(path) for path in sorted(paths.owner().glob("*.c"))]
    program = place / f"owner-{compiler}"
    argv = [compiler, "-O2", *WARNINGS, *FLAGS, f"-I{place / 'include'}", "-o", str(program), *sources]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("compiler", ["gcc", "aarch64-linux-gnu-gcc"])
def test_it_compiles_without_a_warning(compiler: str, kernel_tree: Path, tmp_path: Path) -> None:
    compiled(compiler, kernel_tree, tmp_path)


def test_it_compiles_with_older_headers(kernel_tree: Path, tmp_path: Path) -> None:
    compiled("gcc", kernel_tree, tmp_path, frozenset(OLDER))


@pytest.fixture(scope="module")
def program(kernel_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    return compiled("gcc", kernel_tree, tmp_path_factory.mktemp("owner"))


def call(program: Path, *arguments: str, text: str = "") -> tuple[int, list[str]]:
    """Exit status and what it says, in lines."""
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout.splitlines()


def test_commands_from_stdin(program: Path) -> None:
    script = "# a comment\nmemory m 8192\n\nmemory m 4096\nfoo\nmap\nmap m x r m\npages m\ndrop m\ndrop m\n"
    status, said = call(program, "run", text=script)
    assert status == 1
    assert said[0] == "ok"
    assert said[1] == "error EEXIST m is too long or taken"
    assert said[2] == "error EINVAL no command foo"
    assert said[3].startswith("error EINVAL usage: map IOAS|CONTAINER IOVA")
    assert said[4] == "error ENOENT no IOAS or container m"
    assert said[5].startswith(f"ok page={os.sysconf('SC_PAGE_SIZE')} pages=0x" if os.geteuid() == 0 else "error EPERM")
    assert said[6:] == ["ok", "error ENOENT nothing is named m"]


@pytest.fixture
def served(program: Path, tmp_path: Path) -> Iterator[Path]:
    """The directory of an owner in the background."""
    place = tmp_path / "place"
    assert call(program, "serve", str(place)) == (0, [])
    yield place
    call(program, "tell", str(place), "quit")


def test_an_owner_keeps_what_it_has(program: Path, served: Path) -> None:
    for _ in range(20):
        assert call(program, "tell", str(served), "memory m 4096", "pid")[0] == 0
        status, said = call(program, "tell", str(served), "memory m 4096", "drop m", "drop m")
        assert status == 1
        assert [line.split()[0] for line in said] == ["error", "ok", "error"]
    assert call(program, "tell", str(served), "quit") == (0, ["ok"])
    assert call(program, "tell", str(served), "pid") == (2, [])


def test_what_it_reads_dies_with_it(program: Path, served: Path) -> None:
    status, said = call(program, "tell", str(served), "reader r /dev/zero", "pid", "die")
    assert (status, said[0]) == (1, "ok")
    assert call(program, "tell", str(served), "pid") == (2, [])
