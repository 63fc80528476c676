# SPDX-License-Identifier: GPL-2.0-only
"""A machine that has what a test says: a directory of programs for PATH, with compilers that know some headers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pytest_iommu.core import needs

CROSS = "aarch64-linux-gnu-"
SHELL = ("sh", "dirname", "id", "env", "cat", "grep", "cp", "mkdir", "setpriv", "make")
# A compiler: it fails where what it is given names one of the lines of the file beside it.
COMPILER = """#!/bin/sh
text="$* $(cat)"
while read -r word; do
    case $text in *"$word"*) exit 1 ;; esac
done < "$(dirname "$0")/headers-missing"
"""
APT = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/apt-get-was-called"
case $* in *install*) : > "$(dirname "$0")/headers-missing" ;; esac
"""


def make(folder: Path, *, without: tuple[str, ...] = (), unknown: tuple[str, ...] = ()) -> Path:
    """Fill a directory: all commands of needs.py but those ``without``; the compilers know no header or library
    ``unknown``. Installing anything with its apt-get makes them known."""
    folder.mkdir()
    wanted = {need.name for need in needs.needed(needs.NEEDS, needs.Tools(CROSS, "arm64")) if need.kind == "command"}
    for name in (wanted | set(SHELL)) - set(without):
        path = folder / name
        if name.endswith("gcc"):
            program(path, COMPILER)
        elif name == "apt-get":
            program(path, APT)
        elif name in SHELL:
            path.symlink_to(shutil.which(name) or f"/bin/{name}")
        else:
            program(path, "#!/bin/sh\n")
    (folder / "python3").symlink_to(sys.executable)
    (folder / "headers-missing").write_text("".join(f"{word}\n" for word in unknown))
    return folder


def program(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
