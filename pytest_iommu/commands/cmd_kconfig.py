# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu kconfig DIRECTORY``: the configuration that a machine and flavour need, for a tree of one's own."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest
from pytest_iommu.core.paths import user_path

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.session.run import Run


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("kconfig", help="Write the configuration fragment for your own kernel build.")
    parser.add_argument("directory", type=user_path, help="Directory for the fragment.")
    with_pytest.add_options(parser, "machine", "flavour", "config")
    parser.set_defaults(run=lambda arguments: with_pytest.call(arguments, partial(write, arguments.directory)))


def write(directory: Path, run: Run) -> int:
    """Write the fragment of the first machine and flavour."""
    from pytest_iommu.images import config

    key = run.allowed[0]
    symbols = config.merged(run.machine(key.machine), key.flavour, run.settings.config)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"iommu-{key.machine}-{key.flavour}.config"
    target.write_text(config.text(symbols))
    print(f"{target}\nLay it over a tree's configuration with: scripts/kconfig/merge_config.sh -m .config {target}")
    return 0
