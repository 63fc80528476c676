# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu build``: fetch and build everything that a run needs, before it."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.session.run import Run


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build", help="Fetch and build everything that a run needs.", description=with_pytest.__doc__
    )
    with_pytest.add_options(parser, *with_pytest.KERNEL, "machine", "flavour", "image", "modules", "qemu")
    parser.set_defaults(run=partial(with_pytest.call, command=build))


def build(run: Run) -> int:
    """Build the kernels of all machines and flavours that were chosen."""
    from pytest_iommu.images import Progress

    hook, progress = run.config.hook.pytest_iommu_kernel, Progress(sys.stderr)
    for key in run.allowed:
        machine = run.machine(key.machine)
        made = hook(config=run.config, machine=machine, flavour=key.flavour, progress=progress)
        print(f"{made.machine} {key.flavour}: {made.describe()}")
        print(f"  image   {made.image}\n  initrd  {made.initrd}\n  vmlinux {made.vmlinux or '-'}")
        for step, seconds in made.timings.items():
            print(f"  {seconds:7.1f} s  {step}")
    return 0
