# SPDX-License-Identifier: GPL-2.0-only
"""A run is recorded, and replayed without QEMU or kernel, in another order and by other workers: the same outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.settings import Settings
from pytest_iommu.targets.qemu import Boot

SUITE = paths.conformance()
FILES = (
    *(SUITE / "scenarios" / f"{name}.iommu.yaml" for name in ("basics", "topology")),
    *(SUITE / f"test_{name}.py" for name in ("default_domains", "directories", "streams", "readers")),
)
MACHINES = "--iommu-machine=smmuv3,smmuv3topo"

SHUFFLED = """
import random

def pytest_collection_modifyitems(items):
    random.Random({seed}).shuffle(items)
"""

ONLY_THERE = ("memory", "QEMU", "gdbstub", "storm", "not run", "configuration of this kernel")
"""Words of the reasons why a test that was run cannot be replayed."""


def outcomes(file: Path) -> dict[str, tuple[str, str]]:
    """What became of each test, and the reason."""
    return {test["id"]: (test["outcome"], test.get("reason", "")) for test in json.loads(file.read_text())["tests"]}


def test_a_replay_is_as_the_run_was(
    boot: Boot, pytester: pytest.Pytester, iommu_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As this run: pytester has another home, and a cache there would be empty.
    there_too = [word for word in iommu_settings.given if not word.startswith(("--iommu-target=", "--iommu-machine="))]
    cache = f"--iommu-cache={iommu_settings.cache}"
    words = ["--rootdir=/", MACHINES, *map(str, FILES)]
    options = ("--iommu-target=qemu", *there_too, cache, "--iommu-record=rec", "--iommu-json=0.json")
    pytester.runpytest_subprocess(*options, *words)
    there = outcomes(pytester.path / "0.json")
    assert list(there.values()).count(("passed", "")) > 100, there

    empty = pytester.mkdir("empty")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    for number, workers in ((1, "-n0"), (2, "-n2")):
        (pytester.path / "shuffled.py").write_text(SHUFFLED.format(seed=number))
        options = ("--iommu-target=replay:rec", "--iommu-qemu=none", f"--iommu-cache={empty}", workers)
        pytester.runpytest_subprocess(*options, "-p", "shuffled", f"--iommu-json={number}.json", *words)
        again = outcomes(pytester.path / f"{number}.json")
        assert again.keys() == there.keys()
        for test, (outcome, reason) in again.items():
            cannot = outcome == "skipped" and any(word in reason for word in ONLY_THERE)
            assert outcome == there[test][0] or cannot, f"{test}: {outcome} ({reason}), it {there[test]}"
        assert list(again.values()).count(("passed", "")) > 100
    assert list(empty.iterdir()) == [], "something was fetched or built"
