# SPDX-License-Identifier: GPL-2.0-only
"""The program ``pytest-iommu``: everything around test runs. Each subcommand is a file of commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pytest_iommu.commands import (
    cmd_bisect_step,
    cmd_build,
    cmd_cache,
    cmd_doctor,
    cmd_export,
    cmd_flavours,
    cmd_image,
    cmd_judge,
    cmd_kcidb,
    cmd_kconfig,
    cmd_kselftest,
    cmd_lint,
    cmd_machines,
    cmd_rules,
    cmd_schema,
    cmd_shell,
    cmd_walk,
)
from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError

COMMANDS = (
    *(cmd_doctor, cmd_build, cmd_image, cmd_cache, cmd_shell, cmd_machines, cmd_flavours, cmd_rules, cmd_lint),
    *(cmd_walk, cmd_judge, cmd_schema, cmd_bisect_step, cmd_kcidb, cmd_kselftest, cmd_export, cmd_kconfig),
)


def parser_of_all() -> argparse.ArgumentParser:
    """The parser of the program and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="pytest-iommu",
        description="Build and boot the kernels of pytest-iommu, and work with its results. Tests are run by pytest.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('pytest-iommu')}")
    parser.add_argument(
        "--cache",
        dest="iommu_cache",
        metavar="DIR",
        help=f"Cache directory, as --iommu-cache of pytest (default: {paths.default_cache()}).",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    try:
        arguments = parser_of_all().parse_args(argv)
        given = arguments.iommu_cache
        arguments.cache = paths.require_cache(paths.user_path(given)) if given else paths.default_cache()
        return int(arguments.run(arguments))
    except SetupError as error:
        print(f"pytest-iommu: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pytest-iommu: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
