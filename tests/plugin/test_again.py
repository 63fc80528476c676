# SPDX-License-Identifier: GPL-2.0-only
"""What is printed to be pasted is pasted here: the line that runs a test again, and the node ids of -v."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bench import Bench
from recording import record

from pytest_iommu.session import again, nodeids

TWO_PAGES = "basics.iommu.yaml::basics::two-pages[smmuv3-s1-4k]"
BASICS = nodeids.SUITE / "scenarios" / "basics.iommu.yaml"


def wrong_oa(case: str, file: str, text: str) -> str:
    return text.replace(" 0x0000000041000000 ", " 0x0000000041002000 ") if case == "two-pages" else text


def lines_of(result: pytest.RunResult) -> list[str]:
    """The lines to run tests again."""
    return [line.removeprefix("again:").strip() for line in result.outlines if line.startswith("again:")]


def pasted(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    """A line, pasted into a shell in that directory."""
    return subprocess.run(command, shell=True, cwd=where, capture_output=True, text=True, check=False)


@pytest.fixture
def faulty(bench: Bench) -> Bench:
    bench.record(wrong_oa)
    return bench


def test_an_ini_override_of_the_command_line_is_kept(faulty: Bench) -> None:
    target = f"replay:{faulty.recording}"
    result = faulty.pytester.runpytest_subprocess("-o", f"iommu_target={target}", "-oiommu_machine=smmuv3,smmuv3s1")
    (line,) = lines_of(result)
    program = shlex.join([*again_words(), TWO_PAGES])
    assert line == f"{program} -o iommu_target={target} -o iommu_machine=smmuv3,smmuv3s1"
    said = pasted(line, faulty.pytester.path)
    assert "collected 1 item" in said.stdout
    assert "1 failed" in said.stdout


def again_words() -> list[str]:
    """How pytester starts pytest: not by its name, since the name would find another one, or none."""
    return [*again._command(Path(sys.executable)).split(), "-m", "pytest"]


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "other.ini"),
        ("--config-file=other.ini",),
        ("-c", "other.ini", "--rootdir=sub"),
        ("-p", "own", "-c", "other.ini", "-W", "ignore::UserWarning", "--import-mode=importlib"),
        ("-vsxp", "own", "-c", "other.ini", "-k", "two", "--noconftest", "-n0", "--tb=short"),
    ],
)
def test_options_of_pytest_that_decide_how_a_test_is_found_are_kept(faulty: Bench, words: tuple[str, ...]) -> None:
    """The target is in an ini file that pytest finds only by -c, the alteration of the test in a plugin of -p."""
    path = faulty.pytester.path
    (path / "sub").mkdir()
    (path / "own.py").write_text("def pytest_report_header(): return 'own plugin'\n")
    (path / "other.ini").write_text(f"[pytest]\niommu_target = replay:{faulty.recording}\npythonpath = {path}\n")
    result = faulty.pytester.runpytest_subprocess(*words, str(faulty.scenarios))
    (line,) = lines_of(result)
    said = pasted(line, path)
    assert "collected 1 item" in said.stdout, said.stdout + said.stderr
    assert "1 failed" in said.stdout
    assert ("own plugin" in said.stdout) is ("own" in words)
    assert not {"-x", "-k", "-s", "--tb=short", "-n0"} & set(shlex.split(line))


def test_a_selection_is_kept_where_an_ini_file_has_another(faulty: Bench) -> None:
    faulty.pytester.makeini(f"[pytest]\naddopts = -k one-page\niommu_target = replay:{faulty.recording}\n")
    (line,) = lines_of(faulty.pytester.runpytest_subprocess("-k", "two-pages"))
    assert line.endswith("-k two-pages")
    assert "1 failed" in pasted(line, faulty.pytester.path).stdout


def test_a_test_outside_the_root_directory_is_run_with_the_same_ini_file(faulty: Bench) -> None:
    """By its path alone pytest would look for one beside it."""
    here = faulty.pytester.mkdir("here")
    (here / "pytest.ini").write_text(f"[pytest]\niommu_target = replay:{faulty.recording}\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir=.", "-c", "pytest.ini", "../basics.iommu.yaml"],
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (line,) = [line.removeprefix("again:").strip() for line in result.stdout.splitlines() if line.startswith("again:")]
    assert "1 failed" in pasted(line, here).stdout


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Path:
    """A recording of a part of the suite, with a fault in one page."""
    directory = pytester.path / "recording"
    record(directory, BASICS, lambda case, file, text: text.replace(" 0x000001a2b3c47000 ", " 0x000001a2b3c48000 "))
    return directory


@pytest.mark.parametrize(("below", "workers"), [("", "-n0"), ("sub", "-n1")])
def test_ids_of_the_suite_can_be_pasted_anywhere(
    pytester: pytest.Pytester, suite: Path, below: str, workers: str
) -> None:
    """From a directory that knows nothing of it, also one below that of the ini file, whose settings then hold."""
    pytester.makeini(f"[pytest]\niommu_target = replay:{suite}\n")
    where = pytester.path / below
    where.mkdir(exist_ok=True)
    run = [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest"]
    words = [*run, "--pyargs", nodeids.MODULE, "-k", "one-page-by-hand-stage-1", "-v", workers]
    first = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False).stdout
    (shown,) = {match[0] for match in re.finditer(r"\S+basics\.iommu\.yaml::\S+\](?= FAILED)", first)} or {
        match[0] for match in re.finditer(r"(?<=FAILED )\S+basics\.iommu\.yaml::\S+\]", first)
    }
    assert shown.endswith(
        "pytest_iommu/conformance/scenarios/basics.iommu.yaml::basics::one-page-by-hand-stage-1[smmuv3-s1-4k]"
    )
    said = subprocess.run([*run, shown, workers], cwd=where, capture_output=True, text=True, check=False).stdout
    assert "1 failed" in said
    (line,) = [line.removeprefix("again:").strip() for line in first.splitlines() if line.startswith("again:")]
    assert "pytest_iommu/conformance/scenarios/basics.iommu.yaml::basics::one-page-by-hand" in line
    assert "1 failed" in pasted(line, where).stdout
    other = pytester.mkdir("elsewhere")
    pasted_there = [*run, shown.removeprefix("../"), f"--iommu-target=replay:{suite}", workers]
    assert "1 failed" in subprocess.run(pasted_there, cwd=other, capture_output=True, text=True, check=False).stdout


def test_what_is_not_asked_of_the_suite_is_left_out(pytester: pytest.Pytester) -> None:
    """One file, one class of tests, files of one's own with the same name; and what there is not is an error."""
    pytester.makepyfile(test_no_dump="def test_mine(): pass")
    name = f"{nodeids.NAME}/test_no_dump.py"
    result = pytester.runpytest_subprocess("test_no_dump.py", name, "-v")
    result.assert_outcomes(passed=1, skipped=5)
    result.stdout.fnmatch_lines(["test_no_dump.py::test_mine PASSED*", f"{name}::test_a_table_* SKIPPED*"])
    few = f"{name}::test_a_table_with_pages_of_its_own_has_no_directory"
    pytester.runpytest_subprocess(few).assert_outcomes(skipped=4)
    result = pytester.runpytest_subprocess(f"{name}::test_nothing")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*not found: {name}::test_nothing"])
    result = pytester.runpytest_subprocess(f"{nodeids.NAME}/test_nothing.py")
    result.stderr.fnmatch_lines(["*file or directory not found: *"])


def test_a_path_that_is_there_does_not_become_a_module(pytester: pytest.Pytester) -> None:
    """Beside a pasted node id: a directory json of the user is not Python's package of that name."""
    pytester.mkdir("json").joinpath("test_json.py").write_text("def test_mine(): pass\n")
    result = pytester.runpytest_subprocess("json", f"{nodeids.NAME}/test_no_dump.py")
    result.assert_outcomes(passed=1, skipped=5)


def test_ids_in_our_own_tree_are_paths() -> None:
    assert nodeids.of_suite(BASICS) == "pytest_iommu/conformance/scenarios/basics.iommu.yaml"
    assert nodeids.of_suite(Path(__file__)) is None
    root = nodeids.SUITE.parents[1]
    assert nodeids.pasted("pytest_iommu/conformance/test_streams.py::x", root, root) is None  # pytest finds it itself
    assert nodeids.pasted("pytest_iommu/conformance/test_streams.py::x", root / "docs", root / "docs") is not None
