# SPDX-License-Identifier: GPL-2.0-only
"""The parser of KTAP: outputs of kernels, and whatever else can come out of a guest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pytest_iommu.check.kselftest.ktap import KtapResult, Output, parse

DATA = Path(__file__).parents[1] / "data" / "kselftest"
HEAD = "TAP version 13\n"


def streams(name: str) -> list[str]:
    """The outputs of the programs in what kselftest's runner passed on, behind a "# "."""
    text = (DATA / name).read_text()
    inner = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith("# "))
    return [f"TAP version{one}" for one in inner.split("TAP version")[1:]]


@pytest.mark.parametrize(("name", "outcome"), [("reference.ktap", "passed"), ("without.ktap", "skipped")])
def test_outputs_of_real_kernels(name: str, outcome: str) -> None:
    found = [parse(text) for text in streams(name)]
    assert [one.planned for one in found] == [887, 32, 14]
    assert [one.problems() for one in found] == [[], [], []]
    results = [result for one in found for result in one.results]
    assert sum(one.outcome == outcome for one in results) >= 932
    assert all(one.reason for one in results if one.outcome == "skipped")


def test_an_output_with_failures() -> None:
    found = parse((DATA / "faults.ktap").read_text())
    assert [one.outcome for one in found.results] == ["failed"] * 14 + ["skipped"] * 3
    second = found.results[1]
    assert (second.name, second.number, second.ok) == ("bad-missing-line", 2, False)
    assert second.diagnostics[:2] == ("page_table, line 1", "  expected  (the end)")
    assert second.diagnostics[-1] == "bad-missing-line: RNG-3"
    assert found.rest[-1] == "Totals: pass:0 fail:14 xfail:0 xpass:0 skip:3 error:0"
    assert found.problems() == []


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("ok 1 a", KtapResult("a", 1, True)),
        ("ok 1 - a", KtapResult("a", 1, True)),
        ("not ok 1 a", KtapResult("a", 1, False)),
        ("ok 1 a # SKIP no device", KtapResult("a", 1, True, "SKIP", "no device")),
        ("not ok 1 a # skip no device", KtapResult("a", 1, False, "SKIP", "no device")),
        ("ok 1 # SKIP a", KtapResult("a", 1, True, "SKIP", "a")),
        ("ok 1 a # SKIP", KtapResult("a", 1, True, "SKIP", "")),
        ("not ok 1 a # XFAIL known", KtapResult("a", 1, False, "XFAIL", "known")),
        ("ok 1 a # XPASS", KtapResult("a", 1, True, "XPASS", "")),
        ("not ok 1 a # TIMEOUT 45 seconds", KtapResult("a", 1, False, "TIMEOUT", "45 seconds")),
        ("ok 1 a#1 # SKIPPED is no directive", KtapResult("a#1 # SKIPPED is no directive", 1, True)),
        ("ok 12", KtapResult("", 12, True)),
    ],
)
def test_a_result(line: str, result: KtapResult) -> None:
    assert parse(f"{HEAD}1..1\n{line}\n").results == (result,)


def test_outcomes() -> None:
    lines = ["ok 1 a", "not ok 2 b", "ok 3 c # SKIP x", "ok 4 d # XFAIL x", "ok 5 e # XPASS", "ok 6 f # TIMEOUT"]
    found = parse("\n".join([HEAD + "1..6", *lines, ""]))
    assert [one.outcome for one in found.results] == ["passed", "failed", "skipped", "xfailed", "failed", "failed"]


@pytest.mark.parametrize("line", ["okay", "ok", "ok then", "ok 1a", " ok 1 a", "notok 1 a", "ok1 a", "[   1.0] ok 1 a"])
def test_what_is_no_result(line: str) -> None:
    found = parse(f"{HEAD}1..1\n{line}\n")
    assert found.results == ()
    assert found.rest == (line,)


def test_messages_of_the_kernel_in_between_belong_to_the_test_that_ran() -> None:
    found = parse(f"{HEAD}1..2\n[   1.0] hello\nok 1 a\n# said\n[   2.0] edu: timeout\r\nnot ok 2 b\n[   3.0] bye\n")
    assert [one.diagnostics for one in found.results] == [("[   1.0] hello",), ("said", "[   2.0] edu: timeout")]
    assert found.rest == ("[   3.0] bye",)
    assert found.problems() == []


def test_subtests_belong_to_the_result_behind_them() -> None:
    text = (
        "KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: first\n  1..2\n    KTAP version 1\n    1..1\n"
        "    ok 1 deep\n  ok 1 x\n[ 1.0] kernel\n  not ok 2 y # TIMEOUT\nok 1 first\nok 2 second\n"
    )
    found = parse(text)
    first, second = found.results
    assert found.problems() == []
    assert (first.name, first.outcome, second.outcome) == ("first", "failed", "passed")
    assert first.subtests is not None
    x, y = first.subtests.results
    assert x.subtests is not None
    assert [one.name for one in x.subtests.results] == ["deep"]
    assert (y.diagnostics, y.directive) == (("[ 1.0] kernel",), "TIMEOUT")
    assert second.subtests is None


def test_bail_out_ends_it() -> None:
    found = parse(f"{HEAD}1..3\nok 1 a\nBail out! no memory\n# Planned tests != run tests (3 != 1)\nok 2 b\n")
    assert (found.bail, len(found.results)) == ("no memory", 1)
    assert found.rest == ("Planned tests != run tests (3 != 1)", "ok 2 b")
    assert found.problems() == ["the plan says 3 results, but there are 1"]


def test_a_plan_that_skips_all() -> None:
    found = parse(f"{HEAD}1..0 # SKIP no root\n")
    assert (found.planned, found.skipped, found.problems()) == (0, "no root", [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1..1\nok 1 a\n", "the `TAP version` line is missing"),
        (f"{HEAD}ok 1 a\n", "the plan is missing"),
        (f"{HEAD}1..3\nok 1 a\nok 2 b\n", "the plan says 3 results, but there are 2"),
        (f"{HEAD}1..2\nok 1 a\nok 3 b\n", "result 2 has number 3: b"),
        (f"{HEAD}1..2\nok 1 a\nnot ok 2 a\n", "2 results of a"),
        (f"{HEAD}1..1\nok 1 a\n# Tot", "the last line is truncated: # Tot"),
        (f"{HEAD}1..1\n  1..2\n  ok 1 x\nok 1 a\n", "a: the plan says 2 results, but there are 1"),
    ],
)
def test_what_is_not_as_it_should_be(text: str, problem: str) -> None:
    assert problem in parse(text).problems()


def test_nothing() -> None:
    assert parse("") == Output()
    assert parse("").problems() == ["the `TAP version` line is missing", "the plan is missing"]


def test_an_output_that_is_cut_anywhere_never_has_a_result_that_was_not_whole() -> None:
    text = (DATA / "faults.ktap").read_text()
    whole = parse(text).results
    for size in range(len(text)):
        found = parse(text[:size])
        assert found.results == whole[: len(found.results)]
        assert len(found.results) == text[:size].count("\nok ") + text[:size].count("\nnot ok ") - (
            found.cut.startswith(("ok ", "not ok "))
        )
        assert found.problems() or len(found.results) == len(whole)


def test_noise_is_survived() -> None:
    draw = random.Random(7)
    lines = (DATA / "faults.ktap").read_text().splitlines(keepends=True)
    for _ in range(200):
        shuffled = draw.sample(lines, draw.randrange(len(lines)))
        shuffled += ["".join(map(chr, draw.choices(range(1, 300), k=40))) for _ in range(5)]
        draw.shuffle(shuffled)
        found = parse("".join(shuffled))
        assert isinstance(found.problems(), list)
