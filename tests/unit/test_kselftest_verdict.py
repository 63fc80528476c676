# SPDX-License-Identifier: GPL-2.0-only
"""What output, exit status and end of a program come to, test by test; and which tests a program has."""

from __future__ import annotations

import errno

import pytest

from pytest_iommu.check.kselftest import cases, programs
from pytest_iommu.check.kselftest.programs import CASES, CHOSEN, FILES, PROGRAMS, STORM
from pytest_iommu.check.kselftest.verdict import Ran, Verdict, judge
from pytest_iommu.core.outcomes import CheckFailed, GuestLost, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.outcomes import Verdict as Blame

TESTS = {f"test-{number}": (f"RNG-{number}",) for number in range(1, 6)}
HEAD = "TAP version 13\n1..5\n"


def output(count: int, more: str = "", start: str = HEAD) -> str:
    return start + "".join(f"ok {number} test-{number}\n" for number in range(1, count + 1)) + more


def outcomes(found: dict[str, Verdict]) -> str:
    """A letter a test: p, f, s, x, n."""
    return "".join(one.outcome[0] for one in found.values())


def failure(found: dict[str, Verdict]) -> str:
    (text,) = [one.error.message for one in found.values() if one.error is not None]
    return text


def test_every_outcome() -> None:
    text = (
        f"{HEAD}ok 1 test-1\n# page_table, line 1\n# test-2: RNG-2 LVL-1\nnot ok 2 test-2\nok 3 test-3 # SKIP no edu\n"
        "ok 4 test-4 # XFAIL known\n# prog.c:7:test-5:Expected is (CON-3: never mapped)\n# test-5: CON-2 CON-3\n"
        "not ok 5 test-5\n"
    )
    found = judge("prog", TESTS, Ran(text, 1))
    assert outcomes(found) == "pfsxf"
    assert (found["test-3"].reason, found["test-4"].reason) == ("no edu", "known")
    second, last = found["test-2"].error, found["test-5"].error
    assert isinstance(second, CheckFailed)
    assert isinstance(last, CheckFailed)
    assert (second.rules, second.related) == (("RNG-2", "LVL-1"), ())
    assert second.message == "page_table, line 1\ntest-2: RNG-2 LVL-1\nprog: not ok 2 test-2"
    assert second.files == {"prog.ktap": text.encode()}
    assert (last.rules, last.related) == (("CON-3",), ("CON-2",))


def test_lines_that_differ_are_shown_one_above_the_other() -> None:
    text = (
        f"{HEAD}# entries, line 1\n#   expected  3 0x1000 table -  * raw 0x7\n"
        "#   dumped    3 0x1000 table -  0x4000 raw 0x3\n"
        "# page_table, line 2\n#   expected  (the end)\n#   dumped    0x2000\n# test-1: RNG-2\nnot ok 1 test-1\n"
        "ok 2 test-2\nok 3 test-3\nok 4 test-4\nok 5 test-5\n"
    )
    error = judge("prog", TESTS, Ran(text, 1))["test-1"].error
    assert isinstance(error, CheckFailed)
    assert error.verdict is Blame.UNDECIDED
    assert error.message.splitlines() == [
        "entries, line 1",
        "  expected  3 0x1000 table -  *      raw 0x7",
        "  dumped    3 0x1000 table -  0x4000 raw 0x3",
        "                                           ^",
        "page_table, line 2",
        "  expected  (no line)",
        "  dumped    0x2000",
        "test-1: RNG-2",
        "prog: not ok 1 test-1",
    ]


def test_a_failure_that_names_no_rule_is_one_of_what_the_test_is_about() -> None:
    error = judge("prog", TESTS, Ran(output(4, "not ok 5 test-5\n"), 1))["test-5"].error
    assert isinstance(error, CheckFailed)
    assert error.rules == ("RNG-5",)


@pytest.mark.parametrize("kind", [KernelCrash, KernelHang, GuestLost])
def test_a_guest_that_ends_in_the_middle(kind: type[KernelCrash]) -> None:
    found = judge("prog", TESTS, Ran(output(2, "# begun\nok 3 tes"), error=kind("panic: x\nmore")))
    assert outcomes(found) == "ppfnn"
    assert isinstance(found["test-3"].error, kind)
    told = "in prog, test 3 of 5: test-3; 2 tests before it had printed their result"
    assert failure(found) == f"panic: x\n{told}\nmore"
    assert found["test-5"].reason == f"not run: prog ended in test-3: {kind.kind}: panic: x"


def test_before_anything_was_printed() -> None:
    assert outcomes(judge("prog", TESTS, Ran("", error=KernelCrash("oops")))) == "fnnnn"


def test_a_kernel_that_warned_ends_the_program_where_it_did() -> None:
    text = output(1, "# the kernel is tainted: it printed a warning\nnot ok 2 test-2\nok 3 test-3\nok 4 test-4\n")
    assert outcomes(judge("prog", TESTS, Ran(text, error=KernelCrash("warning")))) == "pfnnn"
    assert outcomes(judge("prog", TESTS, Ran(f"{text}ok 5 test-5\n", error=KernelCrash("warning")))) == "pfnnn"


def test_a_warning_that_no_test_owns_up_to_leaves_none_to_be_believed() -> None:
    assert outcomes(judge("prog", TESTS, Ran(output(5), error=KernelCrash("lockdep")))) == "fnnnn"


@pytest.mark.parametrize(
    ("count", "more", "status", "expected", "told"),
    [
        (2, "", 128 + 11, "ppfnn", "prog was killed by SIGSEGV"),
        (5, "", 128 + 6, "ppppf", "prog was killed by SIGABRT"),
        (2, "", 128 + 99, "ppfnn", "prog was killed by signal 99"),
        (2, "", -errno.ETIMEDOUT, "ppfnn", "prog timed out and was killed"),
        (2, "", 0, "ppfnn", "prog exited prematurely with status 0"),
        (2, "", 0, "ppfnn", "\nthe plan says 5 results, but there are 2"),
        (2, "", 1, "ppfnn", "prog exited prematurely with status 1"),
        (2, "ok 3 t", 0, "ppfnn", "the last line is truncated: ok 3 t"),
        (3, "Bail out! no memory\n", 1, "pppfn", "prog bailed out: no memory"),
        (0, "", 1, "fnnnn", "prog exited prematurely with status 1"),
        (5, "", 1, "ppppf", "the exit status is 1, but the results require 0"),
        (5, "", 4, "ppppf", "the exit status is 4, but the results require 0"),
        (4, "not ok 5 test-5\n", 0, "ppppf", "the exit status is 0, but the results require 1"),
        (5, "ok 6 test-6\n", 0, "ppppf", "results of tests that were not collected: test-6"),
        (4, "ok 5 test-4\n", 0, "ppppf", "2 results of test-4"),
        (3, "ok 4 tst-4\nok 5 test-5\n", 0, "pppff", "results of tests that were not collected: tst-4"),
        (3, "ok 5 test-5\n", 0, "pppff", "result 4 has number 5: test-5"),
        (4, "ok 5 other\n", 0, "ppppf", "results of tests that were not collected: other"),
    ],
)
def test_a_program_that_contradicts_itself(count: int, more: str, status: int, expected: str, told: str) -> None:
    found = judge("prog", TESTS, Ran(output(count, more), status))
    assert outcomes(found) == expected
    assert any(one.error is not None and told in one.error.message for one in found.values())


def test_what_stands_behind_the_last_result_is_told() -> None:
    told = failure(judge("prog", TESTS, Ran(output(2, "#  RUN storm ...\n"), 139)))
    assert told.endswith("output after the last result:\n RUN storm ...")
    assert failure(judge("prog", TESTS, Ran(output(2), 139))).endswith("no output after the last result")


def test_a_program_that_cannot_be_started() -> None:
    assert "prog could not be started" in failure(judge("prog", TESTS, Ran("", 127)))
    assert "prog could not be executed: EAGAIN" in failure(judge("prog", TESTS, Ran("", -errno.EAGAIN)))


@pytest.mark.parametrize("status", [0, 4])
def test_all_are_skipped(status: int) -> None:
    lines = "".join(f"ok {number} test-{number} # SKIP it needs root\n" for number in range(1, 6))
    assert outcomes(judge("prog", TESTS, Ran(HEAD + lines, status))) == "sssss"


def test_programs_and_their_tests() -> None:
    found = {program.name: programs.tests_of(program) for program in PROGRAMS}
    assert {name: len(tests) for name, tests in found.items()} == {
        "ptdump_cases": len(cases.find()),
        "ptdump_storm": 32,
        "ptdump_files.sh": 14,
    }
    assert list(found["ptdump_storm"])[:5] == [
        *(f"storm.s1.{test}" for test in ("page_table", "entries", "stats", "freed")),
        "storm.s2.page_table",
    ]
    assert found["ptdump_storm"]["storm.riscv.freed"] == ("CON-9",)
    assert found["ptdump_files.sh"]["directories_are_there_with_the_domain"] == ("LAY-2", "LAY-4")
    assert all(rules for tests in found.values() for rules in tests.values())
    assert programs.time_limit() == 900


def test_a_program_that_is_none() -> None:
    with pytest.raises(SetupError, match="has no program 'ptdump'; there are: ptdump_cases"):
        programs.get("ptdump")


def test_how_some_of_its_tests_are_run() -> None:
    first, _, third = [case.name for case in cases.find()[:3]]
    words, files = programs.arguments(CASES, [third, first], "/tmp")
    assert words == (f"/tmp/{CHOSEN}",)
    lines = [line for line in files[CHOSEN].decode().splitlines() if line.startswith("case ")]
    assert lines == [f"case {first}", f"case {third}"]
    assert programs.arguments(STORM, ["storm.s2.stats", "storm.s1.freed"], "") == (
        ("-r", "storm.s1.freed", "-r", "storm.s2.stats"),
        {},
    )
    assert programs.arguments(FILES, ["no_kernel_pointers"], "") == (("no_kernel_pointers",), {})
    for program in (STORM, FILES):
        assert programs.arguments(program, list(programs.tests_of(program)), "") == ((), {})
