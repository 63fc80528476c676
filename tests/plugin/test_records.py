# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-record in whole runs: with any number of workers, what was recorded can be replayed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bench import Bench


def indexes(recording: Path) -> list[str]:
    """The names of a recording's indexes that have an answer in them."""
    return sorted(path.name for path in recording.glob("index-*.jsonl") if path.read_text())


@pytest.mark.parametrize(("workers", "name"), [("-n0", "index-main.jsonl"), ("-n2", "index-gw[01].jsonl")])
def test_a_recorded_run_can_be_replayed(recorded: Bench, workers: str, name: str) -> None:
    recorded.run(workers, "--iommu-record=again").assert_outcomes(passed=3, skipped=1)
    again = recorded.pytester.path / "again"
    (index,) = indexes(again)
    assert re.fullmatch(name, index)
    result = recorded.pytester.runpytest_subprocess(f"--iommu-target=replay:{again}")
    result.assert_outcomes(passed=3, skipped=1)


def test_a_recording_replaces_an_earlier_one(recorded: Bench) -> None:
    recorded.run("-n0", "--iommu-record=again")
    recorded.run("-n2", "--iommu-record=again").assert_outcomes(passed=3, skipped=1)
    (index,) = indexes(recorded.pytester.path / "again")
    assert re.fullmatch("index-gw[01].jsonl", index)


@pytest.mark.parametrize("option", ["--collect-only", "--iommu-list", "--deselect=basics.iommu.yaml"])
def test_a_run_without_tests_leaves_a_recording_alone(recorded: Bench, option: str) -> None:
    recorded.run("--iommu-record=again")
    recorded.run("--iommu-record=again", option)
    assert indexes(recorded.pytester.path / "again") == ["index-main.jsonl"]


def test_the_machines_are_those_of_the_recording(recorded: Bench) -> None:
    recorded.run("--iommu-record=again")
    again = recorded.pytester.path / "again"
    index = again / "index-main.jsonl"
    index.write_text(index.read_text().replace('"smmuv3/plain', '"smmuv3topo/plain'))
    result = recorded.pytester.runpytest_subprocess(f"--iommu-target=replay:{again}")
    result.stdout.fnmatch_lines(["iommu: target replay, machine smmuv3topo, flavour plain"])
    other = recorded.pytester.runpytest_subprocess(f"--iommu-target=replay:{again}", "--iommu-machine=smmuv3")
    other.stdout.fnmatch_lines(["*has no recording of a guest smmuv3/plain, but of smmuv3topo/plain*"])


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_disk_that_is_full_ends_the_run_once(recorded: Bench, workers: str) -> None:
    """Every other test would say the same."""
    recorded.pytester.makeconftest(
        """
        import errno, os, pathlib

        _write = pathlib.Path.write_bytes

        def write(path, data):
            if path.parent.name == "replies":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return _write(path, data)

        pathlib.Path.write_bytes = write
        """
    )
    result = recorded.run(workers, "--iommu-record=again", "--iommu-json=run.json")
    assert result.ret == 6
    tests = json.loads((recorded.pytester.path / "run.json").read_text())
    assert [test.get("kind") for test in tests["tests"] if test["outcome"] == "failed"] == ["setup-error"]
    assert result.stdout.str().count("\nsetup-error: --iommu-record: ") == 1
    assert tests["run"]["ended"].startswith("setup-error: --iommu-record: ")
    assert tests["run"]["ended"].endswith("No space left on device")
