# SPDX-License-Identifier: GPL-2.0-only
"""Whole runs on recordings: verdicts, skips, ids, selection, the summary by rule."""

from __future__ import annotations

import json
import re

import pytest
from bench import Bench


def test_without_a_target_scenarios_are_skipped_and_all_else_runs(bench: Bench) -> None:
    bench.pytester.makepyfile("def test_mine(): pass")
    result = bench.pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["iommu: 4 skipped: no --iommu-target given*", "*checked 0 of 4 IOMMU tests in *"])
    assert "IOMMU rules" not in result.stdout.str()
    assert result.ret == 0


def test_where_there_is_nothing_of_ours_nothing_is_said(bench: Bench) -> None:
    bench.scenarios.unlink()
    bench.pytester.makepyfile("import pytest\ndef test_mine(): pytest.skip('mine')")
    assert "iommu: " not in bench.pytester.runpytest_subprocess().stdout.str().lower()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("given", ["option", "ini"])
def test_strict_without_a_target_is_not_green(bench: Bench, given: str, workers: str) -> None:
    if given == "ini":
        bench.pytester.makeini("[pytest]\niommu_strict = true\n")
    result = bench.pytester.runpytest_subprocess(workers, *(["--iommu-strict"] if given == "option" else []))
    result.assert_outcomes(skipped=4)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["iommu: nothing was checked (--iommu-strict)", "iommu: 4 skipped: no --iommu-target*"])


def test_a_run_on_a_recording(recorded: Bench) -> None:
    result = recorded.run("-v")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "iommu: target replay, machine smmuv3, flavour plain",
            "basics.iommu.yaml::basics::one-page[[]smmuv3-s1-4k] PASSED*",
            "basics.iommu.yaml::basics::one-page[[]smmuv3-s2-4k] PASSED*",
            "basics.iommu.yaml::basics::two-pages[[]smmuv3-s1-4k] PASSED*",
            "basics.iommu.yaml::basics::needs-debug[[]smmuv3-s1-4k@debug] SKIPPED*",
            "*IOMMU rules*",
            "rule     passed failed skipped",
            "RNG-1         2      0       0  *",
            "RNG-3         1      0       0  *",
            "CON-1         0      0       1  *",
            "no test of this run is about: *LAY-1*",
            "iommu: 1 skipped: needs kernel flavour debug: --iommu-flavour=plain,debug",
            "*= 3 passed, 1 skipped in *",
        ]
    )
    assert not recorded.artefacts().exists()


def test_one_test_is_selected_by_its_id(recorded: Bench) -> None:
    result = recorded.run("basics.iommu.yaml::basics::one-page[smmuv3-s2-4k]")
    result.assert_outcomes(passed=1)


def test_a_suite_is_selected_by_its_id(recorded: Bench) -> None:
    recorded.run("basics.iommu.yaml::basics").assert_outcomes(passed=3, skipped=1)


def test_a_rule_selects_its_tests(recorded: Bench) -> None:
    recorded.run("-k", "RNG-3").assert_outcomes(passed=1, deselected=3)


def test_last_failed_runs_what_failed_last(bench: Bench) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041000000", "0x0000000041000001"))
    bench.run().assert_outcomes(failed=3, skipped=1)
    bench.record()
    bench.run("--lf").assert_outcomes(passed=3)


def test_workers_run_the_same(recorded: Bench) -> None:
    result = recorded.run("-n2")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["RNG-1         2      0       0  *"])


def test_nothing_of_ours_collected_says_how_the_suite_is_run(pytester: pytest.Pytester, recorded: Bench) -> None:
    recorded.scenarios.unlink()
    result = recorded.run()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["*pytest --pyargs pytest_iommu.conformance --iommu-target=replay*"])


@pytest.mark.parametrize(("strict", "status"), [("", 0), ("--iommu-strict", 5)])
def test_a_run_that_checked_nothing(recorded: Bench, strict: str, status: int) -> None:
    result = recorded.run("-k", "needs-debug", *filter(None, [strict]))
    result.assert_outcomes(skipped=1, deselected=3)
    assert result.ret == status
    result.stdout.fnmatch_lines(
        [
            "iommu: 1 skipped: needs kernel flavour debug: --iommu-flavour=plain,debug",
            "*= 1 skipped, 3 deselected, checked 0 of 1 IOMMU tests in *",
        ]
    )


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_table_has_the_rules_of_what_failed_and_is_that_of_rules_json(bench: Bench, workers: str) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041000000", "0x0000000041000001"))
    result = bench.run("--iommu-report=out", workers)
    result.assert_outcomes(failed=3, skipped=1)
    _hold_against_the_report(bench, result)
    missing = next(line for line in result.outlines if line.startswith("no test of this run is about: "))
    assert not {"RNG-1", "RNG-3", "RNG-4", "CON-1"} & set(missing.split())


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_table_of_a_run_that_was_cut_short(recorded: Bench, workers: str) -> None:
    recorded.pytester.makeconftest(
        "import pytest\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_runtest_logreport(report):\n"
        "    if report.when == 'teardown' and not hasattr(report, 'workerinput') and 'two-pages' in report.nodeid:\n"
        "        raise KeyboardInterrupt\n"
    )
    result = recorded.run("--iommu-report=out", workers, "-k", "pages or one-page", "-p", "no:randomly")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    _hold_against_the_report(recorded, result)
    result.stdout.fnmatch_lines(["RNG-3         1      0       0  *"])


def _hold_against_the_report(bench: Bench, result: pytest.RunResult) -> None:
    rows = [line.split() for line in result.outlines if re.match(r"[A-Z]{2,3}-\d+ +\d+ +\d+ +\d+ ", line)]
    shown = {words[0]: [int(word) for word in words[1:4]] for words in rows}
    rules = json.loads((bench.pytester.path / "out" / "rules.json").read_text())["rules"]
    told = {rule["id"]: list(rule["counts"].values()) for rule in rules if any(rule["counts"].values())}
    assert shown == told
    assert told


def test_the_listing(bench: Bench) -> None:
    result = bench.pytester.runpytest_subprocess("--iommu-list")
    result.stdout.fnmatch_lines(
        [
            "basics.iommu.yaml::basics::one-page[[]smmuv3-s1-4k]  RNG-1 RNG-4 TAB-1 *",
            "RNG-1       2  *",
            "RNG-2       0  *",
        ]
    )
    assert result.ret == 0


def test_the_listing_needs_no_workers(bench: Bench) -> None:
    result = bench.pytester.runpytest_subprocess("--iommu-list", "-n2")
    result.stdout.fnmatch_lines(["RNG-1       2  *"])


def test_ini_twins(recorded: Bench) -> None:
    recorded.pytester.makeini(f"[pytest]\niommu_target = replay:{recorded.recording}\niommu_strict = true\n")
    recorded.pytester.runpytest_subprocess().assert_outcomes(passed=3, skipped=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--iommu-target=nowhere", "*no target 'nowhere'; there are: local, qemu, replay, serial, ssh*"),
        ("--iommu-target=qemu:smmuv3topo", "*--iommu-target=qemu:smmuv3topo: qemu takes no argument*"),
        ("--iommu-target=local:board", "*--iommu-target=local:board: local takes no argument*"),
        ("--iommu-machine=pdp11", "*no machine 'pdp11'; there are: *smmuv3*"),
        ("--iommu-keep=some", "*--iommu-keep takes failed, all, none, not 'some'*"),
        ("--iommu-kernel=/nowhere", "*--iommu-kernel: no such directory: /nowhere*"),
        ("--iommu-kernel=debian:sid", "*--iommu-kernel=debian:sid: debian: takes a series, e.g. debian:6.12*"),
        ("--iommu-cache=my cache", "*--iommu-cache: '*/my cache': *make takes no path with a blank*"),
        ("--iommu-modules=/tmp", "*--iommu-modules goes with --iommu-image*"),
    ],
)
def test_a_wrong_option_is_a_usage_error(recorded: Bench, option: str, message: str) -> None:
    result = recorded.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_home_with_a_blank_hinders_nobody_who_builds_nothing(
    recorded: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(recorded.pytester.path / "my home"))
    recorded.pytester.runpytest_subprocess().assert_outcomes(skipped=4)
    recorded.run().assert_outcomes(passed=3, skipped=1)
    result = recorded.pytester.runpytest_subprocess("--iommu-target=qemu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--iommu-cache: '*/my home/pytest-iommu'*"])


def test_a_dialect_that_nobody_knows_is_a_mistake_in_the_file(recorded: Bench) -> None:
    text = recorded.scenarios.read_text()
    recorded.scenarios.write_text(text.replace("rules: [RNG-3]", "rules: [RNG-3]\n    needs: {dialect: ptdump}"))
    result = recorded.run()
    result.stdout.fnmatch_lines(["*basics.iommu.yaml:8: unknown dialect 'ptdump'; known: *io_ptdump*"])


def test_a_mistake_in_a_scenario_says_file_and_line(recorded: Bench) -> None:
    recorded.scenarios.write_text("suite: basics\ncases:\n  - name: x\n    rules: [NO-1]\n    do: []\n")
    result = recorded.run()
    result.stdout.fnmatch_lines(["*basics.iommu.yaml:4: *NO-1*"])
    assert "Traceback" not in result.stdout.str()
    assert result.ret == pytest.ExitCode.INTERRUPTED
