# SPDX-License-Identifier: GPL-2.0-only
"""--collect-only finds what contradicts the model; a run compiles a scenario when its turn comes, and not before."""

from __future__ import annotations

import pytest
from bench import Bench

CONTRADICTS = """\
  - name: unmaps-nothing
    rules: [RNG-1]
    stages: [s1]
    do:
      - unmap: {iova: 0x1000000, size: 4K}
"""
LINE = 25


@pytest.fixture
def contradicting(recorded: Bench) -> Bench:
    """Its last case unmaps what is not mapped; the recording is of the file without it."""
    recorded.scenarios.write_text(recorded.scenarios.read_text() + CONTRADICTS)
    assert recorded.scenarios.read_text().splitlines()[LINE - 1].lstrip().startswith("- unmap")
    return recorded


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_contradiction_is_a_collection_error(contradicting: Bench, workers: list[str]) -> None:
    result = contradicting.pytester.runpytest_subprocess("--collect-only", "-q", *workers)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting basics.iommu.yaml*",
            f"*basics.iommu.yaml:{LINE}: unmaps-nothing[[]smmuv3-s1-4k]: *0x1000000 is not mapped*",
            "*1 error*",
        ]
    )


def test_a_case_is_named_once_however_many_variants_it_has(bench: Bench) -> None:
    bench.scenarios.write_text(bench.scenarios.read_text() + CONTRADICTS.replace("[s1]", "[s1, s2]"))
    result = bench.pytester.runpytest_subprocess("--collect-only", "-q")
    assert [line for line in result.stdout.lines if f"basics.iommu.yaml:{LINE}:" in line and "FAILED" not in line]
    assert not [line for line in result.stdout.lines if "s2-4k" in line]


def test_what_agrees_with_the_model_is_listed(bench: Bench) -> None:
    result = bench.pytester.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*one-page[[]smmuv3-s1-4k]*", "*4 tests collected*"])


def test_a_run_does_not_compile_what_it_does_not_run(contradicting: Bench) -> None:
    contradicting.pytester.makeconftest(
        """
        from pytest_iommu import scenario

        def contradictions(suite):
            print("ALL COMPILED", suite.name)
            return []

        scenario.contradictions = contradictions
        """
    )
    run = contradicting.run("-s", "-k", "one-page")
    run.assert_outcomes(passed=2, deselected=3)
    run.stdout.no_fnmatch_line("*ALL COMPILED*")
    contradicting.run("-s", "--collect-only").stdout.fnmatch_lines(["*ALL COMPILED basics"])


def test_a_contradicting_case_fails_alone_in_a_run(contradicting: Bench) -> None:
    result = contradicting.run()
    result.assert_outcomes(passed=3, skipped=1, failed=1)
    result.stdout.fnmatch_lines([f"*basics.iommu.yaml:{LINE}: unmaps-nothing*is not mapped*"])
