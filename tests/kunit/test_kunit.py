# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own tests of generic_pt and io-pgtable, with the reference implementation: they count pages of tables.

On User Mode Linux, as kunit.py does it: one processor, whose counters of table pages are exact at once. On more than
one the tests of generic_pt fail on any kernel (docs/findings.md).
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.core import needs, paths, process
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import source, tree
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store, digest

CONFIG = Path(__file__).with_name("kunitconfig")
#: seconds for all tests, which take 40
LIMIT = 600
FORMATS = ("amdv1", "vtdss", "riscv_64", "x86_64")
SUITES = (*(f"{name}_{what}_test" for name in FORMATS for what in ("fmt", "iommu", "dump")), "io-pgtable-arm-test")


def kunit(
    where: Path, log: Path, command: str, *arguments: str, on_tick: Callable[[], None] | None = None
) -> process.Finished:
    """Run kunit.py of a tree, which it is to leave as it is."""
    argv = [sys.executable, "tools/testing/kunit/kunit.py", command, *arguments]
    return process.run(argv, cwd=where, env=process.environment_of_make(), log=log, on_tick=on_tick)


def said(what: str, done: process.Finished, log: Path) -> str:
    """Why there is nothing to look at."""
    return "\n".join((what, *done.lines[-30:], f"whole output: {log}"))


@pytest.fixture(scope="module")
def build(iommu_settings: Settings, pytestconfig: pytest.Config) -> tuple[Path, Path]:
    """The patched tree and a directory with User Mode Linux built of it. Skips where it cannot be built here."""
    if platform.machine() != "x86_64":
        pytest.skip(f"User Mode Linux is for x86_64, this is {platform.machine()}")
    native = needs.Tools()
    missing = needs.missing(needs.needed(["kernel"], native, needs.symbols_of(CONFIG.read_text())), native)
    if missing:
        pytest.skip(needs.complaint(missing))
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    # The user is to see what takes minutes.
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        return built(iommu_settings, Progress(sys.stderr))


def built(settings: Settings, progress: Progress) -> tuple[Path, Path]:
    """Patch the tree and build; incrementally, in the cache."""
    store = Store(settings.cache)
    found = source.get(settings, store, progress)
    changes = tree.Changes({})
    if not tree.has_dump(found.path):
        with store.scratch("patched") as scratch:
            changes = tree.reference_changes(found.path, paths.additions(), scratch)
    clean = found.immutable or not tree.built_in_place(found.path, "um")
    place = store.path("builds", f"um-kunit-{digest('kunit', found.path)}")
    log = store.path("logs", f"{place.name}.log")
    options = (f"--build_dir={place}", f"--kunitconfig={CONFIG}", "--arch=um")
    what = "building User Mode Linux"
    held = tree.LinkCopy(store, found.path, clean).held(changes, found.identity, what, progress, found.immutable)
    with store.lock(f"builds-{place.name}", what, progress), held as copy, progress.step(what) as step:
        place.mkdir(parents=True, exist_ok=True)
        number = len(os.sched_getaffinity(0))
        done = kunit(copy, log, "build", *options, f"--jobs={number}", on_tick=step.update)
    assert done.status == 0, said("User Mode Linux does not build:", done, log)
    return copy, place


@pytest.fixture(scope="module")
def suites(build: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Counter[str]]:
    """By suite how many of its tests ended how (PASS, FAIL, SKIP, ERROR), as kunit.py's parser counts."""
    where, place = build
    folder = tmp_path_factory.mktemp("kunit")
    log, results = folder / "log", folder / "results.json"
    # Another session may build meanwhile: of the tree nothing is used here but kunit.py.
    done = kunit(where, log, "exec", f"--build_dir={place}", "--arch=um", f"--timeout={LIMIT}", f"--json={results}")
    assert results.exists(), said("kunit.py has no results:", done, log)
    group = json.loads(results.read_text())
    counts = {one["name"]: Counter(case["status"] for case in cases(one)) for one in group["sub_groups"]}
    # What fails in a suite is said by the test of that suite.
    if done.status == 0 or any(set(count) - {"PASS", "SKIP"} for count in counts.values()):
        return counts
    pytest.fail(said(f"kunit.py ended with status {done.status}:", done, log))


def cases(group: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tests of a suite; one with parameters is a group."""
    yield from group["test_cases"]
    for below in group["sub_groups"]:
        yield from cases(below)


def test_the_dump_is_built_in(build: tuple[Path, Path]) -> None:
    taken = (build[1] / ".config").read_text().splitlines()
    assert {"CONFIG_IOMMU_PTDUMP_DEBUGFS=y", "CONFIG_IOMMU_PAGES_RCU=y"} <= set(taken)


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_passes(suite: str, suites: Mapping[str, Counter[str]]) -> None:
    count = suites.get(suite, Counter())
    assert count["PASS"], f"nothing of it ran; there are: {', '.join(suites)}"
    assert set(count) <= {"PASS", "SKIP"}, dict(count)


def test_there_is_no_other_suite(suites: Mapping[str, Counter[str]]) -> None:
    assert sorted(suites) == sorted(SUITES)
