# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-report, --iommu-seed and --iommu-examples in whole runs on recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import Bench


def rules(folder: Path) -> dict[str, Any]:
    return {rule["id"]: rule for rule in json.loads((folder / "rules.json").read_text())["rules"]}


def test_the_report_is_the_same_with_any_number_of_workers(recorded: Bench) -> None:
    texts = []
    for workers in ("-n0", "-n2", "-n4"):
        folder = recorded.pytester.path / workers
        recorded.run(f"--iommu-report={folder}", workers).assert_outcomes(passed=3, skipped=1)
        texts.append(((folder / "rules.json").read_text(), (folder / "rules.md").read_text()))
    assert texts[0] == texts[1] == texts[2]
    found = rules(folder)
    assert found["RNG-1"]["outcome"] == "passed"
    assert found["CON-1"]["outcome"] == "skipped"
    assert found["LAY-1"]["outcome"] == "uncovered"
    assert [test["test"] for test in found["RNG-1"]["tests"]] == [
        "basics.iommu.yaml::basics::one-page[smmuv3-s1-4k]",
        "basics.iommu.yaml::basics::one-page[smmuv3-s2-4k]",
    ]
    skipped = found["CON-1"]["tests"][0]
    assert skipped["reason"] == "needs kernel flavour debug: --iommu-flavour=plain,debug"
    guests = json.loads(texts[0][0])["guests"]
    assert guests == [{"machine": "smmuv3", "flavour": "plain", "kernel": None, "qemu": None}]


def test_the_report_of_a_run_that_fails(bench: Bench) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041000000", "0x0000000041000001"))
    bench.pytester.makeini("[pytest]\niommu_report = out\n")
    bench.run("-n2").assert_outcomes(failed=3, skipped=1)
    found = rules(bench.pytester.path / "out")
    assert found["RNG-4"]["outcome"] == "failed"
    test = found["RNG-4"]["tests"][0]
    assert (test["kind"], test["outcome"]) == ("fail", "failed")
    assert "RNG-4" in test["broke"]


def test_a_report_that_cannot_be_written(recorded: Bench) -> None:
    (recorded.pytester.path / "file").write_text("")
    result = recorded.run("--iommu-report=file/out")
    result.stdout.fnmatch_lines(["iommu: --iommu-report=*/file/out/rules.* cannot be written: Not a directory"])
    assert result.ret == 6


def test_a_listing_writes_no_report(recorded: Bench) -> None:
    recorded.run("--iommu-list", "--iommu-report=out")
    assert not (recorded.pytester.path / "out").exists()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_random_seed_is_said_and_is_in_the_line_that_runs_a_test_again(bench: Bench, workers: str) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041000000", "0x0000000041000001"))
    result = bench.run("--iommu-seed=random", "--iommu-examples=7", workers)
    (said,) = [line for line in result.outlines if line.startswith("iommu: --iommu-seed=")]
    seed = said.removeprefix("iommu: ")
    assert seed.removeprefix("--iommu-seed=").isdecimal()
    again = [line for line in result.outlines if "again: " in line]
    assert len(again) == 3
    assert all(line.split()[-1] == seed and "--iommu-examples=7" in line for line in again)


@pytest.mark.parametrize("option", ["--iommu-seed=today", "--iommu-examples=-1", "--iommu-seed="])
def test_a_seed_or_number_that_is_none(recorded: Bench, option: str) -> None:
    result = recorded.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option.partition('=')[0]} takes a number, not *"])


@pytest.mark.parametrize("examples", ["5", "3000"])
def test_the_tests_there_are_do_not_depend_on_the_examples(recorded: Bench, examples: str) -> None:
    recorded.pytester.syspathinsert()
    arguments = ["--pyargs", "pytest_iommu.conformance.test_generated", "--collect-only", "-q"]
    result = recorded.run(*arguments, f"--iommu-examples={examples}", "--iommu-seed=random")
    assert sum("test_generated_scenarios[" in line for line in result.outlines) == 14


def test_without_hypothesis_generated_scenarios_are_skipped(recorded: Bench) -> None:
    recorded.pytester.makeconftest(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'hypothesis' else find(name, *more)\n"
    )
    result = recorded.run(
        "-rs", "--pyargs", "pytest_iommu.conformance.test_generated", "--confcutdir=.", "-c", "/dev/null"
    )
    result.stdout.fnmatch_lines(["*needs hypothesis, the extra `generate`: pip install pytest-iommu[[]generate[]]*"])
