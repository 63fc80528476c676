# SPDX-License-Identifier: GPL-2.0-only
"""What a failure looks like: every outcome by its name, with all that is needed to go on."""

from __future__ import annotations

import pytest
from bench import Bench

from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang
from pytest_iommu.core.protocol import Evidence

SPLAT = (
    "[    3.0] ------------[ cut here ]------------\n"
    "[    3.0] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"
    "[    3.0] ---[ end trace 0000000000000000 ]---\n"
)
UNDECIDED = "the dump differs from what is expected (the guest's memory could not be read): RNG-4"
EVIDENCE = Evidence("qemu-system-aarch64 -machine virt", f"[    0.0] Booting Linux\n{SPLAT}", SPLAT)


def wrong_oa(case: str, file: str, text: str) -> str:
    """A kernel that shows the wrong OA for one case."""
    return text.replace(" 0x0000000041000000 ", " 0x0000000041002000 ") if case == "two-pages" else text


def test_a_wrong_dump(bench: Bench) -> None:
    bench.record(wrong_oa)
    result = bench.run()
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*basics::two-pages[[]smmuv3-s1-4k]*",
            UNDECIDED,
            "RNG-4  OA is the translation of first; sizes are exact, in the largest of K M G T P",
            "also   ENT-2 ENT-1",
            "domain d, as at line 8:",
            "RNG-4  page_table: the OA of 0x1000000 is 0x41002000, not 0x41000000",
            "*expected  0x0000000001000000-* 0x0000000041000000 *",
            "*dumped    0x0000000001000000-* 0x0000000041002000 *",
            "again: *pytest 'basics.iommu.yaml::basics::two-pages[[]smmuv3-s1-4k]' --iommu-target=replay:*",
            "artefacts: .pytest-iommu/*/basics-basics-two-pages-smmuv3-s1-4k *",
            "test:      basics.iommu.yaml:8, about RNG-3",
            "RNG-4         2      1       0  *",
        ]
    )
    folder = bench.artefacts() / "basics-basics-two-pages-smmuv3-s1-4k"
    assert "0x0000000041002000" in (folder / "d.page_table.txt").read_text()
    assert (folder / "commands.txt").read_text().startswith("reset\n")
    text = (folder / "failure.txt").read_text()
    assert text.startswith(UNDECIDED)
    assert "artefacts: .pytest-iommu/" in text
    assert "0x0000000041000000" in (folder / "d.page_table.expected.txt").read_text()
    assert (folder / "d.differences.txt").read_text().startswith("RNG-4  page_table: the OA of")


@pytest.mark.parametrize(
    ("ending", "headline"),
    [
        (KernelCrash("warning while it ran a batch: WARNING: at iommu_map", EVIDENCE), "kernel-crash: warning while*"),
        (KernelHang("the agent did not answer within 10 s", EVIDENCE), "kernel-hang: the agent did not answer*"),
    ],
)
def test_a_kernel_that_breaks(bench: Bench, ending: IommuError, headline: str) -> None:
    bench.record(endings={"one-page": ending})
    result = bench.run()
    result.assert_outcomes(failed=2, passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            headline,
            "first kernel report:",
            "*WARNING: drivers/iommu/iommu.c:10 at iommu_map*",
            "again: *pytest 'basics.iommu.yaml::basics::one-page[[]smmuv3-s1-4k]' *",
            "artefacts: *basics-one-page-smmuv3-s1-4k (command.txt: QEMU's command line)",
            "test:      basics.iommu.yaml:4, about RNG-1 RNG-4",
            "console, last lines:",
            "*Booting Linux*",
            "RNG-1         0      2       0  *",
            f"failures by kind: 2 {ending.kind}",
        ]
    )
    result.stdout.no_fnmatch_line("*qemu-system-aarch64*")
    # The report is not shown once more as the end of the console.
    assert result.stdout.str().count("WARNING: drivers/iommu/iommu.c:10") == 2
    folder = bench.artefacts() / "basics-basics-one-page-smmuv3-s1-4k"
    assert (folder / "command.txt").read_text() == "qemu-system-aarch64 -machine virt\n"
    assert sorted(path.name for path in folder.iterdir()) == ["command.txt", "console.txt", "failure.txt", "splat.txt"]


def test_a_lost_guest_is_tried_again_and_shown(bench: Bench) -> None:
    bench.record(endings={"two-pages": GuestLost("QEMU was killed by SIGKILL", EVIDENCE)})
    bench.recording.rename(bench.pytester.path / "lost")
    bench.record()
    lost = (bench.pytester.path / "lost" / "index-main.jsonl").read_text()
    index = bench.recording / "index-main.jsonl"
    index.write_text("".join(line for line in lost.splitlines(True) if "guest-lost" in line) + index.read_text())
    result = bench.run()
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["guest-lost, tried again on a fresh guest: *two-pages*: QEMU was killed by SIGKILL"])


def test_lost_twice_is_no_verdict_on_the_kernel(bench: Bench) -> None:
    bench.record(endings={"two-pages": GuestLost("QEMU was killed by SIGKILL", EVIDENCE)})
    result = bench.run()
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    result.stdout.fnmatch_lines(["guest-lost: QEMU was killed by SIGKILL", "failures by kind: 1 guest-lost"])
    assert result.ret == 6


def test_a_broken_set_up_has_its_own_exit_status(bench: Bench) -> None:
    result = bench.run()
    result.assert_outcomes(skipped=1)  # the run ends there
    result.stdout.fnmatch_lines(["*no guest*", "setup-error: no guest of smmuv3/plain: *is not a recording*"])
    assert result.ret == 6


def test_outcomes_survive_workers(bench: Bench) -> None:
    bench.record(wrong_oa)
    result = bench.run("-n2")
    result.assert_outcomes(failed=1, passed=2, skipped=1)
    result.stdout.fnmatch_lines([UNDECIDED, "RNG-4         2      1       0  *"])


@pytest.mark.parametrize(("keep", "kept"), [("none", []), ("all", ["basics-basics-two-pages-smmuv3-s1-4k"])])
def test_keep(bench: Bench, keep: str, kept: list[str]) -> None:
    bench.record(wrong_oa)
    bench.run(f"--iommu-keep={keep}", "-k", "two-pages")
    found = sorted(path.name for path in bench.artefacts().iterdir()) if bench.artefacts().exists() else []
    assert found == kept


@pytest.mark.parametrize(("words", "shown"), [((), "with -v, its command line"), (("-v",), EVIDENCE.command)])
def test_without_artefacts_the_command_line_is_shown_on_demand(
    bench: Bench, words: tuple[str, ...], shown: str
) -> None:
    bench.record(endings={"one-page": KernelHang("no answer", EVIDENCE)})
    result = bench.run("--iommu-keep=none", "-k", "one-page and s1", *words)
    result.stdout.fnmatch_lines(["kernel-hang: no answer", f"QEMU:      {shown}"])
    result.stdout.no_fnmatch_line("artefacts:*")


def test_a_plain_assertion_counts_against_the_rules_of_its_test(bench: Bench) -> None:
    bench.record()
    bench.pytester.makepyfile(
        test_own="""
        import pytest

        @pytest.mark.iommu_rules("LAY-3", "LAY-4")
        def test_own():
            assert [1, 2] == [1]
        """
    )
    result = bench.run("test_own.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "a rule is broken: LAY-3, LAY-4",
            "LAY-3  the name is a decimal id*",
            "LAY-4  *",
            "again: *test_own.py::test_own*",
            "LAY-3 *0      1 *",
        ]
    )
