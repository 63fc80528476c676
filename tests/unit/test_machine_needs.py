# SPDX-License-Identifier: GPL-2.0-only
"""The list of what a run needs of a machine, and everybody who reads it: tools/setup, kernel builds, doctor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import bare_machine
import pytest

from pytest_iommu import cli
from pytest_iommu.core import machines, needs, paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import program, toolchain
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

ROOT = Path(__file__).parents[2]
SSL = ("openssl/opensslv.h", "-lcrypto")
SMMUV3 = machines.get("smmuv3")
A_PC = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the machine that is made up is an x86_64")


@pytest.fixture(autouse=True)
def _a_pc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.platform, "machine", lambda: "x86_64")


def setup(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "tools/setup")],
        env={"PATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@A_PC
def test_setup_installs_what_module_signing_takes(tmp_path: Path) -> None:
    folder = bare_machine.make(tmp_path / "bin", unknown=SSL)
    bare_machine.program(folder / "sudo", '#!/bin/sh\nexec "$@"\n')
    done = setup(folder)
    assert done.returncode == 0, done.stderr
    called = (folder / "apt-get-was-called").read_text().splitlines()
    assert called[-1].split()[-1:] == ["libssl-dev"]
    assert "openssl/opensslv.h (header)" in done.stderr
    (folder / "apt-get-was-called").unlink()
    assert setup(folder).returncode == 0
    assert not (folder / "apt-get-was-called").exists()


@A_PC
def test_setup_says_so_when_apt_did_not_help(tmp_path: Path) -> None:
    folder = bare_machine.make(tmp_path / "bin", unknown=SSL)
    bare_machine.program(folder / "sudo", '#!/bin/sh\nexec "$@"\n')
    bare_machine.program(folder / "apt-get", "#!/bin/sh\n")
    done = setup(folder)
    assert done.returncode == 1
    assert "still missing" in done.stderr


@A_PC
def test_setup_on_a_machine_without_apt(tmp_path: Path) -> None:
    folder = bare_machine.make(tmp_path / "bin", without=("apt-get", "flex"), unknown=("stdio.h",))
    done = setup(folder)
    assert done.returncode == 1
    assert re.search(r"please install what is missing.* flex libc6-dev-arm64-cross", done.stderr)


def test_the_list_is_read_without_any_other_package() -> None:
    argv = [sys.executable, "-S", "-E", "-c", "import pytest_iommu.core.needs, sys; print('yaml' in sys.modules)"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_it_knows_the_compilers_of_the_machines_that_make_conformance_runs() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    run = next(line for line in makefile.splitlines() if line.startswith("MACHINES ?= ")).partition("= ")[2]
    every = [machines.get(name) for name in run.split(",")]
    assert {(one.make_arch, one.arch, one.cross) for one in every} == set(needs.OURS)


def test_every_need_of_ours_names_its_package() -> None:
    for native in (True, False):
        tools = needs.Tools("" if native else "aarch64-linux-gnu-", "arm64")
        for need in needs.needed(needs.NEEDS, tools):
            assert need.package, need
            assert "{" not in need.name + need.package
    found = needs.packages(needs.needed(["kernel", "program"], tools, needs.our_symbols()))
    assert {"gcc", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "libssl-dev", "openssl"} <= set(found)
    assert "libelf-dev" not in found


@pytest.mark.parametrize(
    ("arguments", "compilers", "packages"),
    [
        ((), ["gcc", "aarch64-linux-gnu-gcc"], ["gcc", "gcc-aarch64-linux-gnu"]),
        (("LLVM=1",), ["clang", "ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy"], ["clang", "lld", "llvm"]),
        (
            ("LLVM=-17",),
            ["clang-17", "ld.lld-17", "llvm-ar-17", "llvm-nm-17", "llvm-objcopy-17"],
            ["clang-17", "lld-17", "llvm-17"],
        ),
        (("LLVM=0", "CC=ccache my-gcc"), ["gcc", "my-gcc"], ["gcc"]),
        (("CROSS_COMPILE=my-", "HOSTCC=cc -O0"), ["cc", "my-gcc"], []),
    ],
)
def test_make_arguments_choose_compilers(arguments: tuple[str, ...], compilers: list[str], packages: list[str]) -> None:
    found = needs.Tools("aarch64-linux-gnu-", "arm64", arguments).compilers()
    assert [need.name for need in found] == compilers
    assert needs.packages(found) == packages


def tree_that_wants(folder: Path, llvm: str) -> Path:
    script = folder / toolchain.SCRIPT
    script.parent.mkdir(parents=True)
    script.write_text(f'[ "$1" = llvm ] && [ "$SRCARCH" = arm64 ] && echo {llvm}\n')
    return folder


def test_llvm_that_is_missing_or_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bare_machine.make(tmp_path / "bare")
    monkeypatch.setenv("PATH", str(folder))
    tree = tree_that_wants(tmp_path / "linux", "17.0.1")
    with pytest.raises(SetupError) as caught:
        toolchain.identity(SMMUV3, ["LLVM=1"], tree)
    assert "missing on this machine: clang, ld.lld, llvm-ar, llvm-nm, llvm-objcopy\n" in caught.value.message
    assert re.search(r"this tree \(.*\) requires LLVM 17.0.1 or newer", caught.value.message)
    with pytest.raises(SetupError, match="the fetched kernel requires LLVM 17"):
        toolchain.require(["kernel"], toolchain.tools(SMMUV3, ["LLVM=1"]))
    for name in needs.LLVM:
        bare_machine.program(folder / name, "#!/bin/sh\ncat >/dev/null; echo 'Debian clang version 14.0.6'\n")
    with pytest.raises(SetupError, match=r"^clang is version 14.0.6, which is too old: this tree .* 17.0.1 or newer"):
        toolchain.require(["kernel"], toolchain.tools(SMMUV3, ["LLVM=1"]), tree=tree)
    bare_machine.program(folder / "clang", "#!/bin/sh\ncat >/dev/null; echo 'Debian clang version 19.1.7 (3)'\n")
    bare_machine.program(folder / "ld.lld", "#!/bin/sh\necho 'Debian LLD 19.1.7 (compatible with GNU linkers)'\n")
    toolchain.require(["kernel"], toolchain.tools(SMMUV3, ["LLVM=1"]), tree=tree)


def test_a_ready_image_takes_a_compiler_of_the_guest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bare_machine.make(tmp_path / "bare", without=("flex", f"{bare_machine.CROSS}gcc"))))
    agent = program.Program("agent", "the guest agent", paths.agent())
    with pytest.raises(SetupError) as caught:
        program.build(Store(tmp_path / "cache"), SMMUV3, Progress(None), agent)
    assert "flex" not in caught.value.message
    assert re.search("apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross$", caught.value.message, re.M)


def doctor(cache: Path, *words: str) -> int:
    return cli.main(["--cache", str(cache), "doctor", *words])


def test_doctor_ends_well_only_when_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bare_machine.make(tmp_path / "bare")
    bare_machine.program(folder / "qemu-system-aarch64", "#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    monkeypatch.setenv("PATH", str(folder))
    assert doctor(tmp_path / "cache") == 0
    said = capsys.readouterr().out
    assert "nothing is missing" in said
    assert re.search(r"fetch +kernel source +linux-source-7.3", said)
    assert re.search(rf"found +qemu-system-aarch64 +QEMU 10.0.2 \({folder}", said)
    assert re.search(rf"found +command +bison +{folder}/bison", said)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("sources"))

    assert doctor(tmp_path / "cache", "--offline") == 1
    assert re.search(r"MISSING +kernel source .*--offline", capsys.readouterr().out)

    (folder / "headers-missing").write_text("openssl/opensslv.h\nstdio.h\n")
    (folder / "bison").unlink()
    assert doctor(tmp_path / "cache", "--flavour=plain") == 1
    said = capsys.readouterr().out
    assert re.search(r"MISSING +command +bison +package bison", said)
    assert re.search(r"MISSING +header +openssl/opensslv.h +package libssl-dev", said)
    assert re.search(r"MISSING +header +stdio.h +package libc6-dev-arm64-cross", said)
    assert re.search(r"(?m)^install with: .*apt-get install bison libssl-dev libc6-dev-arm64-cross$", said)


def test_doctor_says_for_which_flavours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(bare_machine.make(tmp_path / "bare")))
    monkeypatch.setattr(
        needs, "NEEDS", {**needs.NEEDS, "kernel": (needs.Need("command", "kasan-tool", "k", config=("KASAN",)),)}
    )
    assert doctor(tmp_path / "cache", "--flavour=plain,debug") == 1
    assert re.search(r"MISSING +command +kasan-tool +package k +\(flavours debug\)", capsys.readouterr().out)
    assert doctor(tmp_path / "cache", "--flavour=plain") == 0


def test_no_message_sends_the_user_of_a_wheel_to_a_makefile() -> None:
    for path in paths.PACKAGE.rglob("*.py"):
        assert not re.search(r"make (conformance|setup|check|test|fresh)\b.*(install|has)", path.read_text()), path
