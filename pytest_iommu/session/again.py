# SPDX-License-Identifier: GPL-2.0-only
"""The command line that runs one test again: it has to find the same test and run it in the same way when pasted.

Of pytest's own options those are kept that decide how a test is found and run, as far as they were given on the command
line: ini files and PYTEST_ADDOPTS are there the next time. What selects, repeats, distributes or prints is left out; so
are options of other plugins.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import pytest

from pytest_iommu.session import nodeids

if TYPE_CHECKING:
    from pytest_iommu.core.settings import Settings

#: attribute of pytest's namespace -> the option; those of a list may be given several times
_KEPT = {
    "inifilename": "-c",
    "rootdir": "--rootdir",
    "confcutdir": "--confcutdir",
    "noconftest": "--noconftest",
    "collect_in_virtualenv": "--collect-in-virtualenv",
    "importmode": "--import-mode",
    "plugins": "-p",
    "override_ini": "-o",
    "pythonwarnings": "-W",
    "runxfail": "--runxfail",
}
#: what selects: it is kept only where it stands against the same option of an ini file
_SELECTING = {"markexpr": "-m", "keyword": "-k"}

_PARSERS: WeakKeyDictionary[pytest.PytestPluginManager, pytest.Parser] = WeakKeyDictionary()


def remember(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Keep the parser of a run, which alone knows how its command line is read."""
    _PARSERS[pluginmanager] = parser


def program() -> tuple[str, ...]:
    """How pytest was started, as it can be typed again."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return (_command(Path(sys.executable)), "-m", started.parent.name)
    return (_command(started),)


def _command(path: Path) -> str:
    """A program by its name where that finds it, else by its path."""
    found = shutil.which(path.name)
    return path.name if found is not None and os.path.abspath(found) == os.path.abspath(path) else _near(path)


def _near(path: Path) -> str:
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith(os.pardir) else relative


def options(config: pytest.Config) -> tuple[str, ...]:
    """The options of pytest itself that have to be given again."""
    parser = _PARSERS.get(config.pluginmanager)
    if parser is None or config.option.help:
        return ()
    given, nothing, everywhere = (
        vars(parser.parse_known_args(list(words))) for words in (config.invocation_params.args, (), _standing(config))
    )
    words: list[str] = []
    for name, flag in (_KEPT | {name: flag for name, flag in _SELECTING.items() if everywhere.get(name)}).items():
        if given.get(name) != nothing.get(name):
            words += _words(flag, given[name])
    return tuple(words)


def _standing(config: pytest.Config) -> list[str]:
    """Arguments that every run in this place and shell gets."""
    return [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.getini("addopts")]


def _words(flag: str, value: object) -> Iterator[str]:
    if value is True:
        yield flag
    elif isinstance(value, list):
        for one in value:
            yield from (flag, str(one))
    elif flag.startswith("--"):
        yield f"{flag}={value}"
    else:
        yield from (flag, str(value))


def line(item: pytest.Item, settings: Settings) -> str:
    """The command line, to be typed in the directory where pytest was started."""
    config, given = item.config, [*settings.pytest_options, *settings.given]
    start = config.invocation_params.dir
    _, colons, rest = item.nodeid.partition("::")
    more: list[str] = []
    if config.rootpath in item.path.parents:
        file = near(item.path, start)
    elif (known := nodeids.of_suite(item.path)) is not None:
        file = known
    else:
        # By its path alone pytest would look for another ini file, and take another directory for the root.
        file = near(item.path, start)
        words = [word.partition("=")[0] for word in given]
        more += [] if "--rootdir" in words else [f"--rootdir={near(config.rootpath, start)}"]
        more += [] if "-c" in words or config.inipath is None else ["-c", near(config.inipath, start)]
    return shlex.join([*settings.program, f"{file}{colons}{rest}", *more, *given])


def near(path: Path, start: Path) -> str:
    """A path relative to ``start``, or absolute when the relative one would lead more than one directory up."""
    relative = os.path.relpath(path, start)
    return str(path) if relative.startswith(os.path.join(os.pardir, os.pardir)) else relative
