# SPDX-License-Identifier: GPL-2.0-only
"""A distribution's ready kernel: which one is taken, and how programs and options that are too new are dealt with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import distribution, unpacked
from pytest_iommu.images.apt import Apt

SUITES = {
    "trixie-backports": ["linux-headers-7.3.4+deb13-arm64", "linux-headers-7.2.12+deb13-arm64"],
    "bookworm-backports": ["linux-headers-6.12.95+deb12-arm64"],
    "trixie": ["linux-headers-6.12.9+deb13-arm64", "linux-headers-6.12.117+deb13-arm64"],
}


def apt_with(suites: Mapping[str, list[str]]) -> Apt:
    return cast(Any, SimpleNamespace(suites=tuple(suites), names=lambda pattern, suite: suites[suite]))


@pytest.mark.parametrize(
    ("series", "want"),
    [
        ("6.12", ("6.12.117+deb13-arm64", "trixie")),
        ("7.2", ("7.2.12+deb13-arm64", "trixie-backports")),
    ],
)
def test_the_newest_release_of_a_series_is_taken(series: str, want: tuple[str, str]) -> None:
    assert distribution._find(apt_with(SUITES), machines.get("smmuv3"), series) == want


def test_the_series_that_there_are_are_named() -> None:
    with pytest.raises(SetupError, match=r"kernel 6\.1 for arm64; there: debian:6\.12, debian:7\.2, debian:7\.3$"):
        distribution._find(apt_with(SUITES), machines.get("smmuv3"), "6.1")


def compiler(folder: Path, rejects: str) -> str:
    """A compiler that does not know an option."""
    path = folder / "cc"
    path.write_text(f'#!/bin/sh\nfor one; do [ "$one" = "{rejects}" ] && exit 1; done\nexit 0\n')
    path.chmod(0o755)
    return str(path)


def test_kbuild_is_told_of_an_option_that_the_compiler_lacks(tmp_path: Path) -> None:
    flag, told = next(iter(distribution.NEWER.items()))
    assert distribution._without(compiler(tmp_path, flag)) == [told]
    assert distribution._without(compiler(tmp_path, "-fother")) == []


@pytest.mark.parametrize("other", [False, True], ids=["itself", "another"])
def test_a_program_is_started_by_the_linker_that_came_with_it(tmp_path: Path, other: bool) -> None:
    root = tmp_path / "a root"
    library = root / "usr/lib/x86_64-linux-gnu"
    library.mkdir(parents=True)
    (library / "libc.so.6").write_bytes(b"")
    starter = library / "ld-linux-x86-64.so.2"
    starter.write_text('#!/bin/sh\necho "$@"\n')
    starter.chmod(0o755)
    program, real = tmp_path / "modpost", tmp_path / "modpost.real"
    program.write_text("a program\n")
    unpacked.run_by(unpacked.linker(root), program, real if other else None)
    done = subprocess.run([program, "an argument"], capture_output=True, text=True, check=True)
    target = real if other else tmp_path / "modpost.elf"
    assert done.stdout == f"--library-path {library}:{root}/lib/x86_64-linux-gnu {target} an argument\n"
    assert other or target.read_text() == "a program\n"


def test_a_root_without_a_linker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no dynamic linker"):
        unpacked.linker(tmp_path)


def test_a_kernel_for_another_machine() -> None:
    """Debian has its own names of architectures, and kernels of one architecture for other uses."""
    suites = {"trixie": ["linux-headers-6.12.9+deb13-amd64", "linux-headers-6.12.117+deb13-amd64"]}
    asked = []

    def names(pattern: str, suite: str) -> list[str]:
        asked.append(pattern)
        return suites[suite]

    apt = cast(Any, SimpleNamespace(suites=tuple(suites), names=names))
    assert distribution._find(apt, machines.get("vtd"), "6.12") == ("6.12.117+deb13-amd64", "trixie")
    (pattern,) = asked
    assert re.search(pattern, "linux-headers-6.12.9+deb13-amd64")
    assert not re.search(pattern, "linux-headers-6.12.9+deb13-cloud-amd64")
    assert not re.search(pattern, "linux-headers-6.12.9+deb13-arm64")
