# SPDX-License-Identifier: GPL-2.0-only
"""Node ids of the suite: the same wherever it is installed and from wherever it is run, and good to be pasted.

A file outside the root directory has a node id that begins at the argument it was found by: with
``--pyargs pytest_iommu.conformance`` that is ``scenarios/basics.iommu.yaml``, a path that leads nowhere. The suite's
own files have ``pytest_iommu/conformance/scenarios/basics.iommu.yaml`` instead, which is where they are in our tree,
and which is taken as an argument in any directory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_iommu.core import paths

SUITE = paths.PACKAGE / "conformance"
NAME = "pytest_iommu/conformance"
MODULE = NAME.replace("/", ".")


def of_suite(path: Path) -> str | None:
    """The node id of one of the suite's files; None for any other."""
    try:
        return (Path(NAME) / path.resolve().relative_to(SUITE)).as_posix()
    except ValueError:
        return None


def pasted(argument: str, start: Path, root: Path) -> str | None:
    """The argument as a node id of the suite. None for an existing path and for any other argument.

    ``start`` is the directory in which pytest was started. What pytest prints is relative to it, a node id to ``root``.
    """
    file, colons, rest = argument.partition("::")
    path = Path(os.path.normpath(start / file))
    if path.exists():
        return None
    for base in (start, root):
        name = Path(os.path.relpath(path, base)).as_posix()
        if name.startswith(f"{NAME}/") and (SUITE / name.removeprefix(f"{NAME}/")).exists():
            return f"{name}{colons}{rest}"
    return None


def take_pasted(config: pytest.Config, arguments: list[str]) -> None:
    """Replace node ids of the suite among the command line's words by the suite, and have the rest of it left out.

    As a package it is found wherever it is installed. A path of a file in it would not do: pytest looks for conftest.py
    in all directories above one.
    """
    known = config.known_args_namespace
    nodeids = {word: pasted(word, config.invocation_params.dir, config.rootpath) for word in known.file_or_dir}
    chosen = [nodeid for nodeid in nodeids.values() if nodeid is not None]
    if not chosen:
        return
    words = [word for word, nodeid in nodeids.items() if nodeid is None]
    for word, nodeid in nodeids.items():
        if nodeid is not None:
            arguments.remove(word)
        elif not known.pyargs and os.sep not in word:
            # A path that is there must not become the name of a module.
            arguments[arguments.index(word)] = os.path.join(os.curdir, word)
    if MODULE not in words or not known.pyargs:
        arguments += ["--pyargs", MODULE]
        config.pluginmanager.register(Selection(chosen), "iommu-selection")
    known.pyargs = True
    known.file_or_dir[:] = words


class Selection:
    """A plugin that leaves out what is in the suite and was not asked for."""

    def __init__(self, nodeids: Sequence[str]) -> None:
        self._nodeids = nodeids
        self._files = {nodeid.partition("::")[0] for nodeid in nodeids}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Files that nothing was asked of, and directories of none that something was asked of."""
        name = of_suite(collection_path)
        if name is None or any(f"{file}/".startswith(f"{name}/") or _below(name, file) for file in self._files):
            return None
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tests that were not asked for. UsageError where there is no such test."""
        for nodeid in self._nodeids:
            if not any(_below(item.nodeid, nodeid) for item in items):
                raise pytest.UsageError(f"not found: {nodeid}")
        items[:] = [
            item
            for item in items
            if of_suite(item.path) is None or any(_below(item.nodeid, nodeid) for nodeid in self._nodeids)
        ]


def _below(nodeid: str, chosen: str) -> bool:
    """Whether a test is the one that was chosen, or a part of it."""
    return nodeid == chosen or nodeid.startswith((f"{chosen}/", f"{chosen}::", f"{chosen}["))
