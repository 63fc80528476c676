# SPDX-License-Identifier: GPL-2.0-only
"""KCIDB's document: what every outcome becomes, and, where its package is, that its schema takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu import cli
from pytest_iommu.commands.cmd_kcidb import About, document
from pytest_iommu.report.results import RunFacts
from pytest_iommu.report.results import document as results
from pytest_iommu.report.rows import Row

FACTS = RunFacts("0.1.0", "qemu", 100, 1795392000.0, 12.3456, 1)
KERNELS = {"smmuv3/plain": ("Linux 7.3.4", "QEMU 10.0.2"), "smmuv3s1/debug": ("Linux 7.3.4 debug", "QEMU 10.0.2")}
ROWS = [
    Row("t/a.iommu.yaml::s::a[smmuv3-s1-4k]", "passed", rules=("RNG-1",), guest="smmuv3/plain", seconds=0.125),
    Row(
        "a.py::b", "failed", kind="kernel-crash", guest="smmuv3/plain/races", fingerprint="oops:f:g", text="x\0y" * 9000
    ),
    Row("a.py::c", "failed", kind="fail", rules=("RNG-1",), broke=("RNG-1",), guest="smmuv3s1/debug", text="wrong"),
    Row("a.py::d", "skipped", "no device", guest="smmuv3/plain"),
    Row("a.py::e", "xfailed", "known issue 7: x", kind="fail", known="7", guest="smmuv3/plain", text="x"),
    Row("a.py::f", "not-run", "not run: the run ended", guest="smmuv3/plain"),
    Row("a.py", "failed", kind="setup-error", text="a.py: no"),
    Row("a.py::g", "failed", kind="guest-lost", guest="smmuv3/plain", text="QEMU was killed"),
    Row("a.py::h", "failed", kind="unexpected-pass", known="8", text="no longer fails"),
    Row("a.py::i", "failed", kind="kernel-hang", guest="smmuv3/plain", text="no answer"),
]
ABOUT = About("lab", commit="0123456789" * 4, repository="https://git.example.org/linux.git", tree="mainline")


def found() -> dict[str, Any]:
    return results(ROWS, FACTS, KERNELS)


def by_name(made: Mapping[str, Any]) -> dict[str, Any]:
    return {test["misc"]["node_id"].rpartition("::")[2]: test for test in made["tests"]}


@pytest.mark.parametrize(
    "about",
    [ABOUT, About("lab"), About("lab", build="other:4711", log="https://ci.example.org/1")],
    ids=["a commit", "nothing more", "a build of one's own"],
)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=["all", "one", "none"])
def test_the_schema_takes_it(about: About, rows: list[Row]) -> None:
    schema = pytest.importorskip("kcidb_io", reason="needs kcidb-io, the package of KCIDB's schema").schema
    made = document(results(rows, FACTS, KERNELS), about)
    assert schema.LATEST.is_compatible_exactly(made)
    schema.LATEST.validate_exactly(made)
    json.dumps(made)


def test_outcomes() -> None:
    assert {name: test["status"] for name, test in by_name(document(found(), ABOUT)).items()} == {
        "a[smmuv3-s1-4k]": "PASS",
        "b": "FAIL",
        "c": "FAIL",
        "d": "SKIP",
        "e": "FAIL",
        "f": "MISS",
        "a.py": "ERROR",
        "g": "ERROR",
        "h": "FAIL",
        "i": "FAIL",
    }


def test_a_test() -> None:
    made = document(found(), ABOUT)
    test = by_name(made)["a[smmuv3-s1-4k]"]
    assert test["path"] == "iommu_ptdump.a-s.a-smmuv3-s1-4k"
    assert (test["start_time"], test["duration"]) == ("2026-11-23T00:00:00Z", 0.125)
    assert test["environment"]["comment"] == "smmuv3, functional, QEMU 10.0.2"
    assert test["misc"]["rules"] == ["RNG-1"]
    crash = by_name(made)["b"]
    assert crash["misc"]["fingerprint"] == "oops:f:g"
    assert len(crash["log_excerpt"]) == 16384
    assert "\0" not in crash["log_excerpt"]


def test_builds_are_those_that_tests_ran_on() -> None:
    made = document(found(), ABOUT)
    (checkout,) = made["checkouts"]
    assert checkout["git_commit_hash"] == ABOUT.commit
    assert {build["config_name"]: build["comment"] for build in made["builds"] if "config_name" in build} == {
        "plain": "Linux 7.3.4",
        "debug": "Linux 7.3.4 debug",
    }
    assert {build["checkout_id"] for build in made["builds"]} == {checkout["id"]}
    assert {test["build_id"] for test in made["tests"]} == {build["id"] for build in made["builds"]}


def test_a_known_issue_is_an_incident() -> None:
    made = document(found(), ABOUT)
    (issue,) = made["issues"]
    (incident,) = made["incidents"]
    assert (issue["id"], issue["comment"]) == ("lab:iommu-known:7", "known issue 7: x")
    assert incident["issue_id"] == issue["id"]
    assert incident["test_id"] == by_name(made)["e"]["id"]


def test_ids_are_unique_and_the_same_again() -> None:
    made = document(found(), ABOUT)
    ids = [one["id"] for part in ("checkouts", "builds", "tests", "issues", "incidents") for one in made[part]]
    assert len(set(ids)) == len(ids)
    assert made == document(found(), ABOUT)
    assert made["tests"][0]["id"] != document(found(), About("lab", commit="f" * 40))["tests"][0]["id"]


def test_a_build_of_ones_own_needs_no_other() -> None:
    made = document(found(), About("lab", build="other:4711"))
    assert "builds" not in made
    assert "checkouts" not in made
    assert {test["build_id"] for test in made["tests"]} == {"other:4711"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found()))
    assert cli.main(["kcidb", str(path), "--origin=lab", f"--commit={ABOUT.commit}", "--tree=mainline"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["tests"]) == len(ROWS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--origin=My Lab"], "--origin takes"),
        (["--origin=lab", "--commit=0123"], "--commit takes"),
        (["--origin=lab", "--build=4711"], "--build takes"),
        (["--origin=lab", "--repository=git://x"], "--repository takes"),
        (["--origin=lab"], "is not what --iommu-json writes"),
    ],
)
def test_what_kcidb_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"schema": 2}')
    assert cli.main(["kcidb", str(path), *words]) == 2
    assert said in capsys.readouterr().err
