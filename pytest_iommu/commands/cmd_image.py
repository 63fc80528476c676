# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu image debian:SERIES DIRECTORY``: a ready kernel of Debian's, with the test module for it."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from pytest_iommu.core.paths import user_path

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "image",
        help="Fetch a kernel that Debian has built, and build the test module for it.",
        description="Fetch the newest kernel of a series from this machine's Debian mirror, with its headers, "
        "and build the test module against them. Nothing is installed.",
    )
    parser.add_argument("kernel", metavar="debian:SERIES", help="The series, e.g. debian:6.12.")
    parser.add_argument("directory", type=user_path, help="Directory for the image, its configuration and modules.")
    parser.add_argument(
        "--machine",
        default="smmuv3",
        metavar="NAME",
        help="Machine that the kernel is for: smmuv3 (arm64), or one of vtd, vtdsm, vtdsm2 and amd (amd64). "
        "(default: smmuv3)",
    )
    parser.add_argument("--offline", action="store_true", help="Fetch nothing; fail if something is missing.")
    parser.set_defaults(run=image)


def image(arguments: argparse.Namespace) -> int:
    """Make the directory, and say how it is tested."""
    from pytest_iommu.core import machines
    from pytest_iommu.images import Progress, distribution
    from pytest_iommu.images.store import Store
    from pytest_iommu.session.options import debian_series

    series = debian_series(arguments.kernel)
    store, progress = Store(arguments.cache), Progress(sys.stderr)
    folder = arguments.directory.absolute()
    machine = machines.get(arguments.machine)
    made = distribution.make(store, machine, series, folder, progress, arguments.offline)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            print(path)
    words = [f"--iommu-machine={machine.name}", f"--iommu-image={made.image}", f"--iommu-modules={made.folder}"]
    print("\nTo test it:")
    for target in ("qemu", "vng") if machine.arch == "x86_64" else ("qemu",):
        print(f"    pytest --pyargs pytest_iommu.conformance --iommu-target={target} {shlex.join(words)}")
    return 0
