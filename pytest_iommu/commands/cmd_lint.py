# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu lint FILE...``: the mistakes of scenario and machine files, found without a guest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.paths import SCENARIOS, user_path

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.session.run import Run


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "lint",
        help="Check scenario and machine files without a guest.",
        description="Check scenario files (*.iommu.yaml) and machine files (*.yaml): grammar, names, and whether each "
        "scenario agrees with the model of its page tables. Prints FILE:LINE: MESSAGE and exits with 1 on a mistake.",
    )
    parser.add_argument("files", nargs="+", type=user_path, metavar="FILE", help="File to check.")
    parser.set_defaults(run=lambda arguments: with_pytest.call(arguments, partial(check, arguments.files)))


def check(files: Sequence[Path], run: Run) -> int:
    """Print the mistakes of the files; 1 when there is one."""
    assert run.machines  # scenarios may name those of other plugins
    wrong = [line for path in files for line in mistakes(path)]
    print("\n".join(wrong) or f"no mistake in {len(files)} files")
    return 1 if wrong else 0


def mistakes(path: Path) -> list[str]:
    """The mistakes of one file, a line each: the first one of its grammar, else one of every case at most."""
    from pytest_iommu import formats
    from pytest_iommu.core import machines
    from pytest_iommu.scenario import contradictions, load

    try:
        if not path.name.endswith(SCENARIOS):
            stages = machines.load(path).stages
            known = formats.names()
            unknown = {name: stage.format for name, stage in stages.items() if stage.format not in known}
            why = f"known: {', '.join(known)}"
            return [f"{path}: stage {name}: unknown format {found!r}; {why}" for name, found in unknown.items()]
        return contradictions(load(path))
    except SetupError as error:
        return [error.message]
