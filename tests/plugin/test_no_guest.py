# SPDX-License-Identifier: GPL-2.0-only
"""A set-up that cannot be had is said once, whatever the number of tests, and hides nothing of what can be had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench import Bench
from recording import record
from test_result_files import FILES, Results

CONFTEST = """
import os
from pathlib import Path

import pytest
from pytest_iommu.core.outcomes import *
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.targets.registry import TargetKind
from pytest_iommu.targets.replay import ReplayTarget

class Refusing:
    name = "refusing"

    def __init__(self, error):
        self.error = error

    def start(self):
        with open("starts", "a") as starts:
            starts.write(f"{{os.getpid()}}\\n")
        raise self.error

def make(settings, machine, key, kernel):
    error = REFUSED.get(key.flavour)
    return ReplayTarget(Path({recording!r}), key) if error is None else Refusing(error)

def pytest_iommu_targets(config):
    return {{"mine": TargetKind(make, needs_kernel=False, live=False)}}

REFUSED = {refused}
"""

NO_SSH = 'SetupError("no connection to board: refused\\nssh board", Evidence("ssh board", "Welcome\\n"))'


class Refused:
    """Runs of the bench's scenarios, in which guests of some flavours cannot be had."""

    def __init__(self, bench: Bench, workers: str) -> None:
        self._bench = bench
        self._workers = workers
        self.results: Results

    def run(self, refused: str, *options: str) -> pytest.RunResult:
        self._bench.pytester.makeconftest(CONFTEST.format(recording=str(self._bench.recording), refused=refused))
        arguments = ["--iommu-target=mine", "--iommu-flavour=plain,debug", *FILES, self._workers, *options]
        result = self._bench.pytester.runpytest_subprocess(*arguments)
        self.results = Results(self._bench)
        self.results.agree()
        return result

    @property
    def starts(self) -> list[str]:
        """The processes that tried to start a guest that cannot be had."""
        return (self._bench.pytester.path / "starts").read_text().splitlines()

    @property
    def tests(self) -> dict[str, dict[str, Any]]:
        return {test["name"].split(".")[1]: test for test in self.results.json["tests"]}

    @property
    def outcomes(self) -> list[str]:
        return [test["outcome"] for test in self.results.json["tests"]]


@pytest.fixture(params=["-n0", "-n2"])
def refused(bench: Bench, request: pytest.FixtureRequest) -> Refused:
    bench.record()
    return Refused(bench, request.param)


def test_no_guest_at_all_ends_the_run_once(refused: Refused) -> None:
    result = refused.run(f"{{'plain': {NO_SSH}, 'debug': {NO_SSH}}}")
    assert result.ret == 6
    assert result.stdout.str().count("no connection to board: refused\n") == 1
    result.stdout.fnmatch_lines(
        [
            "*= no guest =*",
            "setup-error: no guest of smmuv3/*: no connection to board: refused",
            "as well: smmuv3/*",
            "ssh board",
            "console, last lines:",
            "    Welcome",
            "*4 skipped*",
        ]
    )
    assert len(refused.starts) == len(set(refused.starts)) * 2 or refused.starts
    assert refused.outcomes == [*["not-run"] * 4, "failed"]
    (failed,) = [test for test in refused.results.json["tests"] if test["outcome"] == "failed"]
    assert failed["id"] in ("pytest-iommu::no-guest-smmuv3-plain", "pytest-iommu::no-guest-smmuv3-debug")
    assert failed["kind"] == "setup-error"
    assert refused.results.json["run"]["exit_status"] == 6


def test_the_run_ends_at_once_when_there_is_no_other_guest(refused: Refused) -> None:
    result = refused.run(f"{{'plain': {NO_SSH}}}", "-k", "page")
    assert result.ret == 6
    assert refused.outcomes == [*["not-run"] * 3, "failed"]
    assert (
        refused.results.json["run"]["ended"] == "setup-error: no guest of smmuv3/plain: no connection to board: refused"
    )
    reasons = {test.get("reason") for test in refused.results.json["tests"][:3]}
    assert "not run: no guest of smmuv3/plain: no connection to board: refused" in reasons


def test_one_guest_of_two(refused: Refused) -> None:
    """What can be had is tested."""
    result = refused.run(f"{{'debug': {NO_SSH}}}")
    assert result.ret == 6
    assert refused.outcomes == ["passed", "passed", "passed", "not-run", "failed"]
    assert refused.results.json["run"]["ended"] is None
    assert len(refused.starts) == 1


def test_the_first_guest_of_two(bench: Bench) -> None:
    record(bench.recording, bench.scenarios, flavour="debug")
    refused = Refused(bench, "-n0")
    assert refused.run(f"{{'plain': {NO_SSH}}}").ret == 6
    assert refused.outcomes == ["not-run", "not-run", "not-run", "passed", "failed"]


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_failure_of_the_kernel_is_not_hidden(bench: Bench, workers: str) -> None:
    bench.record(lambda case, file, text: text.replace("0x0000000041001000", "0x0000000041002000"))
    refused = Refused(bench, workers)
    assert refused.run(f"{{'debug': {NO_SSH}}}").ret == pytest.ExitCode.TESTS_FAILED
    assert (refused.tests["two-pages-smmuv3-s1-4k"]["kind"], refused.tests["no-guest-smmuv3-debug"]["kind"]) == (
        "fail",
        "setup-error",
    )


def test_a_kernel_that_crashes_while_it_boots_is_a_verdict(refused: Refused) -> None:
    crash = 'KernelCrash("oops while booting: Oops", Evidence("qemu", "", "Oops: 0"))'
    result = refused.run(f"{{'plain': {crash}}}", "-k", "page")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    kinds = [test.get("kind") for test in refused.results.json["tests"]]
    assert kinds.count("kernel-crash") == len(set(refused.starts))
    assert "setup-error" in kinds


def test_a_kernel_that_does_not_boot_is_waited_for_once(refused: Refused) -> None:
    """Other machines of that kernel are not tried, unless one of them has booted."""
    result = refused.run(
        '{"plain": BootTimeout("the kernel does not boot: within 120 s")}',
        "--iommu-machine=smmuv3,smmuv3s1",
        "-k",
        "page",
    )
    assert result.ret == 6
    assert len(refused.starts) == len(set(refused.starts))


def test_a_guest_that_cannot_be_had_again(bench: Bench) -> None:
    """It could once: what was tested stays tested."""
    bench.record()
    bench.pytester.makeconftest(
        CONFTEST.format(recording=str(bench.recording), refused="{}")
        + """
class Once:
    name = "once"
    count = 0

    def __init__(self, target):
        self.target = target

    def start(self):
        Once.count += 1
        if Once.count > 1:
            raise SetupError("no memory is left")
        guest = self.target.start()
        answer = guest.run
        def run(ops, timeout=10.0):
            if b"map d 0x1001000" in b"".join(op.data for op in ops):
                raise KernelCrash("oops", Evidence("qemu", "", "Oops: 0"))
            return answer(ops, timeout)
        guest.run = run
        return guest

make_it = make

def make(settings, machine, key, kernel):
    return Once(make_it(settings, machine, key, kernel))
"""
    )
    result = bench.pytester.runpytest_subprocess("--iommu-target=mine", "--iommu-json=r.json", "-p", "no:randomly")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = json.loads((bench.pytester.path / "r.json").read_text())["tests"]
    assert [test["outcome"] for test in told[:3]] == ["passed", "passed", "failed"]
