# SPDX-License-Identifier: GPL-2.0-only
"""Whether a worker may keep more guests than it needs: there has to be memory for those of all workers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_iommu.session import run
from pytest_iommu.session.pool import MOST
from pytest_iommu.session.run import Run
from pytest_iommu.targets.qemu import HEADROOM

LARGE = 512 << 20
ENOUGH = 3 * MOST * (LARGE + HEADROOM)


@pytest.mark.parametrize(
    ("available", "emulated", "workers", "room"),
    [
        (ENOUGH, True, 3, True),
        (ENOUGH - 1, True, 3, False),
        (ENOUGH, True, 4, False),
        (ENOUGH, False, 3, False),
        (None, True, 1, False),
        (ENOUGH, True, None, True),
    ],
)
def test_room(
    monkeypatch: pytest.MonkeyPatch, available: int | None, emulated: bool, workers: int | None, room: bool
) -> None:
    monkeypatch.setattr(run, "available_memory", lambda: available)
    sizes = {"small": SimpleNamespace(memory=1 << 20), "large": SimpleNamespace(memory=LARGE)}
    one = SimpleNamespace(
        kind=SimpleNamespace(emulated=emulated),
        config=SimpleNamespace() if workers is None else SimpleNamespace(workerinput={"workercount": workers}),
        settings=SimpleNamespace(machines=("small", "large")),
        machine=sizes.__getitem__,
    )
    assert Run._room(one) is room  # type: ignore[arg-type]
