# SPDX-License-Identifier: GPL-2.0-only
"""Commands that take pytest's options: pytest itself reads command line, ini file, plugins and conftest.py for them.

A command therefore builds, boots and lists exactly what a run in the same directory would, with the machines and
dialects of other plugins. Options may be written with or without their ``--iommu-``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.session.options import OPTIONS

if TYPE_CHECKING:
    from pytest_iommu.session.run import Run

KERNEL = ("kernel", "config", "make-arg", "reference", "offline", "cache")
"""The options of every command that deals with kernels."""

_NO_SESSION = ("-s", "-p", "no:cacheprovider", "-p", "iommu")


def add_options(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add options of pytest; ``helps`` are texts for a command where one means less, or more, than in a run."""
    for option in OPTIONS:
        if option.name not in names:
            continue
        flags = [option.flag.replace("--iommu-", "--"), option.flag]
        about = helps.get(option.name.replace("-", "_"), option.text)
        # "cache" may also stand before the command, where its default must not be undone.
        own = {"default": argparse.SUPPRESS} if option.name == "cache" else {}
        parser.add_argument(*flags, help=about, **option.parsed | own)


def words(arguments: argparse.Namespace) -> list[str]:
    """The options as pytest takes them."""
    return [word for option in OPTIONS for word in option.words(getattr(arguments, option.key, None))]


class _Caller:
    """A pytest plugin that calls the command in the place of a session."""

    def __init__(self, command: Callable[[Run], int]) -> None:
        self._command = command
        self.status = 2

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Make the Run that a session would have."""
        from pytest_iommu.session.lifecycle import run_of

        self.status = self._command(run_of(config))
        return self.status


def call(arguments: argparse.Namespace, command: Callable[[Run], int]) -> int:
    """Call a command with the Run of these options, and return its exit status; 2 where pytest refuses them.

    SetupError where a value is wrong, and what the command raises.
    """
    caller = _Caller(command)
    pytest.main([*_NO_SESSION, *words(arguments)], plugins=[caller])
    return caller.status
