# SPDX-License-Identifier: GPL-2.0-only
"""Calls the hooks of newhooks.py that tell other plugins what happened.

What such a plugin raises is a mistake of its own: it must neither change nor hide what it was told about. It fails the
test that was running, at its end, as an error of the set-up that names the plugin.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_iommu.core.outcomes import SetupError

_KEPT: pytest.StashKey[list[str]] = pytest.StashKey()

# The outcomes of pytest, but for pytest.exit(), are no subclasses of Exception.
_RAISED = (Exception, pytest.fail.Exception, pytest.skip.Exception)


def tell(config: pytest.Config, hook: Any, **arguments: object) -> Any:
    """Call a hook and return what it returns, or None when it raised something; that is kept for the test's end."""
    try:
        return hook(**arguments)
    except pytest.exit.Exception:
        raise
    except _RAISED as error:
        kept = config.stash.setdefault(_KEPT, [])
        message = of_plugin(hook, error).message
        if message not in kept:  # a hook may be called many times in a test
            kept.append(message)
        return None


def of_plugin(hook: Any, error: BaseException) -> SetupError:
    """The error that a hook raised, naming the plugin and where in it that was."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for place, (frame, _) in enumerate(frames):
        for one in hook.get_hookimpls():
            if frame.f_code is getattr(one.function, "__code__", None):
                trace = traceback.StackSummary.extract(iter(frames[place:])).format()
                what = f"{hook.name}() of plugin {one.plugin_name} raised {type(error).__name__}: {error}"
                return SetupError("\n".join([what, *"".join(trace).rstrip().splitlines()]))
    return SetupError(f"{hook.name}() of a plugin raised {type(error).__name__}: {error}")


def listener(item: pytest.Item) -> Callable[[object], None]:
    """Tells other plugins of a comparison that a test makes."""

    def compared(comparison: object) -> None:
        tell(item.config, item.ihook.pytest_iommu_compared, item=item, comparison=comparison)

    return compared


class KeptErrors:
    """A plugin that fails a test at its end with what hooks raised while it ran."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """After all else, which may call hooks as well; an error of the teardown itself goes first."""
        result = yield
        kept = item.config.stash.get(_KEPT, [])
        if kept:
            item.config.stash[_KEPT] = []
            raise SetupError("\n\n".join(kept))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A guest may be lost in the teardown as well; that has failed then, and the plugin's error is said beside."""
        report = yield
        kept = item.config.stash.get(_KEPT, [])
        if kept and report.when == "teardown":
            item.config.stash[_KEPT] = []
            report.sections.append(("errors of hooks", "\n\n".join(kept)))
        return report
