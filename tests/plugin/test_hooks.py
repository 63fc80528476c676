# SPDX-License-Identifier: GPL-2.0-only
"""The hooks for others: each is called, and what it answers counts."""

from __future__ import annotations

import pytest
from bench import Bench

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence

SPLAT = "[    3.0] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"


def test_guests_and_verdicts_are_told_about(bench: Bench) -> None:
    bench.record(endings={"two-pages": KernelCrash("warning", Evidence("qemu", SPLAT, SPLAT))})
    bench.pytester.makeconftest(
        """
        def pytest_iommu_guest_started(guest):
            print("STARTED", guest.name)

        def pytest_iommu_guest_lost(guest, reason, evidence):
            print("LOST", guest.name, reason, evidence.command)

        def pytest_iommu_compared(item, comparison):
            print("COMPARED", item.name, comparison.ok)
        """
    )
    result = bench.run("-s")
    result.stdout.fnmatch_lines(
        [
            "*STARTED smmuv3/plain (replay)",
            "COMPARED one-page[[]smmuv3-s1-4k] True",
            "*LOST smmuv3/plain (replay) warning replay of *",
        ]
    )


def test_a_known_issue_is_an_expected_failure(bench: Bench) -> None:
    bench.record(endings={"two-pages": KernelCrash("warning", Evidence("qemu", SPLAT, SPLAT))})
    bench.pytester.makeconftest(
        """
        from pytest_iommu.core.known_issues import KnownIssue

        def pytest_iommu_classify_splat(splat):
            if splat.kind == "warning" and "iommu_map" in splat.title:
                return KnownIssue("BUG-7", "maps twice")
        """
    )
    result = bench.run("-rx")
    result.assert_outcomes(passed=2, xfailed=1, skipped=1)
    result.stdout.fnmatch_lines(["*known issue BUG-7: maps twice*"])


def test_a_target_of_ones_own(recorded: Bench) -> None:
    recorded.pytester.makeconftest(
        f"""
        from pathlib import Path
        from pytest_iommu.targets.registry import TargetKind
        from pytest_iommu.targets.replay import ReplayTarget

        def make(settings, machine, key, kernel):
            assert settings.target_argument == "somewhere:else"
            return ReplayTarget(Path({str(recorded.recording)!r}), key)

        def pytest_iommu_targets(config):
            return {{"mine": TargetKind(make, needs_kernel=False, live=False)}}
        """
    )
    result = recorded.pytester.runpytest_subprocess("--iommu-target=mine:somewhere:else")
    result.assert_outcomes(passed=3, skipped=1)


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_kernel_of_ones_own_is_prepared_once_and_named(recorded: Bench, workers: list[str]) -> None:
    recorded.pytester.makeconftest(
        f"""
        from pathlib import Path
        from pytest_iommu.images import Artefacts, Qemu
        from pytest_iommu.targets.registry import TargetKind
        from pytest_iommu.targets.replay import ReplayTarget

        def make(settings, machine, key, kernel):
            assert kernel.kernel == "Linux of mine"
            return ReplayTarget(Path({str(recorded.recording)!r}), key)

        def pytest_iommu_targets(config):
            return {{"mine": TargetKind(make, live=False)}}

        def pytest_iommu_kernel(config, machine, flavour, progress):
            progress.note(f"preparing {{machine.name}} {{flavour}}")
            qemu = Qemu(("qemu",), "10.0.0", origin="mine")
            return Artefacts(machine.name, flavour, Path("Image"), Path("initrd"), qemu, "Linux of mine")
        """
    )
    result = recorded.pytester.runpytest_subprocess("--iommu-target=mine", *workers)
    result.assert_outcomes(passed=3, skipped=1)
    lines = result.stdout.lines
    assert lines.count("iommu: preparing smmuv3 plain") == 1
    result.stdout.fnmatch_lines(["iommu: smmuv3/plain: Linux of mine*QEMU 10.0.0*"])


def test_a_kernel_that_cannot_be_had_ends_the_run(recorded: Bench) -> None:
    recorded.pytester.makeconftest(
        """
        from pytest_iommu.core.outcomes import SetupError

        def pytest_iommu_kernel(config, machine, flavour):
            raise SetupError("the kernel does not build:\\nfoo.c:1: error")
        """
    )
    for workers in ([], ["-n2"]):
        result = recorded.pytester.runpytest_subprocess("--iommu-target=qemu", *workers)
        assert result.ret == 6
        result.stderr.fnmatch_lines(["setup-error: the kernel does not build:", "foo.c:1: error"])


def test_a_machine_of_ones_own_is_known(recorded: Bench) -> None:
    recorded.pytester.makeconftest(
        """
        from dataclasses import replace
        from pytest_iommu.core import machines

        def pytest_iommu_machines(config):
            return [replace(machines.get("smmuv3"), name="mine")]
        """
    )
    result = recorded.run("--iommu-machine=mine")
    result.stdout.fnmatch_lines(["iommu: target replay, machine mine, flavour plain", "*needs machine smmuv3*"])


def test_a_dialect_of_ones_own_comes_first(recorded: Bench) -> None:
    recorded.pytester.makeconftest(
        """
        from pytest_iommu.dialects import IO_PTDUMP

        class Loud:
            name = "loud"
            files = IO_PTDUMP.files
            place = IO_PTDUMP.place
            probe = staticmethod(IO_PTDUMP.probe)
            parse = staticmethod(IO_PTDUMP.parse)

            def read(self, texts):
                print("LOUD")
                return IO_PTDUMP.read(texts)

        def pytest_iommu_dialects(config):
            return [Loud()]
        """
    )
    result = recorded.run("-s")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*LOUD"])


def test_a_format_of_ones_own_can_be_named_in_a_scenario(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
        from pytest_iommu import formats

        class Mine(type(formats.get("amdv1"))):
            name = "mine"

        def pytest_iommu_formats(config):
            return [Mine()]
        """
    )
    bench.scenarios.write_text(bench.scenarios.read_text().replace("stages: [s1, s2]", "formats: [mine]"))
    result = bench.pytester.runpytest_subprocess("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*one-page[[]smmuv3-mine*"])


def test_a_machine_of_ones_own_can_be_named_in_a_scenario(bench: Bench) -> None:
    bench.pytester.makeconftest(
        """
        import dataclasses

        from pytest_iommu.core import machines

        def pytest_iommu_machines(config):
            stages = {"s2": machines.Stage("arm_64_lpae_s2", {"ias": 40, "oas": 40})}
            return [dataclasses.replace(machines.get("smmuv3"), name="board", stages=stages)]
        """
    )
    text = bench.scenarios.read_text().replace("machines: [smmuv3]", "machines: [board]")
    bench.scenarios.write_text(text.replace("[s1, s2]", "[s2]").replace("stages: [s1]", "stages: [s2]"))
    result = bench.pytester.runpytest_subprocess("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*one-page[[]board-s2-4k*"])
