# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu cache``: what the cache holds, and how it becomes smaller."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

DEFAULT_PRUNE = "10G"


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("cache", help="List or prune the cache of sources, builds and QEMU.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="List sources, builds and artefacts with their sizes.").set_defaults(run=show)
    prune = actions.add_parser("prune", help="Remove the entries that were not used for the longest time.")
    prune.add_argument(
        "--max-size", default=DEFAULT_PRUNE, metavar="SIZE", help="Size that the cache may keep (default: %(default)s)."
    )
    prune.set_defaults(run=smaller)


def show(arguments: argparse.Namespace) -> int:
    """List the cache."""
    from pytest_iommu.images.store import listing

    cache: Path = arguments.cache
    total = 0
    for one in listing(cache):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used))
        print(f"{one.size / (1 << 20):8.0f} MB  {used}  {one.path.relative_to(cache)}")
        total += one.size
    print(f"{total / (1 << 20):8.0f} MB  in {cache}")
    return 0


def smaller(arguments: argparse.Namespace) -> int:
    """Prune the cache."""
    from pytest_iommu.core.model import parse_size
    from pytest_iommu.images.store import Store, prune

    try:
        limit = parse_size(arguments.max_size)
    except ValueError:
        raise SetupError(f"--max-size takes a size such as 10G, not {arguments.max_size!r}") from None
    if not arguments.cache.is_dir():
        print(f"no cache at {arguments.cache}")
        return 0
    removed = prune(Store(arguments.cache), limit, print)
    print(f"{removed / (1 << 20):.0f} MB removed")
    return 0
