# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu schema WHAT``: the JSON Schema of scenario or machine files, for editors that complete from one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_iommu.core.paths import PACKAGE

if TYPE_CHECKING:
    from argparse import _SubParsersAction

SCHEMAS = {
    "scenario": PACKAGE / "scenario" / "scenario.schema.json",
    "machine": PACKAGE / "core" / "machine.schema.json",
}


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "schema",
        help="Print the JSON Schema of scenario or machine files, for an editor.",
        description="Print the JSON Schema (draft 2020-12) of scenario files (*.iommu.yaml) or of machine files. An "
        "editor completes from it when the file begins with `# yaml-language-server: $schema=PATH`.",
    )
    parser.add_argument("what", choices=SCHEMAS, metavar="WHAT", help=f"One of {', '.join(SCHEMAS)}.")
    parser.set_defaults(run=show)


def show(arguments: argparse.Namespace) -> int:
    """Print it."""
    print(SCHEMAS[arguments.what].read_text(encoding="utf-8"), end="")
    return 0
