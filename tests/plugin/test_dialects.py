# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-dialect, and the dialect of docs/new-dialect.md as a plugin, on a target that has files and no kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "new-dialect"
KERNEL = """
from pytest_iommu import Evidence, Reply, Result, TargetKind

DEBUG = "/sys/kernel/debug"
FILES = {DEBUG + "/iommu/amd": "pgtbl\\n", DEBUG + "/iommu/amd/pgtbl": open("saved.txt").read()}


class Saved:
    name = "saved"
    memory = None

    def start(self):
        return self

    def run(self, ops, timeout=10.0):
        texts = [FILES.get(op.path) for op in ops]
        return Reply(tuple(Result(-2) if one is None else Result(len(one), one.encode()) for one in texts))

    def pause(self):
        pass

    def close(self):
        pass

    def evidence(self):
        return Evidence()


def pytest_iommu_targets(config):
    kind = TargetKind(lambda *_: Saved(), needs_kernel=False, programs=False, live=False, takes_argument=False)
    return {"saved": kind}
"""
TESTS = """
import pytest

@pytest.mark.iommu_needs(dialect="vtd")
def test_vtd(iommu_guest): pass

@pytest.mark.iommu_needs(dialect="io_ptdump")
def test_reference(iommu_guest): pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    for path in EXAMPLE.glob("*.*"):
        (pytester.path / path.name).write_text(path.read_text())
    (pytester.path / "kernel.py").write_text(KERNEL)
    with (pytester.path / "conftest.py").open("a") as conftest:
        conftest.write("from kernel import pytest_iommu_targets\n")
    pytester.makepyfile(TESTS)
    return pytester


def outcome(run: pytest.Pytester, *options: str) -> pytest.RunResult:
    return run.runpytest_subprocess("--iommu-target=saved", "-rs", "-p", "no:cacheprovider", *options)


def test_a_dialect_of_a_plugin_is_found_and_judged(run: pytest.Pytester) -> None:
    result = outcome(run)
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "*needs dialect vtd, of which this kernel has no files*",
            "*this kernel has no page-table dump in /sys/kernel/debug/iommu that any dialect knows*",
            "iommu: smmuv3/plain speaks pgtbl",
            "ENT-1 * 1 *",
        ]
    )


def test_a_text_that_breaks_a_rule_fails(run: pytest.Pytester) -> None:
    path = run.path / "saved.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], *lines[4:2:-1], *lines[5:]]))
    result = outcome(run)
    result.assert_outcomes(failed=1, skipped=2)
    result.stdout.fnmatch_lines(["*RNG-2*"])


def test_the_option_narrows(run: pytest.Pytester) -> None:
    result = outcome(run, "--iommu-dialect=vtd")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "*needs dialect pgtbl: --iommu-dialect leaves it out*",
            "*needs dialect vtd, of which this kernel has no files*",
            "*needs dialect io_ptdump: --iommu-dialect leaves it out*",
            "iommu: smmuv3/plain speaks none",
        ]
    )


def test_an_unknown_dialect_is_a_mistake(run: pytest.Pytester) -> None:
    result = outcome(run, "--iommu-dialect=ptdump")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--iommu-dialect: no dialect 'ptdump'; there are: pgtbl, io_ptdump, *vtd*"])
