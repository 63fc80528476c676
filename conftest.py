# SPDX-License-Identifier: GPL-2.0-only
"""For the project's own tests. The plugin comes from its entry point; named here as well, pytest refuses it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

pytest_plugins = ("pytester",)


@pytest.fixture
def _signals_are_heard() -> Iterator[None]:
    """What a process ignores its children ignore as well, and nohup and a shell's & have some signals ignored."""
    ignored = [one for one in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.fixture
def pytester(
    pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, _signals_are_heard: None
) -> pytest.Pytester:
    """A pytest that a test starts leaves out the same plugins as this one; it does not read our pyproject.toml."""
    off = [option for option in pytestconfig.getini("addopts") if option.startswith("-pno:")]
    assert off
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(off))  # pytester itself has just removed it
    return pytester
