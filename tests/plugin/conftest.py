# SPDX-License-Identifier: GPL-2.0-only
"""What the plugin's tests share."""

from __future__ import annotations

import pytest
from bench import Bench


@pytest.fixture(autouse=True)
def _the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CI pytest would print more."""
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Bench:
    return Bench(pytester)


@pytest.fixture
def recorded(bench: Bench) -> Bench:
    bench.record()
    return bench
