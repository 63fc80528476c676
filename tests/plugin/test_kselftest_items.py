# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest as items: collected without a guest, run once a program, selectable, and told alike everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ktap_reader import read

FILES = ("--iommu-json=r.json", "--iommu-ktap=r.ktap")

CONFTEST = """
import os
from pathlib import Path

from pytest_iommu.guest import ops
from pytest_iommu.guest.ops import Code
from pytest_iommu.check.kselftest import built, execution, programs
from pytest_iommu.core.outcomes import GuestLost, KernelCrash
from pytest_iommu.core.protocol import Evidence, Reply, Result
from pytest_iommu.targets.registry import TargetKind

HERE = Path(__file__).parent
MODE = os.environ.get("MODE", "")
TESTS = {f"case-{number}": ("RNG-1",) for number in range(1, 21)}
SPLAT = "[    3.0] Kernel panic - not syncing: planted\\n[    3.0] Call trace:\\n[    3.0]  ptd_show+0x1/0x2\\n"

programs.tests_of = lambda program: TESTS if program is programs.CASES else {"a_test": ("LAY-1",)}
execution.arguments = lambda program, chosen, folder: (tuple(chosen), {})
NAMES = [f"{programs.FOLDER}/{program.name}" for program in programs.PROGRAMS]
found = built.Selftest({name: Path(__file__) for name in NAMES}, lacks="no tree" if MODE == "lacks" else "")
built.prepare = lambda *arguments: found


class Guest:
    name = "scripted"
    memory = None

    def run(self, ops, timeout=10.0):
        return Reply(tuple(self.one(op) for op in ops))

    def one(self, op):
        if op.code == Code.LIST:
            return Result(1, b"domains/")
        if op.code in (Code.READ_FILE, Code.READLINK):
            return Result(-2)
        return self.program(op) if op.code == Code.RUN else Result(0)

    def program(self, op):
        words = [word for word in op.data.decode().split("\\0") if word]
        names = [word for word in words if "/" not in word]
        with (HERE / "ran.txt").open("a") as file:
            file.write(f"{op.path.rpartition('/')[2]} {' '.join(names)}\\n")
        lines = ["TAP version 13", f"1..{len(names)}"]
        for number, name in enumerate(names, 1):
            if MODE == "crash" and number == 7:
                raise KernelCrash("panic: planted", Evidence("qemu", SPLAT, SPLAT, "\\n".join([*lines, ""])))
            if MODE == "lost" and number == 7 and not (HERE / "lost").exists():
                (HERE / "lost").touch()
                raise GuestLost("QEMU was killed", Evidence(output="\\n".join([*lines, ""])))
            lines.append(f"not ok {number} {name}" if MODE == name else f"ok {number} {name}")
        if MODE == "stranger":
            lines += [f"ok {len(names) + 1} nobody"]
        return Result(int(MODE in names), "\\n".join([*lines, ""]).encode())

    def pause(self):
        pass

    close = pause

    def evidence(self):
        return Evidence()


class Target:
    name = "scripted"
    start = staticmethod(Guest)


def pytest_iommu_targets(config):
    return {"scripted": TargetKind(lambda *_: Target(), needs_kernel=False, live=False)}
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("MODE", raising=False)
    pytester.makeconftest(CONFTEST)
    (pytester.path / "little.iommu-ksft").write_text("# programs\nptdump_cases\n\nptdump_storm  # the other\n")
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("--iommu-target=scripted", *arguments)


def ran(suite: pytest.Pytester) -> list[str]:
    """The programs that were run, with the tests that they were to run."""
    return sorted((suite.path / "ran.txt").read_text().splitlines())


def names(first: int, last: int) -> str:
    return " ".join(f"case-{number}" for number in range(first, last + 1))


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_program_is_run_once_for_all_its_items(suite: pytest.Pytester, workers: str) -> None:
    result = run(suite, workers)
    result.assert_outcomes(passed=21)
    result.stdout.fnmatch_lines(["RNG-1*20*0*0*"])
    assert ran(suite) == [f"ptdump_cases {names(1, 20)}", "ptdump_storm a_test"]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["little.iommu-ksft::ptdump_cases::case-7"], "case-7"),
        (["little.iommu-ksft::ptdump_cases::case-7", "little.iommu-ksft::ptdump_cases::case-3"], "case-7 case-3"),
        (["-k", "case-12 or case-13"], "case-12 case-13"),
    ],
)
def test_what_was_selected_is_run_alone(suite: pytest.Pytester, words: list[str], chosen: str) -> None:
    run(suite, *words).assert_outcomes(passed=len(chosen.split()), deselected=19 if "-k" in words else 0)
    assert ran(suite) == [f"ptdump_cases {chosen}"]


def test_the_last_failed_can_be_run_again(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODE", "case-5")
    result = run(suite)
    result.assert_outcomes(passed=20, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ptdump_cases::case-5*",
            "a rule is broken: RNG-1",
            "ptdump_cases: not ok 5 case-5",
            "again:*ptdump_cases::case-5 *",
        ]
    )
    (suite.path / "ran.txt").unlink()
    run(suite, "--lf").assert_outcomes(failed=1)
    assert ran(suite) == ["ptdump_cases case-5"]


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_crash_in_test_7_of_20_is_6_results_a_crash_and_13_not_run(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("MODE", "crash")
    result = run(suite, workers, *FILES, "--junitxml=r.xml", "-rs")
    assert result.ret == 1
    result.assert_outcomes(passed=7, failed=1, skipped=13)
    result.stdout.fnmatch_lines(["*13*not run: ptdump_cases ended in case-7: kernel-crash: panic: planted"])
    found = json.loads((suite.path / "r.json").read_text())
    assert found["counts"] == {"passed": 7, "failed": 1, "skipped": 0, "xfailed": 0, "not-run": 13}
    crash = found["tests"][6]
    assert (crash["kind"], crash["fingerprint"]) == ("kernel-crash", "panic:ptd_show")
    assert all("kind" not in test for test in found["tests"][7:])
    _, tests = read((suite.path / "r.ktap").read_text())
    lines = tests["little-ptdump-cases"]
    assert [line.status for line in lines] == ["ok"] * 6 + ["not ok"] + ["SKIP"] * 13
    assert lines[6].data == "kernel-crash: panic: planted"
    assert lines[7].data == "not run: ptdump_cases ended in case-7: kernel-crash: panic: planted"
    assert (suite.path / "r.xml").read_text().count('name="iommu_outcome" value="not-run"') == 13


def test_a_guest_that_is_lost_is_tried_again(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODE", "lost")
    result = run(suite, "-k", "case")
    result.assert_outcomes(passed=20, deselected=1)
    result.stdout.fnmatch_lines(["guest-lost, tried again on a fresh guest:*case-1: QEMU was killed"])
    assert ran(suite) == [f"ptdump_cases {names(1, 20)}"] * 2


def test_a_line_that_nobody_collected_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODE", "stranger")
    result = run(suite, "-k", "case")
    result.assert_outcomes(passed=19, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*results of tests that were not collected: nobody*"])


def test_reasons_for_which_it_is_skipped(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.runpytest_subprocess("-rs").stdout.fnmatch_lines(["*21*no --iommu-target given*"])
    monkeypatch.setenv("MODE", "lacks")
    run(suite, "-rs").stdout.fnmatch_lines(["*21*no tree"])
    recording = Path(suite.mkdir("recording"))
    (recording / "index-main.jsonl").write_text('{"run": 1}\n')
    result = suite.runpytest_subprocess(f"--iommu-target=replay:{recording}", "-rs")
    result.stdout.fnmatch_lines(["*21*needs a guest that runs programs: replay has none"])


def test_a_program_that_is_none_is_a_collection_error(suite: pytest.Pytester) -> None:
    (suite.path / "little.iommu-ksft").write_text("ptdump_cases\nptdump\n")
    result = run(suite)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*little.iommu-ksft:2: the kselftest has no program 'ptdump'*"])
