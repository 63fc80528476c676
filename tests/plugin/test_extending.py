# SPDX-License-Identifier: GPL-2.0-only
"""docs/extending.md: its walks run, and the page has their files as they are."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "extending.md").read_text(encoding="utf-8")
FOLDERS = DOCS / "examples" / "extending"
NAMES = sorted(folder.name for folder in FOLDERS.iterdir())


def files_of(folder: str) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (FOLDERS / folder).iterdir() if path.is_file()}


def sections() -> Iterator[tuple[str, int, str]]:
    """Folder, the number of lines that is told, and the text of every section that has a folder."""
    for text in PAGE.split("\n## "):
        told = re.search(r"^The folder is docs/examples/extending/(\w+), (\d+) lines in all\.$", text, re.MULTILINE)
        if told:
            yield told[1], int(told[2]), text


def shown(text: str) -> Iterator[tuple[str, int, str]]:
    """Name, number of lines as it is told, and content of every file in a section."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        told = re.fullmatch(r"`([\w.]+)`, (\d+) lines:", line)
        if told:
            block: list[str] = []
            for one in lines[at + 2 :]:
                if one and not one.startswith("    "):
                    break
                block.append(one[4:])
            yield told[1], int(told[2]), "\n".join(block).strip("\n") + "\n"


def test_every_walk_is_on_the_page() -> None:
    assert sorted(folder for folder, _, _ in sections()) == NAMES
    assert {"format", "dialect", "machine", "target"} <= set(NAMES)


@pytest.mark.parametrize("folder", NAMES)
def test_the_page_has_the_files_as_they_are(folder: str) -> None:
    ((told, text),) = ((told, text) for name, told, text in sections() if name == folder)
    files = files_of(folder)
    assert {name: content for name, _, content in shown(text)} == files
    lines = {name: len(content.splitlines()) for name, content in files.items()}
    assert {name: number for name, number, _ in shown(text)} == lines
    assert told == sum(lines.values())


def test_lines_fit_a_page() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 100] == []


@pytest.fixture
def walk(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    shutil.copytree(FOLDERS / request.param, pytester.path, dirs_exist_ok=True)
    return pytester


def program(walk: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return walk.run(sys.executable, "-m", "pytest_iommu.cli", *arguments)


def change(walk: pytest.Pytester, name: str, old: str, new: str) -> None:
    path = walk.path / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("walk", ["format"], indirect=True)
def test_a_format(walk: pytest.Pytester) -> None:
    walk.runpytest_subprocess().assert_outcomes(passed=2, skipped=2)
    assert program(walk, "lint", "toy.iommu.yaml").outlines == ["no mistake in 1 files"]
    change(walk, "toy.iommu.yaml", "4K 0 4K r-x---", "4K 0 4K r-----")
    lint = program(walk, "lint", "toy.iommu.yaml")
    assert lint.ret == 1
    lint.stdout.fnmatch_lines(["*toy.iommu.yaml:13: *"])


@pytest.mark.parametrize("walk", ["format"], indirect=True)
def test_a_format_with_a_wrong_bit(walk: pytest.Pytester) -> None:
    change(walk, "conftest.py", "else 0) | (SNOOP", "else 0) | (DIRTY")
    walk.runpytest_subprocess().assert_outcomes(passed=1, failed=1, skipped=2)


@pytest.mark.parametrize("walk", ["dialect"], indirect=True)
def test_a_dialect(walk: pytest.Pytester) -> None:
    walk.runpytest_subprocess("--iommu-target=printed").assert_outcomes(passed=4)
    change(walk, "kernel.py", "41003000", "41004000")
    wrong = walk.runpytest_subprocess("--iommu-target=printed", "flat.iommu.yaml")
    wrong.assert_outcomes(failed=1)
    wrong.stdout.fnmatch_lines(["RNG-4  page_table: the OA of 0x200000 is 0x41004000, not 0x41003000"])


@pytest.mark.parametrize("walk", ["dialect"], indirect=True)
def test_a_dialect_is_asked_for_its_place(walk: pytest.Pytester) -> None:
    change(walk, "flat.py", '"tables/{domain}"', '"tables/{domain}/{file}"')
    elsewhere = walk.runpytest_subprocess("--iommu-target=printed", "flat.iommu.yaml")
    elsewhere.assert_outcomes(failed=1)
    elsewhere.stdout.fnmatch_lines(["*has the id 1, and no such file: */iommu/tables/1/pages"])


@pytest.mark.parametrize("walk", ["machine"], indirect=True)
def test_a_machine(walk: pytest.Pytester) -> None:
    assert program(walk, "lint", "board.yaml", "board.iommu.yaml").outlines == ["no mistake in 2 files"]
    told = "board       aarch64  Our board, an edu behind a root port, stage 1 alone"
    assert told in PAGE
    assert told in program(walk, "machines").outlines
    listed = walk.runpytest_subprocess("--collect-only", "-q")
    listed.stdout.fnmatch_lines(["board.iommu.yaml::board::one-page-of-edu0[[]board-s1-4k]"])
    change(walk, "board.yaml", "memory:", "ram:")
    assert program(walk, "lint", "board.yaml").outlines != ["no mistake in 1 files"]


@pytest.mark.parametrize("walk", ["target"], indirect=True)
def test_a_target(walk: pytest.Pytester) -> None:
    good = walk.runpytest_subprocess("--iommu-target=board")
    good.assert_outcomes(passed=2)
    good.stdout.fnmatch_lines(["iommu: target board, *", "iommu: this is no kernel"])
    bad = walk.runpytest_subprocess("--iommu-target=board:read-only")
    bad.assert_outcomes(passed=1, failed=1)
    bad.stdout.fnmatch_lines(["PRT-1  page_table: prot is r-----, not rw----"])


@pytest.mark.parametrize("walk", ["target"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("sys.exit()", "guest-lost: the board has hung up"),
        ("__import__('time').sleep(60)", "kernel-hang: the board did not answer in 1s"),
    ],
)
def test_a_target_says_what_became_of_a_guest(walk: pytest.Pytester, fault: str, outcome: str) -> None:
    change(
        walk,
        "board.py",
        "for batch in sys.stdin:\n",
        f"for batch in sys.stdin:\n    'page_table' in batch and {fault}\n",
    )
    change(walk, "board.iommu.yaml", "formats: [amdv1]", "formats: [amdv1], timeout: 1s")
    result = walk.runpytest_subprocess("--iommu-target=board", "-k", "read-only")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines([f"*{outcome}*"])


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_boot_modes_and_flavours_are_known(walk: pytest.Pytester) -> None:
    listed = walk.runpytest_subprocess("--collect-only", "-q")
    listed.stdout.fnmatch_lines(["test_lazy.py::test_one_page"])
    told = program(walk, "kconfig", "--flavour=lazy", ".")
    assert told.outlines[0] == "iommu-smmuv3-lazy.config"
    merged = (walk.path / told.outlines[0]).read_text().splitlines()
    assert {"CONFIG_IOMMU_DEFAULT_DMA_LAZY=y", "# CONFIG_IOMMU_DEFAULT_DMA_STRICT is not set"} <= set(merged)
    assert "CONFIG_ARM_SMMU_V3=y" in merged


BOOTS = """
import pathlib

import fake_target
from pytest_iommu.images import Artefacts, Qemu
from pytest_iommu.targets.qemu import boot_of
from pytest_iommu.targets.registry import TargetKind

HERE = pathlib.Path(__file__).parent

def pytest_iommu_kernel(config, machine, flavour):
    with open("built.txt", "a") as built:
        print(flavour, file=built)
    qemu = Qemu(("qemu",), "11.0.0", origin="mine")
    return Artefacts(machine.name, flavour, pathlib.Path("Image"), pathlib.Path("initrd"), qemu, "Linux of mine")

def make(settings, machine, key, kernel):
    with open("booted.txt", "a") as booted:
        print(*boot_of(settings, machine, kernel, key.boot_mode).command([]), file=booted)
    return fake_target.Target(lambda guest, batch: None)

def pytest_iommu_targets(config):
    return {"told": TargetKind(make, live=False)}
"""


@pytest.fixture
def boots(walk: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The walk's folder, and a plugin with a target that notes what it is to boot."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    (walk.path / "boots.py").write_text(BOOTS)
    (walk.path / "test_lazy.py").unlink()
    return walk


def run(boots: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    boots.makepyfile(test_boots=f"import pytest\n{test}")
    return boots.runpytest_subprocess("-p", "boots", "--iommu-target=told", *arguments)


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_a_boot_mode_of_a_plugin_changes_how_a_guest_is_booted(boots: pytest.Pytester) -> None:
    test = """
@pytest.mark.iommu_boot_mode("one-cpu")
def test_one(iommu_guest):
    assert iommu_guest.key.boot_mode == "one-cpu"

def test_usual(iommu_guest):
    pass
"""
    run(boots, test).assert_outcomes(passed=2)
    one, usual = (boots.path / "booted.txt").read_text().splitlines()
    assert "-smp 1 " in one
    assert " rcupdate.rcu_expedited=1 " in one
    assert "-smp 2 " in usual
    assert "rcu_expedited" not in usual


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_without_the_hook_the_mark_is_refused(boots: pytest.Pytester) -> None:
    change(boots, "conftest.py", "def pytest_iommu_boot_modes", "def boot_modes")
    result = run(boots, '@pytest.mark.iommu_boot_mode("one-cpu")\ndef test_one(iommu_guest): pass\n')
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown boot mode 'one-cpu'*"])


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_two_boot_modes_of_one_name_end_the_run(boots: pytest.Pytester) -> None:
    change(boots, "conftest.py", '"one-cpu": BootMode', '"races": BootMode')
    result = run(boots, "def test_one(iommu_guest): pass\n")
    assert result.ret != 0
    assert "there are two boot modes 'races'" in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_a_flavour_of_a_plugin_is_built(boots: pytest.Pytester) -> None:
    test = """
from pytest_iommu.core import machines
from pytest_iommu.images import config

@pytest.mark.iommu_flavour("lazy")
def test_lazy(iommu_guest):
    assert config.merged(machines.get("smmuv3"), "lazy", ())["IOMMU_DEFAULT_DMA_LAZY"] == "y"
"""
    run(boots, test, "--iommu-flavour=plain,lazy").assert_outcomes(passed=1)
    assert (boots.path / "built.txt").read_text() == "lazy\n"
    change(boots, "conftest.py", "def pytest_iommu_flavours", "def flavours")
    refused = run(boots, '@pytest.mark.iommu_flavour("lazy")\ndef test_lazy(iommu_guest): pass\n')
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*unknown kernel flavour 'lazy'*"])


WITNESS = """
import conftest
import fake_target
from pytest_iommu import InRam, formats
from pytest_iommu.core import machines
from pytest_iommu.guest.testmodule import DomainRow

class Zeros:
    def read(self, address, size):
        return memoryview(bytes(size))

    def register(self, address, size=4):
        return 0

    write = set_register = None

fake_target.Guest.memory = Zeros()

@pytest.mark.iommu_needs(machine="other")
def test_the_plugin_is_asked(iommu_guest):
    witness = iommu_guest.in_ram
    assert type(witness) is conftest.ByModule
    assert iommu_guest.in_ram is witness
    texts = witness.texts(formats.configure("vtdss"), DomainRow("d", "1", top=0x41000000, levels=4))
    assert texts["page_table"] == ""
    assert texts["stats"].splitlines()[-1].split() == ["total", "1", "0", "4096"]
    assert witness.texts(formats.configure("vtdss"), DomainRow("d", "1")) is None

def test_where_it_has_no_answer_ours_is_made(iommu_guest):
    assert type(iommu_guest.in_ram) is InRam
    assert iommu_guest.in_ram.smmu is not None
"""


@pytest.mark.parametrize("walk", ["boot"], indirect=True)
def test_a_witness_of_a_plugin_is_asked(boots: pytest.Pytester) -> None:
    machine = """

def pytest_iommu_machines(config):
    from dataclasses import replace

    from pytest_iommu.core import machines

    return [replace(machines.get("smmuv3"), name="other", iommu=None)]
"""
    with (boots.path / "conftest.py").open("a") as conftest:
        conftest.write(machine)
    arguments = ("--iommu-machine=smmuv3,other",)
    run(boots, WITNESS, *arguments).assert_outcomes(passed=2)
    change(boots, "conftest.py", "def pytest_iommu_witness", "def witness")
    run(boots, WITNESS, *arguments).assert_outcomes(passed=1, failed=1)
