# SPDX-License-Identifier: GPL-2.0-only
"""The kselftest in a kernel tree: built and run as others are, accepted by checkpatch, read by kunit.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_iommu.check.kselftest import export
from pytest_iommu.check.kselftest.programs import PROGRAMS
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import environment_of_make

DATA = Path(__file__).parents[1] / "data" / "kselftest"
OUTPUTS = sorted(DATA.glob("*.ktap"))
SOURCES = sorted(path.name for pattern in ("*.[ch]", "*.sh") for path in export.sources().glob(pattern))
#: what a program has of the C library's, and not the kernel's (CAMELCASE: PRIx64)
NOT_FOR_PROGRAMS = "PREFER_KERNEL_TYPES,PREFER_DEFINED_ATTRIBUTE_MACRO,BIT_MACRO,CAMELCASE"
CASES = {"little.txt": "case little-one\n> reset\nrun\ncase little-two\n> reset\nrun\n"}
PLAN = {"ptdump_cases": 2, "ptdump_storm": 32, "ptdump_files.sh": 14}
NOBODY = 65534


@pytest.fixture(scope="module")
def tree(kernel_tree: Path) -> Iterator[Path]:
    """A tree with the selftest in it: links to the real one, which is not written to; anybody may read it."""
    with tempfile.TemporaryDirectory(prefix="pytest-iommu-") as name:
        top = Path(name)
        top.chmod(0o755)
        for folder in ("", "tools", "tools/testing", "tools/testing/selftests"):
            (top / folder).mkdir(exist_ok=True)
            for path in (kernel_tree / folder).iterdir():
                if f"{folder}/{path.name}".lstrip("/") not in ("tools", "tools/testing", "tools/testing/selftests"):
                    (top / folder / path.name).symlink_to(path)
        selftests, real = top / "tools/testing/selftests", kernel_tree / "tools/testing/selftests"
        (selftests / "Makefile").unlink()
        shutil.copyfile(real / "Makefile", selftests / "Makefile")
        (selftests / "kselftest").unlink()
        shutil.copytree(real / "kselftest", selftests / "kselftest")
        export.export(export.in_tree(top), CASES)
        assert export.add_target(top)
        yield top


def make(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """make of tools/testing/selftests, for this target alone."""
    argv = ["make", "-C", str(tree / "tools/testing/selftests"), f"TARGETS={export.NAME}", "KDIR=", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment_of_make())


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("gcc, make: not found")
    done = make(tree, "USERCFLAGS=-Wextra -Werror")
    assert done.returncode == 0, done.stderr
    return export.in_tree(tree)


def as_nobody(program: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with no rights: it must not touch this machine's debugfs."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
    return subprocess.run([program], cwd=program.parent, capture_output=True, text=True, check=False, **user)


@pytest.mark.parametrize("name", SOURCES)
def test_checkpatch_accepts_it(name: str, checkpatch: Callable[..., str]) -> None:
    assert checkpatch(f"--ignore={NOT_FOR_PROGRAMS}", "--file", export.sources() / name) == ""


@pytest.mark.parametrize("name", SOURCES)
def test_licence_is_stated_and_files_are_small(name: str) -> None:
    lines = (export.sources() / name).read_text().splitlines()
    assert "SPDX-License-Identifier: GPL-2.0" in "".join(lines[:2])
    assert len(lines) <= 400


def test_target_is_named_once_and_in_order(tree: Path, kernel_tree: Path) -> None:
    before = (kernel_tree / "tools/testing/selftests/Makefile").read_text().splitlines()
    after = (tree / "tools/testing/selftests/Makefile").read_text().splitlines()
    place = after.index(f"TARGETS += {export.NAME}")
    assert after[:place] + after[place + 1 :] == before
    assert after[place - 1] < after[place] < after[place + 1]
    assert not export.add_target(tree)


def test_place_is_refused_where_there_is_no_kselftest(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a kernel tree"):
        export.in_tree(tmp_path)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_skips_with_the_reason(built: Path, program: object) -> None:
    name = program.name  # type: ignore[attr-defined]
    done = as_nobody(built / name)
    assert done.returncode == 4, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["TAP version 13", f"1..{PLAN[name]}"]
    results = [line for line in lines if re.match("(not )?ok ", line)]
    assert len(results) == PLAN[name]
    for number, line in enumerate(results, 1):
        assert re.fullmatch(rf"ok {number} [\w.-]+ # SKIP it needs root", line)


def test_cases_are_listed(built: Path) -> None:
    done = subprocess.run([built / "ptdump_cases", "-l"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["little-one", "little-two"]


def test_missing_module_does_not_stop_the_build_and_is_named(tree: Path, built: Path) -> None:
    assert built.is_dir()
    done = make(tree, f"KDIR={tree}")
    assert done.returncode == 0, done.stderr
    assert f"no Module.symvers in {tree}" in done.stderr


def test_programs_built_elsewhere_have_all_beside_them(tree: Path, tmp_path: Path) -> None:
    done = make(tree, f"O={tmp_path}")
    assert done.returncode == 0, done.stderr
    program = tmp_path / "kselftest" / export.NAME / "ptdump_cases"
    listed = subprocess.run([program, "-l"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["little-one", "little-two"]


def test_install_takes_all_that_a_run_needs(tree: Path, built: Path, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync, which kselftest installs with: not found")
    assert built.is_dir()
    done = make(tree, f"INSTALL_PATH={tmp_path}", "install")
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = {"ptdump_cases", "ptdump_storm", "ptdump_files.sh", "cases", "config", "settings"}
    assert wanted <= {path.name for path in (tmp_path / export.NAME).iterdir()}
    listed = (tmp_path / "kselftest-list.txt").read_text().split()
    assert listed == [f"{export.NAME}:{program.name}" for program in PROGRAMS]


def test_static_programs_of_the_machine(kernel_tree: Path, tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc: not found")
    from pytest_iommu.check.kselftest.programs import guest_files
    from pytest_iommu.core import machines

    files = guest_files(tmp_path, kernel_tree, machines.get("smmuv3"), CASES)
    programs = [files[f"kselftest/iommu_ptdump/{program.name}"] for program in PROGRAMS if not program.shell]
    for path in programs:
        content = path.read_bytes()
        assert content[:4] == b"\x7fELF"
        assert content[18] == 183  # EM_AARCH64
        assert b"ld-linux" not in content[:4096]
    assert "kselftest/kselftest/ktap_helpers.sh" in files
    assert all(path.is_file() for path in files.values())


@pytest.mark.parametrize("path", OUTPUTS, ids=lambda path: path.name)
def test_kunit_reads_it_without_an_error(path: Path, kernel_tree: Path, tmp_path: Path) -> None:
    text = path.read_text()
    # What a runner passes on is behind a "# ": each program's own is a stream of its own.
    streams = [text]
    if re.search("^# TAP version", text, re.M):
        inner = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith("# "))
        streams += ["TAP version" + one for one in inner.split("TAP version")[1:]]
    for number, stream in enumerate(streams):
        output = tmp_path / f"{number}.ktap"
        output.write_text(stream)
        argv = [sys.executable, str(kernel_tree / "tools/testing/kunit/kunit.py"), "parse", str(output)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=kernel_tree)
        said = done.stdout + done.stderr
        summary = re.search(r"Testing complete\. Ran (\d+) tests: (.*)", re.sub(r"\x1b\[[\d;]*m", "", said))
        assert summary, said[-2000:]
        assert "[ERROR]" not in said
        assert "errors" not in summary[2]
        assert "crashed" not in summary[2]
        assert int(summary[1]) == int(re.search(r"^1\.\.(\d+)$", stream, re.M)[1])
        failed = len(re.findall(r"^not ok ", stream, re.M))
        assert (f"failed: {failed}" in summary[2]) is bool(failed)
        assert f"skipped: {len(re.findall('^ok .*# SKIP', stream, re.M))}," in f"skipped: 0,{summary[2]},"
