# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu export DIRECTORY``: the reference implementation as a series of patches."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.paths import user_path

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="Write the reference implementation as a git format-patch series.")
    parser.add_argument("directory", type=user_path, help="Directory for the patches.")
    parser.add_argument(
        "--kernel",
        type=user_path,
        metavar="DIR",
        help="Kernel tree that the series is for (default: the cached kernel source).",
    )
    parser.add_argument(
        "--fixes",
        action="store_true",
        help="Write the fixes of mainline that stand alone instead, each a patch of its own.",
    )
    parser.add_argument(
        "--io-page-tables",
        action="store_true",
        help="Write the patch on top of the series instead: the file io_page_tables (docs/io_page_tables.md).",
    )
    parser.set_defaults(run=export)


def export(arguments: argparse.Namespace) -> int:
    """Write the series, and say how it is applied and sent."""
    from pytest_iommu.images import source
    from pytest_iommu.images.series import export_fixes, export_on_top, export_series
    from pytest_iommu.images.store import Store

    tree = arguments.kernel
    if tree is None:
        cached = source.cached(Store(arguments.cache))
        if cached is None:
            raise SetupError("no kernel source in the cache yet; run `pytest-iommu build` first, or give --kernel=DIR")
        tree = cached.path
    directory = arguments.directory
    write = export_fixes if arguments.fixes else export_on_top if arguments.io_page_tables else export_series
    written = write(tree, directory)
    for path in written:
        print(path)
    where = shlex.quote(str(arguments.directory.absolute()))
    if arguments.fixes:
        print(f"\nEach applies by itself:\n    git am {where}/FIX.patch")
        return 0
    if arguments.io_page_tables:
        print(f"\nIt goes on top of the series:\n    git am {where}/*.patch")
        return 0
    print(f"\nTo apply the series, in a kernel tree:\n    git am {where}/*.patch")
    print(f"To send it, cover letter first:\n    git send-email --to=... {where}")
    return 0
