# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest in a guest, whatever it or the kernel does in the middle: JSON, KTAP and JUnit tell the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_iommu.check.kselftest import cases, programs
from pytest_iommu.core import paths
from pytest_iommu.core.settings import Settings
from pytest_iommu.targets.qemu import Boot

LIST = paths.conformance() / "kselftest.iommu-ksft"
FILES = ("--iommu-json=r.json", "--iommu-ktap=r.ktap", "--junitxml=r.xml")
CASES = [case.name for case in cases.find()[:20]]
AT = 6
"""The seventh."""

BEGIN = "\tnow.taint = ptd_tainted();\n"
PANIC = 'int fd = open("/proc/sysrq-trigger", O_WRONLY); write(fd, "c", 1);'
# Bit 9 is what a WARN sets.
WARN = 'int fd = open("/proc/sys/kernel/tainted", O_WRONLY); write(fd, "512", 3);'

Run = Callable[..., "Ran"]


class Ran:
    """What a run of pytest wrote."""

    def __init__(self, folder: Path, status: int) -> None:
        self.status = status
        self.tests: list[dict[str, Any]] = json.loads((folder / "r.json").read_text())["tests"]
        self.ktap = [line.strip() for line in (folder / "r.ktap").read_text().splitlines()]
        # With workers in another order.
        suite = ElementTree.parse(folder / "r.xml").getroot()[0]
        self.junit = {str(case.get("name")): case for case in suite.iter("testcase")}

    @property
    def outcomes(self) -> list[str]:
        return [test["outcome"] for test in self.tests]

    def ended_in_the_seventh(self, kind: str) -> dict[str, Any]:
        """6 results, the one that it ended in, 13 that were not run, in all three; the one."""
        assert self.status == 1
        assert self.outcomes == ["passed"] * AT + ["failed"] + ["not-run"] * 13
        (failed,) = [test for test in self.tests if test["outcome"] == "failed"]
        assert failed["kind"] == kind
        assert failed["id"].endswith(f"::{CASES[AT]}")
        reason = f"not run: ptdump_cases ended in {CASES[AT]}: {kind}: "
        assert all(test["reason"].startswith(reason) for test in self.tests[AT + 1 :])
        lines = [line for line in self.ktap if line.startswith(("ok ", "not ok "))][:-1]
        assert [line.partition(" ")[0] for line in lines] == ["ok"] * AT + ["not"] + ["ok"] * 13
        assert not any("#" in line for line in lines[:AT])
        assert all(f"# SKIP {reason}" in line for line in lines[AT + 1 :])
        told = {case: [child.tag for child in node if child.tag != "properties"] for case, node in self.junit.items()}
        assert [told[case] for case in CASES] == [[]] * AT + [["failure"]] + [["skipped"]] * 13
        last = {one.get("name"): one.get("value") for one in self.junit[CASES[-1]].iter("property")}
        assert last["iommu_outcome"] == "not-run"
        return failed


@pytest.fixture
def ksft(
    boot: Boot, pytester: pytest.Pytester, iommu_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs tests of ptdump_cases, with C put in where the seventh begins."""
    if iommu_settings.image is not None:
        pytest.skip("a ready image has no kernel tree to build the kselftest with")
    there_too = [word for word in iommu_settings.given if not word.startswith("--iommu-target=")]
    options = [
        f"--rootdir={pytester.path}",
        "--iommu-target=qemu",
        *there_too,
        f"--iommu-cache={iommu_settings.cache}",
        *FILES,
    ]

    def run(code: str, *more: str, limit: int = 0, names: list[str] = CASES) -> Ran:
        if code or limit:
            copy = tmp_path / "kselftest"
            shutil.copytree(paths.kselftest(), copy, dirs_exist_ok=True)
            source = copy / "ptdump_cases.c"
            text = source.read_text()
            assert BEGIN in text
            planted = f'{BEGIN}\tif (!strcmp(name, "{CASES[AT]}")) {{ {code} }}\n'
            headers = "#include <fcntl.h>\n#include <signal.h>\n"
            source.write_text(headers + text.replace(BEGIN, planted))
            (copy / "settings").write_text(f"timeout={limit or programs.time_limit()}\n")
            monkeypatch.setenv("PYTEST_IOMMU_KSELFTEST", str(copy))
        result = pytester.runpytest_subprocess(*options, *more, *(f"{LIST}::ptdump_cases::{name}" for name in names))
        return Ran(pytester.path, int(result.ret))

    return run


def test_all_programs_are_run_and_all_their_tests_are_there(ksft: Run) -> None:
    names = [name for program in programs.PROGRAMS[1:] for name in programs.tests_of(program)]
    ran = ksft("", f"{LIST}::ptdump_files.sh", f"{LIST}::ptdump_storm::storm.amdv1.freed", names=CASES[2:4])
    assert ran.status == 0
    assert len(names) == 32 + 14
    assert [test["id"].rpartition("::")[2] for test in ran.tests] == [*names[32:], "storm.amdv1.freed", *CASES[2:4]]
    assert set(ran.outcomes) == {"passed"}


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_panic_in_test_7_of_20(ksft: Run, workers: str) -> None:
    failed = ksft(PANIC, workers).ended_in_the_seventh("kernel-crash")
    assert "Kernel panic - not syncing: sysrq triggered crash" in failed["text"]
    assert f"in ptdump_cases, test 7 of 20: {CASES[AT]}; 6 tests before it had printed their result" in failed["text"]
    assert failed["fingerprint"].startswith("panic:")


def test_a_kernel_that_warns_and_lives_on(ksft: Run) -> None:
    failed = ksft(WARN).ended_in_the_seventh("kernel-crash")
    assert "the kernel is tainted: warned" in failed["text"]


@pytest.mark.parametrize(
    ("code", "limit", "told"),
    [
        pytest.param("raise(SIGSEGV);", 0, "ptdump_cases was killed by SIGSEGV", id="killed"),
        pytest.param("exit(0);", 0, "ptdump_cases exited prematurely with status 0", id="ended"),
        pytest.param('printf("ok 7 half a li"); fflush(stdout); _exit(0);', 0, "the last line is truncated", id="cut"),
        pytest.param('ksft_exit_fail_msg("no memory\\n");', 0, "ptdump_cases bailed out: no memory", id="bails-out"),
        pytest.param("for (;;) pause();", 3, "ptdump_cases timed out and was killed", id="hangs"),
    ],
)
def test_a_program_that_ends_in_the_middle(ksft: Run, code: str, limit: int, told: str) -> None:
    assert told in ksft(code, limit=limit).ended_in_the_seventh("fail")["text"]


WRONG = """
from pytest_iommu.check.kselftest import cases

lines_of = cases.case_lines

def case_lines(name, plan):
    for line in lines_of(name, plan):
        yield line.replace("4K 0", "4K 1") if name == "{name}" and line.startswith("p ") else line

cases.case_lines = case_lines
"""


def test_a_wrong_result_fails_its_test_alone_and_names_the_rules(ksft: Run, pytester: pytest.Pytester) -> None:
    case = next(case for case in cases.find() if case.name == "basics-one-page-s2-4k")
    pytester.makepyfile(wrong=WRONG.format(name=case.name))
    pytester.syspathinsert()
    ran = ksft("", "-p", "wrong")
    wrong = CASES.index(case.name)
    assert ran.outcomes == ["passed"] * wrong + ["failed"] + ["passed"] * (19 - wrong)
    failed = ran.tests[wrong]
    assert (failed["kind"], failed["broke"]) == ("fail", list(case.rules))
    assert "page_table, line 1" in failed["text"]
    assert f"ptdump_cases: not ok {wrong + 1} {case.name}" in failed["text"]


def test_results_that_nobody_collected_are_a_failure(ksft: Run) -> None:
    ran = ksft('ksft_test_result_pass("stranger\\n");')
    assert ran.outcomes == ["passed"] * 19 + ["failed"]
    text = ran.tests[-1]["text"]
    assert "the plan says 20 results, but there are 21" in text
    assert "results of tests that were not collected: stranger" in text
