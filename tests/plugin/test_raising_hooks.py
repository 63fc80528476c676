# SPDX-License-Identifier: GPL-2.0-only
"""Hooks of other plugins that raise: the outcome stays what it is, and the error is the plugin's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench import Bench

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence

SPLAT = "[    3.0] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"
CRASH = KernelCrash("warning", Evidence("qemu", SPLAT, SPLAT))

RAISES = """
import pytest

def pytest_iommu_{hook}({arguments}):
    {statement}
"""
ARGUMENTS = {
    "guest_started": "guest",
    "guest_lost": "guest, reason, evidence",
    "compared": "item, comparison",
    "classify_splat": "splat",
}
STATEMENTS = ('raise ValueError("mine")', "assert False, 'mine'", 'pytest.skip("mine")', 'pytest.fail("mine")')


def raising(bench: Bench, hook: str, statement: str = STATEMENTS[0]) -> None:
    bench.pytester.makeconftest(RAISES.format(hook=hook, arguments=ARGUMENTS[hook], statement=statement))


def outcomes(bench: Bench, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and the tests by the names of their cases, those at stage 2 left out."""
    result = bench.run("--iommu-json=r.json", *options)
    tests = json.loads((bench.pytester.path / "r.json").read_text())["tests"]
    return int(result.ret), {test["name"].split(".")[1].removesuffix("-smmuv3-s1-4k"): test for test in tests}


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("hook", ["guest_lost", "classify_splat"])
def test_a_crash_is_still_a_crash(bench: Bench, hook: str, statement: str) -> None:
    bench.record(endings={"two-pages": CRASH})
    raising(bench, hook, statement)
    status, tests = outcomes(bench)
    assert status == 1
    assert (tests["two-pages"]["outcome"], tests["two-pages"]["kind"]) == ("failed", "kernel-crash")
    assert tests["one-page"]["outcome"] == "passed"


def test_the_error_of_a_plugin_is_said_beside_the_outcome(bench: Bench) -> None:
    bench.record(endings={"two-pages": CRASH})
    raising(bench, "guest_lost")
    result = bench.run()
    result.assert_outcomes(passed=2, failed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "setup-error: pytest_iommu_guest_lost() of plugin *conftest.py raised ValueError: mine",
            '*File "*conftest.py", line *, in pytest_iommu_guest_lost',
        ]
    )


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_comparison_is_judged_whatever_is_made_of_it(bench: Bench, statement: str) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041001000", "0x0000000041002000"))
    raising(bench, "compared", statement)
    status, tests = outcomes(bench)
    assert status == 1
    assert (tests["two-pages"]["kind"], tests["two-pages"]["broke"][0]) == ("fail", "RNG-4")
    assert (tests["one-page"]["outcome"], tests["one-page"]["kind"]) == ("failed", "setup-error")
    assert "pytest_iommu_compared() of plugin" in tests["one-page"]["text"]


def test_only_a_plugin_went_wrong(recorded: Bench) -> None:
    raising(recorded, "compared")
    status, _ = outcomes(recorded)
    assert status == 6


@pytest.mark.parametrize("statement", [STATEMENTS[0], STATEMENTS[1], STATEMENTS[3]])
def test_a_guest_that_a_plugin_objects_to(recorded: Bench, statement: str) -> None:
    raising(recorded, "guest_started", statement)
    status, tests = outcomes(recorded)
    assert status == 6
    assert not any(test["outcome"] == "passed" for test in tests.values())
    result = recorded.run()
    result.stdout.fnmatch_lines(["*pytest_iommu_guest_started() of plugin *conftest.py raised *mine"])


def test_a_plugin_may_skip_what_it_has_no_use_for(recorded: Bench) -> None:
    raising(recorded, "guest_started", 'pytest.skip("too old")')
    status, tests = outcomes(recorded)
    assert status == 0
    assert {test["reason"] for test in tests.values() if test["outcome"] == "skipped"} >= {"too old"}


@pytest.mark.parametrize("hook", ARGUMENTS)
def test_a_plugin_may_end_the_run(bench: Bench, hook: str) -> None:
    bench.record(endings={"two-pages": CRASH})
    raising(bench, hook, "pytest.exit('enough', returncode=9)")
    status, tests = outcomes(bench)
    assert status == 9
    assert tests["run"]["text"] == "interrupted: enough"
