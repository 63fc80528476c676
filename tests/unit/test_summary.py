# SPDX-License-Identifier: GPL-2.0-only
"""The table of rules, from reports alone."""

from __future__ import annotations

from typing import Literal

import pytest

from pytest_iommu.report.summary import BROKEN, KIND, RULES, Tally, table


def report(
    outcome: Literal["passed", "failed", "skipped"],
    rules: str,
    when: Literal["setup", "call", "teardown"] = "call",
    **properties: str,
) -> pytest.TestReport:
    listed = [(RULES, rules), *(({"kind": KIND, "broken": BROKEN}[name], text) for name, text in properties.items())]
    reason = ("x.py", 1, "Skipped: no device") if outcome == "skipped" else None
    return pytest.TestReport("x", ("x", 0, "x"), {}, outcome, reason, when, user_properties=listed)


def tally(*reports: pytest.TestReport) -> Tally:
    found = Tally()
    for one in reports:
        found.add(one)
    return found


def test_passed_and_skipped_count_for_all_declared_rules() -> None:
    found = tally(report("passed", "RNG-1,RNG-2"), report("skipped", "RNG-2", "setup"))
    assert table(found, {"RNG-1": "one", "RNG-2": "two", "RNG-3": "three"}) == [
        "rule     passed failed skipped",
        "RNG-1         1      0       0  one",
        "RNG-2         1      0       1  two",
        "no test of this run is about: RNG-3",
    ]


def test_a_failure_counts_against_the_rules_it_broke() -> None:
    found = tally(report("failed", "RNG-1,RNG-2", kind="fail", broken="RNG-2,LVL-1"))
    assert {rule: count.failed for rule, count in found.rules.items()} == {"RNG-2": 1, "LVL-1": 1}


def test_setup_and_teardown_that_pass_count_nothing() -> None:
    found = tally(report("passed", "RNG-1", "setup"), report("passed", "RNG-1"), report("passed", "RNG-1", "teardown"))
    assert (found.tests, found.rules["RNG-1"].passed) == (1, 1)


def test_only_infrastructure() -> None:
    lost = report("failed", "RNG-1", kind="guest-lost")
    assert tally(lost).only_infrastructure
    assert not tally(lost, report("failed", "RNG-1", kind="fail", broken="RNG-1")).only_infrastructure
    assert not tally(report("passed", "RNG-1")).only_infrastructure


def test_nothing_checked() -> None:
    assert tally(report("skipped", "RNG-1", "setup")).nothing_checked
    assert not tally(report("failed", "RNG-1", kind="kernel-crash", broken="RNG-1")).nothing_checked
    assert tally(report("skipped", "RNG-1", "setup")).skips == {"no device": 1}
