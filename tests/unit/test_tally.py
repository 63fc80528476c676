# SPDX-License-Identifier: GPL-2.0-only
"""The table of rules and what else is counted, from reports alone."""

from __future__ import annotations

from typing import Literal

import pytest

from pytest_iommu.report.rows import Row, rows_of
from pytest_iommu.report.rules_report import document, markdown
from pytest_iommu.report.summary import BROKEN, GUEST, KIND, NOT_RUN, RULES
from pytest_iommu.report.tally import REASONS, Tally, reasons, table, tally

KNOWN = {"RNG-1": "one", "RNG-2": "two", "RNG-3": "three"}
PROPERTIES = {"kind": KIND, "broken": BROKEN, "guest": GUEST}


def report(
    outcome: Literal["passed", "failed", "skipped"],
    rules: str,
    when: Literal["setup", "call", "teardown"] = "call",
    nodeid: str = "x",
    **properties: str,
) -> pytest.TestReport:
    listed = [(RULES, rules)] if rules else []
    listed += [(PROPERTIES[name], text) for name, text in properties.items()]
    reason = ("x.py", 1, "Skipped: no device") if outcome == "skipped" else None
    return pytest.TestReport(nodeid, ("x", 0, "x"), {}, outcome, reason, when, user_properties=listed)


def counted(*reports: pytest.TestReport) -> Tally:
    return tally(rows_of(reports).values())


def test_passed_and_skipped_count_for_all_declared_rules() -> None:
    found = counted(report("passed", "RNG-1,RNG-2"), report("skipped", "RNG-2", "setup", "y"))
    assert table(found.rules, KNOWN) == [
        "rule     passed failed skipped",
        "RNG-1         1      0       0  one",
        "RNG-2         1      0       1  two",
        "no test of this run is about: RNG-3",
    ]


@pytest.mark.parametrize(
    ("rules", "when", "more"),
    [
        ("RNG-1,RNG-2", "call", {"kind": "fail", "broken": "RNG-2,LVL-1"}),
        ("RNG-1,RNG-2", "setup", {"kind": "setup-error"}),
        ("RNG-1,RNG-2", "teardown", {"kind": "kernel-crash", "broken": "RNG-1,RNG-2"}),
        ("RNG-1,RNG-2", "call", {"kind": "guest-lost"}),
        ("RNG-1", "call", {}),
    ],
)
def test_the_table_rules_json_and_rules_md_say_the_same(
    rules: str, when: Literal["setup", "call", "teardown"], more: dict[str, str]
) -> None:
    reports = [report("failed", rules, when, **more), report("passed", "RNG-2", nodeid="y")]
    rows = list(rows_of(reports).values())
    shown = {line.split()[0]: [int(word) for word in line.split()[1:4]] for line in table(tally(rows).rules, {})[1:]}
    found = document(rows, {}, {}, {})
    assert shown == {rule["id"]: [*rule["counts"].values()] for rule in found["rules"]}
    assert shown == {
        rule["id"]: [sum(test["outcome"] == word for test in rule["tests"]) for word in ("passed", "failed", "skipped")]
        for rule in found["rules"]
    }
    table_of_md = [line.split(" | ") for line in markdown(found).splitlines() if line.startswith("| RNG")]
    assert {line[0][2:]: [int(word) for word in line[2:5]] for line in table_of_md}.items() <= shown.items()
    # What a failed test is about does not vanish, whatever it broke.
    assert set(rules.split(",")) <= {rule for rule, (_, failed, _) in shown.items() if failed}


def test_setup_and_teardown_that_pass_count_nothing() -> None:
    found = counted(
        report("passed", "RNG-1", "setup"), report("passed", "RNG-1"), report("passed", "RNG-1", "teardown")
    )
    assert (found.tests, found.rules["RNG-1"].passed) == (1, 1)


def test_only_infrastructure() -> None:
    lost = report("failed", "RNG-1", kind="guest-lost")
    assert counted(lost).only_infrastructure
    assert not counted(lost, report("failed", "RNG-1", nodeid="y", kind="fail", broken="RNG-1")).only_infrastructure
    assert not counted(report("passed", "RNG-1")).only_infrastructure
    assert not counted(lost, report("failed", "", nodeid="y")).only_infrastructure


def test_a_failure_of_the_clean_up_counts_beside_a_lost_guest() -> None:
    found = counted(report("failed", "RNG-1", kind="setup-error"), report("failed", "RNG-1", "teardown", kind="fail"))
    assert found.kinds == {"fail": 1}
    assert not found.only_infrastructure


def test_nothing_checked() -> None:
    assert counted(report("skipped", "RNG-1", "setup")).nothing_checked
    assert counted(report("skipped", "RNG-1", kind=NOT_RUN)).nothing_checked
    assert not counted(report("failed", "RNG-1", kind="kernel-crash", broken="RNG-1")).nothing_checked
    assert counted(report("skipped", "RNG-1", "setup")).skips == {"no device": 1}


def test_a_test_on_a_guest_checks_something_without_naming_a_rule() -> None:
    assert not counted(report("passed", "", guest="smmuv3/plain")).nothing_checked
    assert counted(report("passed", "")).nothing_checked


@pytest.mark.parametrize(
    ("passed", "skipped", "said"),
    [(1, 2679, "checked 1 of 2680 IOMMU tests"), (0, 4, "checked 0 of 4 IOMMU tests"), (5, 95, ""), (0, 0, "")],
)
def test_a_run_that_hardly_checked_anything(passed: int, skipped: int, said: str) -> None:
    rows = [Row(f"p{number}", "passed", rules=("RNG-1",)) for number in range(passed)]
    rows += [Row(f"s{number}", "skipped", "why", rules=("RNG-1",)) for number in range(skipped)]
    assert tally(rows).hardly_checked == said


def test_reasons_that_differ_in_names_and_numbers_are_one() -> None:
    skips = {
        f"needs machine smmuv3{kind}: --iommu-machine=smmuv3{kind}": count for kind, count in (("s1", 3), ("s2", 4))
    }
    assert reasons({**skips, "machine smmuv3 has no edu5": 2, "needs kernel flavour debug": 9}) == [
        "9 skipped: needs kernel flavour debug",
        "7 skipped: needs machine smmuv3s2: --iommu-machine=smmuv3s2 (and 1 similar reason)",
        "2 skipped: machine smmuv3 has no edu5",
    ]


def test_few_lines_say_why_tests_were_skipped() -> None:
    words = ["because", "of", "one", "thing", "or", "another"]
    lines = reasons({word: count for count, word in enumerate(words, 1)})
    assert len(lines) == REASONS
    assert lines[0] == "6 skipped: another"
    assert lines[-1] == "3 skipped for 2 other reasons: pytest -rs lists them"
    assert len(reasons({"long " * 100: 1})[0]) < 180
    assert reasons({"one\ntwo": 1}) == ["1 skipped: one"]
    assert reasons({}) == []
