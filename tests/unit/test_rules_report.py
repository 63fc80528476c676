# SPDX-License-Identifier: GPL-2.0-only
"""rules.json and rules.md from reports alone, and which coverage of the rules is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_iommu.commands.coverage import collected, listing, problems
from pytest_iommu.core.settings import RELEASE_SEED
from pytest_iommu.report.rows import Row, rows_of
from pytest_iommu.report.rules_report import document, markdown, texts
from pytest_iommu.report.summary import BROKEN, GUEST, KIND, RULES

KNOWN = {"RNG-1": "one", "RNG-2": "two | three", "RNG-3": "four"}


def report(
    nodeid: str,
    outcome: Literal["passed", "failed", "skipped"],
    rules: str = "RNG-1",
    when: Literal["setup", "call", "teardown"] = "call",
    **more: str,
) -> pytest.TestReport:
    properties = [(RULES, rules), (GUEST, "smmuv3/plain")] if rules else []
    properties += [({"kind": KIND, "broke": BROKEN}[name], text) for name, text in more.items()]
    reason = ("x.py", 1, "Skipped: no device") if outcome == "skipped" else None
    return pytest.TestReport(nodeid, ("x", 0, "x"), {}, outcome, reason, when, user_properties=properties)


def made(*reports: pytest.TestReport, later: dict[str, str] | None = None) -> dict[str, Any]:
    return of_rows(*rows_of(reports).values(), later=later)


def of_rows(*rows: Row, later: dict[str, str] | None = None) -> dict[str, Any]:
    return document(rows, KNOWN, later or {}, {"smmuv3/plain": ("Linux 7.3.4", "QEMU 10.0.2")})


def outcomes(*reports: pytest.TestReport, later: dict[str, str] | None = None) -> list[str]:
    return [rule["outcome"] for rule in made(*reports, later=later)["rules"]]


def test_every_outcome_of_a_rule() -> None:
    assert outcomes(report("a", "passed"), report("b", "skipped", "RNG-1,RNG-2", "setup")) == [
        "passed",
        "skipped",
        "uncovered",
    ]
    assert outcomes(later={"RNG-3": "races"})[2] == "later: races"
    assert outcomes(report("a", "passed", "RNG-3"), later={"RNG-3": "races"})[2] == "passed"


def test_a_rule_fails_that_a_test_broke() -> None:
    broken = report("b", "failed", "RNG-2", kind="fail", broke="RNG-1")
    assert outcomes(report("a", "passed"), broken) == ["failed", "failed", "uncovered"]
    other = report("c", "passed", "RNG-2")
    assert outcomes(report("a", "passed"), broken, other) == ["failed", "passed", "uncovered"]
    tests = made(broken)["rules"][0]["tests"]
    assert tests == [{"test": "b", "outcome": "failed", "kind": "fail", "broke": ["RNG-1"], "declared": False}]


def test_what_no_test_saw_is_not_passed() -> None:
    assert outcomes(report("a", "failed", kind="guest-lost"))[0] == "failed"
    assert outcomes(report("a", "failed", when="setup", kind="setup-error"), report("b", "skipped"))[0] == "failed"


def test_a_test_is_as_good_as_its_worst_part() -> None:
    parts = [report("a", "passed"), report("a", "failed", when="teardown", kind="fail", broke="RNG-1")]
    assert outcomes(report("a", "passed", when="setup"), *parts)[0] == "failed"
    assert len(made(*parts)["rules"][0]["tests"]) == 1


def test_failures_about_no_rule_are_named() -> None:
    assert made(report("x", "failed", ""))["other_failures"] == [{"test": "x", "kind": "fail"}]
    assert made(report("x", "passed", ""))["other_failures"] == []


def test_only_what_ran_is_a_guest_and_order_does_not_matter() -> None:
    ran, skipped = report("b", "passed"), report("a", "skipped", when="setup")
    guest = {"machine": "smmuv3", "flavour": "plain", "kernel": "Linux 7.3.4", "qemu": "QEMU 10.0.2"}
    assert made(ran)["guests"] == [guest]
    assert made(skipped)["guests"] == []
    assert made(ran, skipped) == made(skipped, ran)


def test_a_guest_booted_otherwise_is_no_other_guest() -> None:
    rows = [Row("a", "passed", guest="smmuv3/plain"), Row("b", "passed", guest="smmuv3/plain/races")]
    assert of_rows(*rows)["guests"] == of_rows(rows[1])["guests"] == of_rows(rows[0])["guests"]


def test_what_did_not_run_says_nothing_of_a_rule() -> None:
    assert of_rows(Row("a", "not-run", "x", rules=("RNG-1",), guest="smmuv3/plain"))["rules"] == made()["rules"]


def test_a_rule_that_is_known_to_be_broken_is_broken() -> None:
    (rule, *_) = of_rows(Row("a", "xfailed", "known", "fail", ("RNG-1",), ("RNG-1",)), Row("b", "passed"))["rules"]
    assert rule["outcome"] == "failed"
    assert rule["tests"] == [{"test": "a", "outcome": "skipped", "reason": "known", "kind": "fail", "broke": ["RNG-1"]}]


def test_the_files() -> None:
    found = made(
        report("a", "passed"), report("b", "skipped"), report("c", "failed", "RNG-2", kind="fail", broke="RNG-2")
    )
    files = texts(found)
    assert json.loads(files["rules.json"]) == found
    assert files["rules.md"] == markdown(found)
    assert markdown(found).splitlines() == [
        "# Rules",
        "",
        "- smmuv3, flavour plain: Linux 7.3.4; QEMU 10.0.2",
        "",
        "| rule | outcome | passed | failed | skipped | |",
        "|---|---|--:|--:|--:|---|",
        "| RNG-1 | passed | 1 | 0 | 1 | one |",
        "| RNG-2 | failed | 0 | 1 | 0 | two &#124; three |",
        "| RNG-3 | uncovered | 0 | 0 | 0 | four |",
        "",
        "## Failed",
        "",
        "- `c`: fail, broke RNG-2",
        "",
        "## Skipped",
        "",
        "- 1: no device",
    ]


def test_coverage_that_is_refused() -> None:
    good = {"RNG-1": 3, "RNG-2": 1}
    assert problems(good, KNOWN, {"RNG-3": "races"}) == []
    assert problems(good, KNOWN, {}) == ["RNG-3 has no test: four"]
    assert problems(good | {"RNG-3": 1}, KNOWN, {"RNG-3": "races"}) == [
        "RNG-3 has 1 tests: it does not belong in rules.LATER"
    ]
    assert problems(good, KNOWN, {"RNG-3": "races", "NO-1": "x"}) == ["NO-1 of rules.LATER is no rule"]
    assert problems(good | {"NO-1": 2}, KNOWN, {"RNG-3": "races"}) == ["NO-1 has 2 tests and is no rule"]
    assert listing(good, KNOWN, {"RNG-3": "races"})[2] == "RNG-3    later  four (races)"


def test_what_never_runs_covers_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.iommu_rules('RNG-1', 'RNG-2')\ndef test_a(): pass\n"
        "@pytest.mark.iommu_rules('RNG-1')\n@pytest.mark.skip\ndef test_b(): pass\n"
    )
    (tmp_path / "x.iommu.yaml").write_text(
        "suite: x\ndefaults: {stages: [s1]}\ncases:\n  - {name: a, rules: [RNG-2], do: [{check: {}}]}\n"
    )
    assert collected([str(tmp_path)]) == {"RNG-1": 1, "RNG-2": 2, "ISO-1": 1, "ISO-2": 1}


def test_the_seed_is_that_of_the_release() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (version,) = [line.split('"')[1] for line in project.splitlines() if line.startswith("version")]
    major, minor, patch = (int(part) for part in version.split("."))
    assert major * 10000 + minor * 100 + patch == RELEASE_SEED
