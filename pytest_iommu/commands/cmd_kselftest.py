# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu kselftest DIRECTORY``: write the selftest, into a kernel tree or anywhere, and build it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("kselftest", help="write the kernel selftest, into a kernel tree or anywhere")
    parser.add_argument("directory", type=Path, help="a kernel tree: it goes where it belongs there; else just there")
    parser.add_argument("--kernel", type=Path, metavar="TREE", help="build it there, with this tree's kselftest")
    parser.add_argument("--kdir", type=Path, metavar="BUILD", help="build the module, too, for the kernel built there")
    parser.add_argument("--machine", default="smmuv3", help="whose processor it is built for, static")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write, and build where a tree for that is given."""
    from pytest_iommu.check.kselftest import export
    from pytest_iommu.core import machines

    target, tree = arguments.directory, None
    if (target / "tools/testing/selftests/lib.mk").is_file():
        tree, target = target, export.in_tree(target)
    files = export.export(target)
    print(f"{target}: {len(files)} files")
    if tree is not None and export.add_target(tree):
        print(f"{tree}/tools/testing/selftests/Makefile: TARGETS += {export.NAME}")
    if arguments.kernel is not None:
        machine = machines.get(arguments.machine)
        words = [f"ARCH={machine.make_arch}", f"CROSS_COMPILE={machine.cross_compile}", "USERLDFLAGS=-static"]
        words.append(f"KDIR={arguments.kdir.absolute() if arguments.kdir else ''}")
        export.build(target, export.in_tree(arguments.kernel.absolute()).parent, words)
        print(f"{target}: built for {machine.make_arch}" + ("" if arguments.kdir else ", without the module"))
    return 0
