# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu kselftest DIRECTORY``: write the selftest, into a kernel tree or anywhere, and build it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_iommu.core.paths import user_path

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("kselftest", help="Write the kernel selftest, into a kernel tree or anywhere.")
    parser.add_argument("directory", type=user_path, help="Kernel tree or any other directory.")
    parser.add_argument("--kernel", type=user_path, metavar="TREE", help="Build it with this tree's kselftest.")
    parser.add_argument(
        "--kdir",
        type=user_path,
        metavar="BUILD",
        help="Build the module for this kernel build.",
    )
    parser.add_argument("--machine", default="smmuv3", help="Machine that it is built for (default: %(default)s).")
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
