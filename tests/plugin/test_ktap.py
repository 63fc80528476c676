# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-ktap's text and names, by our own strict reader and by the kernel's kunit.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ktap_reader import read

from pytest_iommu.core.names import clean, names
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import source
from pytest_iommu.images.store import Store
from pytest_iommu.report import ktap_writer
from pytest_iommu.report.rows import Row

PANIC = "kernel-crash: panic while it ran a batch: Kernel panic - not syncing: VFS: x\nconsole, last lines:\n    secret"
ROWS = [
    Row("a.iommu.yaml::a::one[s1-4k]", "passed", rules=("RNG-1", "RNG-4")),
    Row(
        "a.iommu.yaml::a::map[4096]",
        "failed",
        kind="fail",
        broke=("RNG-1",),
        text="the dump is wrong: RNG-1\nok 1 x\n1..7",
    ),
    Row("a.iommu.yaml::a::map[65536]", "failed", kind="kernel-crash", fingerprint="panic:f", text=PANIC),
    Row("a.iommu.yaml::a::map[-1]", "failed", kind="kernel-hang", text="kernel-hang: no answer\nKTAP version 1"),
    Row("a.iommu.yaml::a::map[1]", "skipped", "no # SKIP device\nhere, at Zürich: reboot: System halted"),
    Row("test_b.py::TestC::test_d", "xfailed", "known issue 7: # SKIP", kind="fail", text="fail: x"),
    Row("test_b.py::test_e", "not-run", "not run: the run ended", made=True),
    Row("test_b.py::test_f[a_b]", "passed"),
    Row("test_b.py::test_f[a-b]", "passed"),
    Row("x/test_b.py::test_e", "passed", retried="QEMU was killed"),
    Row("broken.iommu.yaml", "failed", kind="setup-error", text="broken.iommu.yaml:3: no such key"),
    Row("pytest-iommu::run", "failed", kind="interrupted", text="interrupted: Ctrl-C\n\x1b[31mred\tand\x00"),
]


def test_every_outcome_has_its_line() -> None:
    groups, tests = read(ktap_writer.text(ROWS, ["Linux 7.3.4 #1", "reboot: System halted"]))
    assert [(line.name, line.status) for line in tests["a"]] == [
        ("one-s1-4k", "ok"),
        ("map-n4096", "not ok"),
        ("map-n65536", "not ok"),
        ("map-minus-n1", "not ok"),
        ("map-n1", "SKIP"),
    ]
    assert [(line.directive, line.data) for line in tests["a"][1:]] == [
        ("", ""),
        ("ERROR", "kernel-crash: panic while it ran a batch: Kernel panic - not syncing; VFS; x"),
        ("TIMEOUT", "kernel-hang: no answer"),
        ("SKIP", "no SKIP device here, at Z\\xfcrich: reboot; System halted"),
    ]
    assert tests["a"][0].diagnostics == ("test: a.iommu.yaml::a::one[s1-4k]", "rules: RNG-1 RNG-4")
    assert tests["a"][1].diagnostics[1:] == ("broke: RNG-1", "  the dump is wrong: RNG-1", "  ok, 1 x", "  1..7")
    assert "fingerprint: panic:f" in tests["a"][2].diagnostics
    assert "secret" not in ktap_writer.text(ROWS)
    assert [(line.name, line.status) for line in tests["test-b-TestC"]] == [("test-d", "XFAIL")]
    assert [(group.name, group.status) for group in groups][2:] == [
        (names(row.nodeid for row in ROWS)["test_b.py::test_e"][0], "ok"),
        (names(row.nodeid for row in ROWS)["x/test_b.py::test_e"][0], "ok"),
        ("broken", "not ok"),
        ("pytest-iommu", "not ok"),
    ]
    assert tests["broken"][0].name == "collection"


def test_a_group_of_which_nothing_ran_is_skipped() -> None:
    groups, _ = read(ktap_writer.text([Row("a.py::b", "skipped", "x"), Row("a.py::c", "not-run", "y")]))
    assert [group.status for group in groups] == ["SKIP"]


def test_no_tests() -> None:
    assert read(ktap_writer.text([])) == ([], {})


def test_long_texts_are_cut() -> None:
    row = Row("a.py::b", "failed", kind="fail", text="\n".join(f"line {number}" for number in range(1000)))
    _, tests = read(ktap_writer.text([row]))
    assert len(tests["a"][0].diagnostics) == ktap_writer.TEXT_LINES + 2
    assert tests["a"][0].diagnostics[-1] == f"  ... and {1000 - ktap_writer.TEXT_LINES} more lines"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("one-page[smmuv3-s1-4k@debug]", "one-page-smmuv3-s1-4k-debug"),
        ("test_x[4096-0x10]", "test-x-n4096-0x10"),
        ("test_x[-1-s1--2]", "test-x-minus-n1-s1-minus-n2"),
        ("[]", "unnamed"),
        ("Zürich", "Z-rich"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert clean(text) == name


def test_a_name_does_not_depend_on_the_other_tests_nor_on_where_pytest_stands() -> None:
    one = "scenarios/basics.iommu.yaml::basics::one-page[smmuv3-s1-4k]"
    alone = names([one])[one]
    assert alone == ("basics", "one-page-smmuv3-s1-4k")
    assert names(["test_x.py::y", one, one.replace("one", "two")])[one] == alone
    from_root = f"pytest_iommu/conformance/{one}"
    assert names([from_root])[from_root] == alone


def test_names_that_would_be_the_same_are_told_apart() -> None:
    ids = [f"{path}.py::test[{case}]" for path in ("a/t", "b/t") for case in ("x_y", "x-y", "X y", "z")]
    found = names(ids)
    assert len({(group.lower(), case.lower()) for group, case in found.values()}) == len(ids)
    assert names(reversed(ids)) == found


@pytest.fixture
def kunit(iommu_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernel's own parser."""
    found = source.current(iommu_settings, Store(iommu_settings.cache))
    tool = (found.path if found else Path("none")) / "tools" / "testing" / "kunit"
    if not (tool / "kunit_parser.py").is_file():
        pytest.skip("no kernel source in the cache, nor --iommu-kernel: no kunit_parser.py")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tool)
    import kunit_parser  # type: ignore[import-not-found]

    return kunit_parser  # type: ignore[no-any-return]


def parsed(kunit: ModuleType, text: str) -> Any:
    from kunit_printer import Printer  # type: ignore[import-not-found]

    return kunit.parse_run_tests(text.splitlines(), Printer(print=False))


def test_kunit_reads_the_same(kunit: ModuleType) -> None:
    text = ktap_writer.text(ROWS, ["Linux 7.3.4 #1", "reboot: System halted"])
    groups, tests = read(text)
    found = parsed(kunit, text)
    counts = found.counts
    assert (counts.passed, counts.failed, counts.skipped, counts.crashed, counts.errors) == (5, 5, 2, 0, 0)
    assert [(group.name, [test.name for test in group.subtests]) for group in found.subtests] == [
        (group.name, [test.name for test in tests[group.name]]) for group in groups
    ]
    status = {"ok": "SUCCESS", "not ok": "FAILURE", "SKIP": "SKIPPED", "XFAIL": "SUCCESS"}
    assert [test.status.name for group in found.subtests for test in group.subtests] == [
        status[test.status] for group in groups for test in tests[group.name]
    ]
    assert found.subtests[0].subtests[4].skip_reason.startswith("no SKIP device")


def test_kunit_takes_a_missing_test_for_a_crash(kunit: ModuleType) -> None:
    """Why the tests that did not run are listed."""
    lines = ktap_writer.text(ROWS[:2]).splitlines()
    del lines[-2]
    assert parsed(kunit, "\n".join(lines)).counts.errors > 0
