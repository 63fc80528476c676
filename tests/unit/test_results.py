# SPDX-License-Identifier: GPL-2.0-only
"""Rows from reports, and the JSON document: it is what its schema says."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from pytest_iommu.core.outcomes import ForeignError, GuestLost, KernelCrash, KernelHang, SetupError, Verdict
from pytest_iommu.report.results import SCHEMA_FILE, RunFacts, document
from pytest_iommu.report.rows import Collected, Finished, Row, guests_of, judged, judged_text, per_rule
from pytest_iommu.report.summary import BROKEN, FINGERPRINT, GUEST, KIND, KNOWN, RULES, VERDICT

FACTS = RunFacts("0.1.0", "qemu", 100, 1795392000.0, 12.3456, 1, "stopping after 1 failures")
KERNELS = {"smmuv3/plain": ("Linux 7.3.4", "QEMU 10.0.2")}
ROWS = [
    Row("a.py::a", "passed", rules=("RNG-1",), guest="smmuv3/plain", seconds=0.12345),
    Row("a.py::b", "failed", kind="kernel-crash", guest="smmuv3/plain/races", fingerprint="oops:f:g", text="x"),
    Row(
        "a.py::c",
        "failed",
        kind="fail",
        rules=("RNG-1",),
        broke=("RNG-1", "LVL-2"),
        text="x",
        retried="killed",
        verdict="dump-wrong",
    ),
    Row("a.py::d", "skipped", "no device"),
    Row("a.py::e", "xfailed", "known issue 7: x", kind="fail", known="7", broke=("RNG-1",), text="x"),
    Row("a.py::f", "not-run", "not run: the run ended", guest="smmuv3s1/debug", made=True),
    Row("a.py", "failed", kind="setup-error", text="a.py: no"),
]


def schema() -> dict[str, Any]:
    return json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, of the extra `dev`")
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_the_document_is_as_its_schema_says(validator: Any) -> None:
    validator.validate(document(ROWS, FACTS, KERNELS))
    validator.validate(document([], FACTS, {}))


@pytest.mark.parametrize(
    "row",
    [
        Row("a.py::a", "failed"),
        Row("a.py::a", "skipped"),
        Row("a.py::a", "passed", kind="fail"),
        Row("a.py::a", "error"),
        Row("a.py::a", "failed", kind="fail", verdict="the dump is wrong"),
        Row("a.py::a", "passed", fingerprint="oops: f+0x10/0x20"),
    ],
)
def test_the_schema_refuses_what_is_not_so(validator: Any, row: Row) -> None:
    assert not validator.is_valid(document([row], FACTS, {}))


def test_every_field_is_documented() -> None:
    found = document(ROWS, FACTS, KERNELS)
    stated = schema()
    assert set(found) == set(stated["properties"])
    assert set(found["run"]) == set(stated["properties"]["run"]["properties"])
    used = {key for test in found["tests"] for key in test}
    assert used == set(stated["$defs"]["test"]["properties"])


@pytest.mark.parametrize(
    ("rules", "outcome", "parts", "words"),
    [
        ((), "passed", (), ""),
        (("TAB-1", "RNG-1"), "skipped", (), ""),
        (("TAB-1",), "passed", ("page-tables",), "judged: the kernel's page tables, no dump"),
        (("TAB-1", "MY-1"), "failed", ("page-tables",), "judged: the kernel's page tables, no dump"),
        (("RNG-1",), "failed", ("dump",), "judged: the dump, not the kernel's page tables"),
        (("RNG-1", "HW-1"), "passed", ("page-tables", "dump"), "judged: the kernel's page tables and the dump"),
    ],
)
def test_what_a_run_judged(rules: tuple[str, ...], outcome: str, parts: tuple[str, ...], words: str) -> None:
    ran = Row("a.py::a", outcome, rules=rules)
    assert judged(per_rule([ran])) == parts
    assert judged_text(parts) == words
    assert document([ran], FACTS, KERNELS)["run"]["judged"] == list(parts)


def test_the_document() -> None:
    found = document(ROWS, FACTS, KERNELS)
    assert found["run"]["started"] == "2026-11-23T00:00:00Z"
    assert found["run"]["ended"] == "stopping after 1 failures"
    assert found["counts"] == {"passed": 1, "failed": 3, "skipped": 1, "xfailed": 1, "not-run": 1}
    assert found["guests"] == [
        {"machine": "smmuv3", "flavour": "plain", "kernel": "Linux 7.3.4", "qemu": "QEMU 10.0.2"},
    ]
    assert found["tests"][0] == {
        "id": "a.py::a",
        "name": "a.a",
        "outcome": "passed",
        "rules": ["RNG-1"],
        "guest": {"machine": "smmuv3", "flavour": "plain", "manner": "functional"},
        "seconds": 0.123,
    }
    assert found["tests"][1]["guest"]["manner"] == "races"


def test_the_schema_knows_every_verdict() -> None:
    """Of a check that failed a Verdict, of anything else its kind."""
    verdicts = set(schema()["$defs"]["test"]["properties"]["verdict"]["enum"])
    kinds = {one.kind for one in (SetupError, KernelCrash, KernelHang, GuestLost, ForeignError)}
    assert verdicts == {*map(str, Verdict), *kinds}


def report(
    nodeid: str,
    outcome: Literal["passed", "failed", "skipped"],
    when: Literal["setup", "call", "teardown"] = "call",
    *properties: tuple[str, str],
    **more: Any,
) -> pytest.TestReport:
    longrepr = {"passed": None, "failed": "it failed", "skipped": ("x.py", 1, "Skipped: no device")}[outcome]
    found = pytest.TestReport(
        nodeid, ("x", 0, "x"), {}, outcome, longrepr, when, (), 0.5, user_properties=list(properties)
    )
    found.__dict__.update(more)
    return found


def rows(*reports: pytest.TestReport, collected: tuple[str, ...] = (), ended: str = "") -> list[Row]:
    known = {nodeid: Collected(("RNG-1",), "smmuv3/plain") for nodeid in collected}
    return Finished(list(reports), [], known, ended).rows()


def test_a_test_that_is_run_again_has_the_outcome_of_the_last_time() -> None:
    """pytest-rerunfailures reports an outcome of its own for the times before that."""
    again = report("a", "failed", "call", (RULES, "RNG-1"), (KIND, "fail"))
    again.__dict__["outcome"] = "rerun"
    last = [report("a", "passed", "setup"), report("a", "passed", "call", (RULES, "RNG-1"))]
    (row,) = rows(report("a", "passed", "setup"), again, *last, report("a", "passed", "teardown"))
    assert (row.outcome, row.kind, row.rules) == ("passed", "", ("RNG-1",))
    (row,) = rows(again, collected=("a",), ended="interrupted")
    assert row.outcome == "not-run"


def test_a_row_is_made_of_three_reports() -> None:
    stated = [(RULES, "RNG-1,RNG-2"), (GUEST, "smmuv3/plain"), (KIND, "kernel-crash"), (BROKEN, "RNG-1")]
    stated.append((VERDICT, "kernel-crash"))
    three = [
        report("a", "passed", "setup"),
        report("a", "failed", "call", *stated, (FINGERPRINT, "oops:f"), sections=[("iommu", "our text")]),
        report("a", "passed", "teardown", *stated),
    ]
    row = Row("a", "failed", "", "kernel-crash", ("RNG-1", "RNG-2"), ("RNG-1",), "smmuv3/plain", "oops:f")
    row.text, row.seconds, row.verdict = "our text", 1.5, "kernel-crash"
    assert rows(*three) == [row]


def test_what_fails_as_expected() -> None:
    (row,) = rows(report("a", "skipped", "call", (KIND, "fail"), (KNOWN, "7"), wasxfail="known issue 7: x"))
    assert (row.outcome, row.reason, row.kind, row.known) == ("xfailed", "known issue 7: x", "fail", "7")


def test_a_test_is_as_bad_as_its_worst_part() -> None:
    (row,) = rows(report("a", "passed"), report("a", "failed", "teardown"))
    assert (row.outcome, row.kind, row.text) == ("failed", "fail", "it failed")
    (row,) = rows(report("a", "failed"), report("a", "skipped", "teardown", wasxfail="known issue 7: x"))
    assert (row.outcome, row.kind, row.reason) == ("failed", "fail", "")


def test_what_did_not_run_is_a_row_and_says_why() -> None:
    found = rows(report("b", "passed"), report("a", "failed"), collected=("b", "a", "d", "c"), ended="enough")
    assert [(row.nodeid, row.outcome) for row in found] == [
        ("b", "passed"),
        ("a", "failed"),
        ("d", "not-run"),
        ("c", "not-run"),
    ]
    assert found[2] == Row(
        "d", "not-run", "not run: the run ended after a: enough", "", ("RNG-1",), guest="smmuv3/plain", made=True
    )


def test_a_test_that_was_set_up_only_did_not_run() -> None:
    (row,) = rows(report("a", "passed", "setup"), collected=("a",), ended="interrupted")
    assert (row.outcome, row.reason) == ("not-run", "not run: the run ended: interrupted")


def test_a_machine_says_what_kernel_it_runs() -> None:
    """Where nobody had it built."""
    raced = Row("b", "failed", guest="smmuv3/plain/races", kernel="Linux 6.1")
    rows = [Row("a", "passed", guest="smmuv3/plain"), raced]
    assert [guest["kernel"] for guest in guests_of(rows, {})] == ["Linux 6.1"]
    assert [guest["kernel"] for guest in guests_of(rows, KERNELS)] == ["Linux 7.3.4"]
    assert [guest["kernel"] for guest in guests_of(rows[:1], {})] == [None]
