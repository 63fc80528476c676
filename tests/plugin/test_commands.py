# SPDX-License-Identifier: GPL-2.0-only
"""The commands of pytest-iommu take pytest's options as a run does, and see what a run sees."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pytest_iommu import cli
from pytest_iommu.commands import with_pytest
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.session.run import Run

ALL = (*with_pytest.KERNEL, "machine", "flavour", "image", "modules", "qemu", "append", "qemu-arg", "keep")
MACHINE = """
base: smmuv3
name: mine
description: a machine of this project
"""
CONFTEST = """
from pathlib import Path
from pytest_iommu.core import machines

def pytest_iommu_machines(config):
    return [machines.load(Path(__file__).with_name("mine.yaml"))]
"""


def settings(*words: str) -> Settings:
    """What a command gets for these words."""
    parser, got = argparse.ArgumentParser(), []

    def command(run: Run) -> int:
        got.append(run.settings)
        return 0

    with_pytest.add_options(parser, *ALL)
    assert with_pytest.call(parser.parse_args(words), command) == 0
    return got[0]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the user's project, his home and where he stands."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def tree_at(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "Kconfig").write_text("")
    (path / "Makefile").write_text("VERSION = 7\nPATCHLEVEL = 3\n")
    return path


@pytest.mark.parametrize(
    ("short", "field", "value"),
    [
        ("--append=quiet", "append", "quiet"),
        ("--machine=smmuv3,smmuv3ids", "machines", ("smmuv3", "smmuv3ids")),
        ("--flavour=plain,debug", "flavours", ("plain", "debug")),
        ("--qemu-arg=-S", "qemu_args", ("-S",)),
        ("--make-arg=LLVM=1", "make_args", ("LLVM=1",)),
        ("--offline", "offline", True),
        ("--qemu=system", "qemu", "system"),
    ],
)
def test_an_option_has_two_spellings(short: str, field: str, value: object) -> None:
    assert getattr(settings(short), field) == value
    assert getattr(settings(short.replace("--", "--iommu-", 1)), field) == value


def test_the_home_directory_is_found(project: Path) -> None:
    tree_at(project / "linux")
    (project / "mine.config").write_text("CONFIG_A=y\n")
    found = settings("--kernel=~/linux", "--config=~/mine.config", "--cache=~/cache")
    assert found.kernel == project / "linux"
    assert found.config == (project / "mine.config",)
    assert found.cache == project / "cache"


def test_the_ini_file_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree_at(project / "linux")
    (project / "pytest.ini").write_text("[pytest]\niommu_kernel = linux\niommu_machine = smmuv3s1\n")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    found = settings()
    assert found.kernel == project / "linux"
    assert found.machine == "smmuv3s1"
    assert settings("--machine=smmuv3").machine == "smmuv3"


@pytest.mark.parametrize("command", ["build", "shell", "doctor"])
def test_a_wrong_kernel_is_said_before_anything_is_fetched(
    command: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "empty").mkdir()
    for kernel, why in (("~/none", "no such directory"), ("~/empty", "is not a kernel tree")):
        assert cli.main([f"--cache={project}/cache", command, f"--kernel={kernel}"]) == 2
        assert why in capsys.readouterr().err
    assert not (project / "cache").exists()


def test_a_cache_before_the_command_is_that_of_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    monkeypatch.setattr("pytest_iommu.commands.cmd_shell.interact", lambda boot: 0)
    monkeypatch.setattr("pytest_iommu.images.prepare", lambda settings, *_, **__: got.append(settings.cache) or made())
    monkeypatch.setattr("pytest_iommu.targets.qemu.boot_of", lambda *_: None)
    assert cli.main(["--cache=~/one", "shell"]) == 0
    assert cli.main(["--cache=~/one", "shell", "--cache=~/two"]) == 0
    assert got == [project / "one", project / "two"]


def made() -> argparse.Namespace:
    return argparse.Namespace(describe=lambda: "a kernel")


def test_machines_of_other_plugins_are_seen(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mine.yaml").write_text(MACHINE)
    (project / "conftest.py").write_text(CONFTEST)
    assert cli.main(["machines"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("amd", "riscv", "smmuv3", "smmuv3ids", "smmuv3s1", "smmuv3s2", "smmuv3topo"),
        *("vtd", "vtdsm", "vtdsm2", "mine"),
    ]
    assert lines[-1].endswith("a machine of this project")
    assert settings("--machine=mine").machine == "mine"
    with pytest.raises(SetupError, match="no machine 'other'; there are: amd, mine, riscv, smmuv3"):
        settings("--machine=other")


def test_a_rule_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rules", "rng-4", "STE-5"]) == 0
    said = capsys.readouterr().out
    assert "RNG-4 `OA` is the translation of `first`." in said
    assert "STE and CD\n\nSTE-5 A device with several stream ids" in said
    assert cli.main(["rules", "RNG-44"]) == 2
    assert "no rule 'RNG-44'; did you mean RNG-4" in capsys.readouterr().err


def test_every_rule_is_in_the_contract() -> None:
    from pytest_iommu.commands.cmd_rules import whole_text
    from pytest_iommu.core.rules import RULES

    for rule in RULES:
        assert f"\n{rule} " in whole_text(rule)


@pytest.mark.parametrize(
    ("name", "text", "mistake"),
    [
        ("a.iommu.yaml", "cases: 1\n", "a.iommu.yaml:1: "),
        (
            "b.iommu.yaml",
            "suite: b\ncases:\n  - name: c\n    rules: [RNG-1]\n    formats: [amdv1]\n    do:\n"
            "      - unmap: {iova: 0x1000, size: 4K}\n",
            "b.iommu.yaml:7: ",
        ),
        ("m.yaml", "name: m\nbase: smmuv3\ncolour: red\n", "m.yaml:3: "),
        ("n.yaml", "base: smmuv3\n", "n.yaml:1: a machine needs 'name'"),
        ("f.yaml", "name: m\nbase: smmuv3\nstages:\n  s1: {format: toy}\n", "stage s1: unknown format 'toy'"),
    ],
)
def test_lint_names_file_and_line(
    name: str, text: str, mistake: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / name).write_text(text)
    assert cli.main(["lint", name]) == 1
    assert mistake in capsys.readouterr().out


def test_lint_has_nothing_to_say_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_iommu.core import paths

    ours = [*(paths.conformance() / "scenarios").glob("basics*.yaml"), *(paths.qemu_images() / "machines").glob("*")]
    assert cli.main(["lint", *map(str, ours)]) == 0
    assert capsys.readouterr().out == f"no mistake in {len(ours)} files\n"
