# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-known in whole runs: what is known is expected to fail, and has to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from ktap_reader import read

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence

SPLAT = "[    3.0] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"
RULE = """\
- name: BUG-7
  reason: the wrong OA
  tests: basics.iommu.yaml::basics::two-pages[*
  rule: RNG-4
"""
CRASH = """\
- name: BUG-8
  reason: warns
  fingerprint: warning:iommu_map
"""
FILES = ("--iommu-known=known.yaml", "--iommu-json=r.json", "--iommu-ktap=r.ktap", "--junitxml=r.xml")


def wrong_oa(case: str, file: str, text: str) -> str:
    """A kernel that shows the wrong OA for one case."""
    return text.replace(" 0x0000000041000000 ", " 0x0000000041002000 ") if case == "two-pages" else text


def known(bench: Bench, text: str) -> None:
    (bench.pytester.path / "known.yaml").write_text(text)


def by_name(bench: Bench) -> dict[str, dict[str, Any]]:
    return {test["name"]: test for test in json.loads((bench.pytester.path / "r.json").read_text())["tests"]}


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_is_known_fails_as_expected(bench: Bench, workers: str) -> None:
    bench.record(wrong_oa)
    known(bench, RULE)
    result = bench.run(*FILES, workers, "-rx", "--iommu-report=.", "--iommu-strict")
    result.assert_outcomes(passed=2, xfailed=1, skipped=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["XFAIL *two-pages* - known issue BUG-7: the wrong OA"])
    test = by_name(bench)["basics.two-pages-smmuv3-s1-4k"]
    assert (test["outcome"], test["known"], test["kind"]) == ("xfailed", "BUG-7", "fail")
    assert test["broke"][0] == "RNG-4"
    assert test["verdict"] == "dump-differs"
    assert test["text"].startswith(
        "the dump differs from what is expected (the guest's memory could not be read): RNG-4"
    )
    _, lines = read((bench.pytester.path / "r.ktap").read_text())
    assert [(line.status, line.data) for line in lines["basics"]][2] == ("XFAIL", "known issue BUG-7: the wrong OA")
    assert (
        'type="pytest.xfail" message="known issue BUG-7: the wrong OA"' in (bench.pytester.path / "r.xml").read_text()
    )
    # It is broken all the same.
    rules = {rule["id"]: rule for rule in json.loads(Path(bench.pytester.path / "rules.json").read_text())["rules"]}
    assert rules["RNG-4"]["outcome"] == "failed"


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_no_longer_fails_is_a_failure(recorded: Bench, workers: str) -> None:
    known(recorded, RULE)
    result = recorded.run(*FILES, workers)
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["known issue BUG-7 no longer fails: the wrong OA", "take it out: *known.yaml:1"])
    test = by_name(recorded)["basics.two-pages-smmuv3-s1-4k"]
    assert (test["outcome"], test["kind"], test["known"]) == ("failed", "unexpected-pass", "BUG-7")
    _, lines = read((recorded.pytester.path / "r.ktap").read_text())
    assert [line.status for line in lines["basics"]] == ["ok", "ok", "not ok", "SKIP"]


def test_what_need_not_fail_may_pass(recorded: Bench) -> None:
    known(recorded, f"{RULE}  strict: false\n{CRASH}  strict: false\n")
    result = recorded.run(*FILES)
    result.assert_outcomes(passed=3, skipped=1)
    assert result.ret == 0


def test_another_failure_of_the_test_is_no_known_one(bench: Bench) -> None:
    bench.record(wrong_oa)
    known(bench, RULE.replace("RNG-4", "RNG-1"))
    result = bench.run(*FILES)
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["the dump differs from what is expected (the guest's memory could not be read): RNG-4"]
    )


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_crash_by_its_fingerprint(bench: Bench, workers: str) -> None:
    bench.record(endings={"two-pages": KernelCrash("warning", Evidence("qemu", SPLAT, SPLAT))})
    known(bench, CRASH)
    result = bench.run(*FILES, workers)
    result.assert_outcomes(passed=2, xfailed=1, skipped=1)
    assert result.ret == 0
    test = by_name(bench)["basics.two-pages-smmuv3-s1-4k"]
    assert (test["known"], test["kind"], test["fingerprint"]) == ("BUG-8", "kernel-crash", "warning:iommu_map")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_crash_that_no_test_met_is_a_failure(recorded: Bench, workers: str) -> None:
    known(recorded, CRASH)
    result = recorded.run(*FILES, workers)
    result.assert_outcomes(passed=3, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["known issue BUG-8 no longer fails: warns", "take it out: *known.yaml:1"])
    assert by_name(recorded)["pytest-iommu.known-issue-BUG-n8"]["kind"] == "unexpected-pass"
    groups, _ = read((recorded.pytester.path / "r.ktap").read_text())
    assert [(group.name, group.status) for group in groups] == [("basics", "ok"), ("pytest-iommu", "not ok")]
    assert 'name="known-issue-BUG-8"' in (recorded.pytester.path / "r.xml").read_text()


def test_where_nothing_ran_nothing_is_gone(recorded: Bench) -> None:
    known(recorded, CRASH)
    assert recorded.run(*FILES, "-k", "needs-debug").ret == 0


def test_a_crash_that_a_plugin_knows_keeps_its_fingerprint(bench: Bench) -> None:
    bench.record(endings={"two-pages": KernelCrash("warning", Evidence("qemu", SPLAT, SPLAT))})
    bench.pytester.makeconftest(
        """
        from pytest_iommu.core.known_issues import KnownIssue

        def pytest_iommu_classify_splat(splat):
            return KnownIssue("BUG-9", "maps twice")
        """
    )
    bench.run("--iommu-json=r.json").assert_outcomes(passed=2, xfailed=1, skipped=1)
    test = by_name(bench)["basics.two-pages-smmuv3-s1-4k"]
    assert (test["reason"], test["fingerprint"]) == ("known issue BUG-9: maps twice", "warning:iommu_map")


@pytest.mark.parametrize(
    ("text", "message"),
    [("- name: a\n", "*known.yaml:1: a known issue needs 'reason'*"), (None, "*--iommu-known: no such file: *")],
)
def test_a_wrong_file_is_a_usage_error(recorded: Bench, text: str | None, message: str) -> None:
    if text is not None:
        known(recorded, text)
    result = recorded.run("--iommu-known=known.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_it_is_in_the_line_that_runs_a_test_again(bench: Bench) -> None:
    bench.record(wrong_oa)
    known(bench, CRASH + "  strict: false\n")
    bench.run(*FILES).stdout.fnmatch_lines(["again: *--iommu-target=replay:* --iommu-known=known.yaml"])
