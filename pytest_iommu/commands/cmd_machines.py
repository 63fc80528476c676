# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu machines``: the machines that --iommu-machine can name, those of other plugins too."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.core.machines import Machine
    from pytest_iommu.session.run import Run


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("machines", help="List the machines that --iommu-machine can name.")
    parser.set_defaults(run=partial(with_pytest.call, command=show))


def show(run: Run) -> int:
    """Print name, architecture, devices and what the machine is for, a line each."""
    rows = [line(machine) for machine in run.machines.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, arch, about in rows:
        print(f"{name:{widths[0]}}  {arch:{widths[1]}}  {about}")
    return 0


def line(machine: Machine) -> tuple[str, str, str]:
    """The columns of a machine."""
    return machine.name, machine.arch, machine.description
