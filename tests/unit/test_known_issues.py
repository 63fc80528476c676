# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: what is one, what is not, and mistakes in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_iommu.core.known_issues import Known, gone, load, met, unmet
from pytest_iommu.core.outcomes import SetupError

FILE = """\
- name: BUG-7
  reason: shows the wrong OA
  tests: basics.iommu.yaml::basics::two-pages[*
  rule: RNG-4
- name: BUG-8
  reason: the walk is not protected
  fingerprint: kasan:ptd_walk:*
- name: BUG-9
  reason: hangs now and then
  tests: [test_x.py::test_a, test_x.py::test_b*]
  kind: kernel-hang
  strict: false
"""
TWO = "suite/basics.iommu.yaml::basics::two-pages[smmuv3-s1-4k]"


@pytest.fixture
def known(tmp_path: Path) -> tuple[Known, ...]:
    return written(tmp_path, FILE)


def written(directory: Path, text: str) -> tuple[Known, ...]:
    (directory / "known.yaml").write_text(text)
    return load(directory / "known.yaml")


def name(entry: Known | None) -> str:
    return entry.name if entry else ""


def test_a_failure_of_a_test_by_a_rule(known: tuple[Known, ...]) -> None:
    assert name(met(known, TWO, "fail", ("RNG-4", "ENT-2"), "")) == "BUG-7"
    assert name(met(known, TWO.replace("suite/", ""), "fail", ("RNG-4",), "")) == "BUG-7"


@pytest.mark.parametrize(
    ("nodeid", "kind", "rules", "fingerprint"),
    [
        (TWO, "fail", ("LVL-1", "RNG-4"), ""),
        (TWO, "fail", (), ""),
        (TWO, "kernel-crash", ("RNG-4",), "oops:f"),
        (TWO, "guest-lost", ("RNG-4",), ""),
        (TWO.replace("two", "one"), "fail", ("RNG-4",), ""),
        (TWO.replace("suite/", "other-"), "fail", ("RNG-4",), ""),
    ],
)
def test_another_failure(
    known: tuple[Known, ...], nodeid: str, kind: str, rules: tuple[str, ...], fingerprint: str
) -> None:
    assert met(known, nodeid, kind, rules, fingerprint) is None


def test_a_crash_by_its_fingerprint(known: tuple[Known, ...]) -> None:
    assert name(met(known, "any.py::test", "kernel-crash", (), "kasan:ptd_walk:ptd_show")) == "BUG-8"
    assert met(known, "any.py::test", "kernel-crash", (), "kasan:ptd_walk_leaf:ptd_show") is None


def test_a_hang_by_its_kind(known: tuple[Known, ...]) -> None:
    assert name(met(known, "test_x.py::test_b[1]", "kernel-hang", (), "")) == "BUG-9"
    assert met(known, "test_x.py::test_b[1]", "fail", (), "") is None


def test_what_passes_although_it_must_fail(known: tuple[Known, ...]) -> None:
    assert name(gone(known, TWO)) == "BUG-7"
    assert gone(known, "test_x.py::test_a") is None
    assert gone(known, "test_x.py::test_c") is None


def test_what_nothing_met(known: tuple[Known, ...]) -> None:
    assert [entry.name for entry in unmet(known, {"BUG-7"})] == ["BUG-8"]
    assert unmet(known, {"BUG-8"}) == []


def test_where_to_take_it_out_is_said(known: tuple[Known, ...]) -> None:
    assert known[1].gone.startswith("known issue BUG-8 no longer fails: the walk is not protected\n")
    assert known[1].gone.endswith("known.yaml:5")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("- name: a\n  reason: b\n", 1, "needs a fingerprint, or tests and a rule"),
        ("- name: a\n  reason: b\n  tests: x\n", 1, "needs a fingerprint, or tests and a rule"),
        ("- name: a\n  reason: b\n  rule: RNG-1\n", 1, "needs a fingerprint, or tests and a rule"),
        ("- name: a\n  fingerprint: x\n", 1, "needs 'reason'"),
        ("- name: a\n  reason: b\n  tests: x\n  rule: RNG-77\n", 4, "unknown rule 'RNG-77'"),
        ("- name: a\n  reason: b\n  tests: x\n  kind: bad\n", 4, "unknown kind 'bad'"),
        ("- name: a\n  reason: b\n  finger: x\n", 3, "has no key 'finger'"),
        (2 * "- name: a\n  reason: b\n  fingerprint: x\n", 4, "'a' is here a second time"),
        ("name: a\n", 1, "should be a list"),
        ("", 1, "is empty"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(SetupError) as error:
        written(tmp_path, text)
    assert f"known.yaml:{line}: " in error.value.message
    assert message in error.value.message
