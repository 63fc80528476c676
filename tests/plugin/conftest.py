# SPDX-License-Identifier: GPL-2.0-only
"""What the plugin's tests share."""

from __future__ import annotations

import pytest
from bench import Bench


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Bench:
    return Bench(pytester)


@pytest.fixture
def recorded(bench: Bench) -> Bench:
    bench.record()
    return bench
