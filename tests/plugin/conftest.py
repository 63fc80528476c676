# SPDX-License-Identifier: GPL-2.0-only
"""What the plugin's tests share."""

from __future__ import annotations

import pytest
from bench import Bench


@pytest.fixture(autouse=True)
def _no_plugin_of_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in pyproject.toml, which does not hold where these runs take place: it costs each of them a second."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Bench:
    return Bench(pytester)


@pytest.fixture
def recorded(bench: Bench) -> Bench:
    bench.record()
    return bench
