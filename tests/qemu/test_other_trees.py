# SPDX-License-Identifier: GPL-2.0-only
"""Kernel trees that have another dump of the SMMU: built as a user's tree, booted, recognised and judged.

tests/data/trees has what makes such a tree out of the kernel source, named after the dialect. That builds a kernel of
its own, so it is run by `make trees` alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import source, tree
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

pytestmark = pytest.mark.skipif(
    "PYTEST_IOMMU_TREES" not in os.environ, reason="builds a kernel, ten minutes the first time: make trees"
)

TREES = Path(__file__).parents[1] / "data" / "trees"
DRIVER = "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-debugfs.c"
MAY, MARCH, OF_2021 = "smmuv3_2026_05", "smmuv3_2026_03", "smmuv3_2021"
#: of each dialect: the parts of its tree, which change one after the other
PARTS = {MAY: (MAY,), MARCH: (MAY, MARCH), OF_2021: (MAY, OF_2021)}
#: what the RFC must not read: with the right word its text is good
OF_THE_RFC = ("data[1]) & STRTAB_STE_0_S1CTXPTR_MASK", "data[0]) & STRTAB_STE_0_S1CTXPTR_MASK")
DOMAINS = "test_streams_name_their_domains"
RIGHT = "test_what_the_kernel_prints_is_right"

Change = tuple[str, str]
Run = Callable[..., dict[str, dict[str, Any]]]


@contextmanager
def user_tree(settings: Settings, dialect: str, change: Change | None) -> Iterator[Path]:
    """A tree that prints this dialect, with some words of its driver exchanged for others."""
    store, progress = Store(settings.cache), Progress(sys.stderr)
    found = source.get(settings, store, progress)
    with store.scratch("patched") as scratch:
        changes = tree.reference_changes(found.path, [TREES / part for part in PARTS[dialect]], scratch)
    text = changes.files[DRIVER].decode()
    if change is not None:
        assert text.count(change[0]) == 1, f"{change[0]} is not in the driver once"
        text = text.replace(*change)
    wanted = tree.Changes({**changes.files, DRIVER: text.encode()})
    # The copy of the mutants of the kernel, so that there is one build directory.
    copy = tree.LinkCopy(Store(settings.cache / "mutants"), found.path, clean=True)
    with copy.held(wanted, found.identity, f"a tree of {dialect}", progress, immutable=True) as where:
        yield where


@pytest.fixture
def run(pytester: pytest.Pytester, iommu_settings: Settings, capfd: pytest.CaptureFixture[str]) -> Run:
    """Builds a dialect's tree and judges it with the suite's test of dialects; returns the tests of the report."""
    if iommu_settings.target != "qemu":
        pytest.skip("needs --iommu-target=qemu")

    def judge(dialect: str, change: Change | None = None, machine: str = "smmuv3") -> dict[str, dict[str, Any]]:
        with capfd.disabled(), user_tree(iommu_settings, dialect, change) as where:
            result = pytester.runpytest_subprocess(
                *("--iommu-target=qemu", f"--iommu-kernel={where}", "--iommu-reference=never"),
                *(f"--iommu-cache={iommu_settings.cache}", f"--iommu-machine={machine}", "--iommu-json=results.json"),
                *("--rootdir=/", str(paths.conformance() / "test_dialects.py")),
            )
        result.stdout.fnmatch_lines([f"*dialects by its configuration: *{dialect} (STE-2 STE-6*"])
        result.stdout.fnmatch_lines([f"iommu: {machine}/plain speaks {dialect}"])
        tests = json.loads((pytester.path / "results.json").read_text())["tests"]
        return {test["id"].partition("::")[2]: test for test in tests if f"[{dialect}]" in test["id"]}

    return judge


@pytest.mark.parametrize(
    ("dialect", "change", "machine"),
    [
        pytest.param(MAY, None, "smmuv3", id=MAY),
        pytest.param(MAY, None, "smmuv3s2", id=f"{MAY}-stage-2"),
        pytest.param(MARCH, OF_THE_RFC, "smmuv3", id=f"{MARCH}-mended"),
        pytest.param(OF_2021, None, "smmuv3topo", id=OF_2021),
        pytest.param(OF_2021, None, "smmuv3s2", id=f"{OF_2021}-stage-2"),
    ],
)
def test_a_tree_is_recognised_and_right(dialect: str, change: Change | None, machine: str, run: Run) -> None:
    found = run(dialect, change, machine)
    assert found[f"{RIGHT}[{dialect}]"]["outcome"] == "passed", found
    if dialect != OF_2021:
        domains = found[f"{DOMAINS}[{dialect}]"]
        assert (domains["outcome"], domains["reason"]) == ("skipped", f"{dialect}: the text has no Domain lines")


@pytest.mark.parametrize(
    ("dialect", "change", "rule", "why", "machine"),
    [
        pytest.param(
            *(MAY, ("le64_to_cpu(data[i]));", "le64_to_cpu(data[i]) | (i == 6));"), "STE-2"),
            *("STE[6] is 0x0000000000000001, 0x0000000000000000 in memory", "smmuv3"),
            id="wrong-word",
        ),
        pytest.param(
            *(MAY, ("stream->id >= 1ULL", "stream->id < 1ULL"), "STE-2"),
            *("an error sentence instead of an entry", "smmuv3"),
            id="error-as-content",
        ),
        pytest.param(
            *(MARCH, None, "STE-2", "S1ContextPtr is 0xc0, but the words say", "smmuv3"),
            id="the-rfc-as-posted",
        ),
        pytest.param(
            *(OF_2021, ("here, address);", "here, address + SZ_4K);"), "RNG-4", "OA of", "smmuv3topo"),
            id="next-page",
        ),
        pytest.param(
            *(OF_2021, ('else\n\t\t\tseq_printf(m, "va:', 'else if (i & 1)\n\t\t\tseq_printf(m, "va:'), "RNG-1"),
            *("which is in no row", "smmuv3topo"),
            id="every-second-row",
        ),
    ],
)
def test_a_fault_breaks_its_rule(
    dialect: str, change: Change | None, rule: str, why: str, machine: str, run: Run
) -> None:
    failed = run(dialect, change, machine)[f"{RIGHT}[{dialect}]"]
    assert failed["outcome"] == "failed", failed
    assert failed["broke"][0] == rule, failed
    assert why in json.dumps(failed), failed
