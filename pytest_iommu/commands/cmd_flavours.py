# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu flavours``: the kernel configurations there are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("flavours", help="List the kernel flavours, separated by commas.")
    parser.set_defaults(run=show)


def show(arguments: argparse.Namespace) -> int:
    """Print them as --iommu-flavour takes them."""

    from pytest_iommu.core import flavours

    print(",".join(flavours.names()))
    return 0
