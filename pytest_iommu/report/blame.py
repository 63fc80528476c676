# SPDX-License-Identifier: GPL-2.0-only
"""Attributes an exception outside pytest_iommu.core.outcomes: to the test, to this package, or to another plugin.

Only a test's own assertion says something about the rules the test is marked with. A timeout of another plugin, an
error in the test or a full table of open files does not.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import _pytest
import pytest

import pytest_iommu
from pytest_iommu.core.outcomes import CheckFailed, ForeignError, GuestAnswered, IommuError, SetupError, SetupLost
from pytest_iommu.core.process import no_room

PACKAGE = Path(pytest_iommu.__file__).parent
SUITE = PACKAGE / "conformance"
PYTEST = Path(_pytest.__file__).parent


def outcome_of(
    item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException], declared: tuple[str, ...]
) -> IommuError:
    """Return the outcome of a test that ended with this exception; ``declared`` are the rules its assertions test."""
    error = excinfo.value
    files = [entry.path for entry in reversed(excinfo.traceback) if isinstance(entry.path, Path)]
    # pytest.fail() and pytest.raises() raise on behalf of their callers.
    raiser = next((path for path in files if PYTEST not in path.parents), None)
    if isinstance(error, (AssertionError, pytest.fail.Exception)) and not _foreign(item, raiser):
        return CheckFailed(str(error), declared)
    if isinstance(error, GuestAnswered):
        return CheckFailed(str(error))
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (OSError, MemoryError)) and _raised_in(item, files) is PACKAGE:
        return (SetupLost if no_room(error) else SetupError)(f"this machine cannot provide what the run needs: {text}")
    return ForeignError(text)


def _foreign(item: pytest.Item, raiser: Path | None) -> bool:
    """Whether that file belongs to this package or to an installed plugin; a test's own file and its helpers do not."""
    if raiser is None or _ours(raiser):
        return True
    roots = [root for root in _plugins(item.config) if root not in (item.path, *item.path.parents)]
    return any(root in (raiser, *raiser.parents) for root in roots)


def _ours(path: Path) -> bool:
    return PACKAGE in path.parents and SUITE not in path.parents


def _raised_in(item: pytest.Item, files: list[Path]) -> Path | None:
    """Return PACKAGE or the test's own file, whichever is closer to where the exception was raised."""
    for path in files:
        if _ours(path):
            return PACKAGE
        if path == item.path:
            return path
    return None


def _plugins(config: pytest.Config) -> Iterator[Path]:
    """Return the file of each installed plugin, or its package directory if it is part of a package."""
    for plugin, _ in config.pluginmanager.list_plugin_distinfo():
        name = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
        file = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
        if file is not None and PACKAGE not in Path(file).parents:
            yield Path(file).parent if Path(file).name == "__init__.py" else Path(file)
