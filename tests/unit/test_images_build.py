# SPDX-License-Identifier: GPL-2.0-only
"""Kernel builds without a compiler: a small tree of make rules stands for Linux."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bare_machine
import pytest
from told import Told

from pytest_iommu.core import machines, process
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.dialects import LIVE_TEXTS
from pytest_iommu.images import config, kernel, source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

TREE_MAKEFILE = """
VERSION = 7
PATCHLEVEL = 3
SUBLEVEL = 4
ifneq ($(words $(subst :, ,$(CURDIR))), 1)
$(error source directory cannot contain spaces or colons)
endif
allnoconfig:
\t@echo "  GEN     .config"; cp $(KCONFIG_ALLCONFIG) $(O)/.config
Image: $(O)/core.o
\t@mkdir -p $(O)/arch/arm64/boot; echo "  OBJCOPY Image"; cp $(O)/core.o $(O)/arch/arm64/boot/Image; cp $< $(O)/vmlinux
$(O)/core.o: core.c
\t@echo "  CC      core.o"; if grep -q bad core.c; then echo "core.c:1:1: error: bad"; exit 1; fi; cp core.c $@
modules:
\t@if [ -n "$(M)" ]; then echo "  LD [M]  test.ko"; cp $(M)/main.c $(M)/iommu_ptdump_test.ko; fi
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    tree = tmp_path / "linux"
    (tree / "drivers/iommu").mkdir(parents=True)
    (tree / "Kconfig").write_text("")
    (tree / "Makefile").write_text(TREE_MAKEFILE)
    (tree / "core.c").write_text("int core;\n")
    (tree / "drivers/iommu/Kconfig").write_text("config IOMMU_PTDUMP_DEBUGFS\n")
    kmod = tmp_path / "kmod/iommu_ptdump_test"
    kmod.mkdir(parents=True)
    (kmod / "main.c").write_text("int module;\n")
    monkeypatch.setenv("PYTEST_IOMMU_KMOD", str(tmp_path / "kmod"))
    monkeypatch.setenv("PATH", f"{bare_machine.make(tmp_path / 'bin')}:{os.environ['PATH']}")
    monkeypatch.setattr(machines.platform, "machine", lambda: "x86_64")
    return SimpleNamespace(tree=tree, kmod=kmod, store=Store(tmp_path / "cache"), said=io.StringIO())


def builder(settings: SimpleNamespace) -> kernel.Builder:
    plan = kernel.plan(machines.get("smmuv3"), "plain", source.user_tree(settings.tree), (), ())
    return kernel.Builder(settings.store, plan, Progress(settings.said))


def build(settings: SimpleNamespace) -> tuple[str, str]:
    settings.said.truncate(0)
    made = builder(settings)
    return made.kernel()["Image"].read_text(), made.modules()["iommu_ptdump_test.ko"].read_text()


def steps(settings: SimpleNamespace) -> list[str]:
    return re.findall(r"iommu: (.*) done in", settings.said.getvalue())


def test_a_kernel_is_built_and_found_again_without_make(settings: SimpleNamespace) -> None:
    assert build(settings) == ("int core;\n", "int module;\n")
    assert len(steps(settings)) == 3
    assert build(settings) == ("int core;\n", "int module;\n")
    assert steps(settings) == []
    assert builder(settings).kernel().about["description"].endswith("tree has its own dump")


@pytest.mark.parametrize("name", ["my linux", "linux:7.3", "100%"])
def test_a_tree_at_a_path_that_make_does_not_take(settings: SimpleNamespace, name: str) -> None:
    settings.tree = settings.tree.rename(settings.tree.with_name(name))
    assert build(settings) == ("int core;\n", "int module;\n")
    (settings.tree / "core.c").write_text("int core = 1;\n")
    assert build(settings)[0] == "int core = 1;\n"


# Another session: its make waits for somebody to write to the fifo "go".
SLOW = """
import sys
from pathlib import Path
from pytest_iommu.core import machines
from pytest_iommu.images import kernel, source
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store
tree, cache, flavour = sys.argv[1:]
machines.platform.machine = lambda: "x86_64"
plan = kernel.plan(machines.get("smmuv3"), flavour, source.user_tree(Path(tree)), (), ())
kernel.Builder(Store(Path(cache)), plan, Progress(None)).kernel()
"""


def test_another_flavour_is_built_beside_a_build(
    settings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = tmp_path / "began", tmp_path / "go"
    os.mkfifo(began)
    os.mkfifo(go)
    slow = f'if [ -n "$$SLOW" ]; then echo > {began}; cat {go}; fi; '
    (settings.tree / "Makefile").write_text(TREE_MAKEFILE.replace('echo "  CC ', f'{slow}echo "  CC '))
    # Both build the same link copy: without a dump of its own the tree gets the reference implementation.
    (settings.tree / "drivers/iommu/Kconfig").write_text("")
    (settings.kmod.parent / "io_ptdump/files/drivers/iommu").mkdir(parents=True)
    (settings.kmod.parent / "io_ptdump/files/drivers/iommu/ptdump.c").write_text("int dump;\n")
    argv = [sys.executable, "-c", SLOW, str(settings.tree), str(settings.store.root), "nodump"]
    with subprocess.Popen(argv, env={**os.environ, "SLOW": "1"}) as other:
        began.read_text()  # it is in the middle of compiling
        assert build(settings)[0] == "int core;\n"
        assert not any("waiting" in line for line in settings.said.getvalue().splitlines())
        assert other.poll() is None

        # Its own flavour, and a change of the tree that it is compiling, have to wait for it.
        def release() -> None:
            go.write_text("")

        settings.said = Told(release)
        (settings.tree / "core.c").write_text("int core = 1;\n")
        assert build(settings)[0] == "int core = 1;\n"
        assert other.wait(60) == 0
    assert f"waiting for pid {other.pid} since " in settings.said.getvalue()
    assert "building kernel arm64 nodump" in settings.said.getvalue()


def test_an_edited_line_builds_without_configuring(settings: SimpleNamespace) -> None:
    build(settings)
    (settings.tree / "core.c").write_text("int core = 1;\n")
    assert build(settings)[0] == "int core = 1;\n"
    assert steps(settings) == ["rebuilding kernel arm64 plain", "building module iommu_ptdump_test for arm64 plain"]


def test_an_edited_module_builds_the_module_alone(settings: SimpleNamespace) -> None:
    build(settings)
    (settings.kmod / "main.c").write_text("int module = 1;\n")
    assert build(settings) == ("int core;\n", "int module = 1;\n")
    assert steps(settings) == ["building module iommu_ptdump_test for arm64 plain"]
    assert [path.name for path in settings.kmod.iterdir()] == ["main.c"]


def test_a_module_is_built_anew_for_another_configuration(settings: SimpleNamespace, tmp_path: Path) -> None:
    # kbuild does not see that: what is in the module's folder would be kept
    build(settings)
    made = builder(settings)
    left = settings.store.path("builds", f"{made.out.name}-iommu_ptdump_test") / "old.o"
    left.write_text("compiled for the configuration before")
    build_with = (tmp_path / "more.config",)
    build_with[0].write_text("CONFIG_NR_CPUS=4\n")
    plan = kernel.plan(machines.get("smmuv3"), "plain", source.user_tree(settings.tree), build_with, ())
    other = kernel.Builder(settings.store, plan, Progress(None))
    assert other.out == made.out
    other.kernel()
    other.modules()
    assert not left.exists()


def test_machines_share_a_kernel(settings: SimpleNamespace) -> None:
    build(settings)
    other = replace(machines.get("smmuv3"), name="smmuv3x")
    plan = kernel.plan(other, "plain", source.user_tree(settings.tree), (), ())
    assert plan.key == builder(settings).plan.key
    made = kernel.Builder(settings.store, plan, Progress(None))
    assert made.modules().path == builder(settings).modules().path
    assert made.vmlinux() == builder(settings).vmlinux() is not None


def test_a_module_is_never_built_for_another_state_of_the_tree(settings: SimpleNamespace) -> None:
    build(settings)
    first = (settings.tree / "core.c").stat()
    (settings.tree / "core.c").write_text("int core = 1;\n")
    build(settings)
    (settings.tree / "core.c").write_text("int core;\n")
    os.utime(settings.tree / "core.c", ns=(first.st_atime_ns, first.st_mtime_ns))
    (settings.kmod / "main.c").write_text("int module = 2;\n")
    build(settings)
    assert steps(settings)[0] == "rebuilding kernel arm64 plain"


def test_errors_of_the_compiler_are_shown(settings: SimpleNamespace) -> None:
    (settings.tree / "core.c").write_text("bad\n")
    with pytest.raises(SetupError) as caught:
        build(settings)
    assert "core.c:1:1: error: bad" in caught.value.message
    assert re.search(r"complete output: .*\.log$", caught.value.message)
    (settings.tree / "core.c").write_text("int core;\n")
    assert build(settings)[0] == "int core;\n"


def test_compile_errors_name_the_files_that_the_user_edits(settings: SimpleNamespace) -> None:
    # Without a dump of its own the tree is built as a copy, and its compiler names the copy's files.
    (settings.tree / "drivers/iommu/Kconfig").write_text("config IOMMU\n")
    (settings.tree / "drivers/iommu/iommu.c").write_text("one\n")
    reference = settings.kmod.parent / "io_ptdump"
    (reference / "files/drivers/iommu").mkdir(parents=True)
    (reference / "files/drivers/iommu/ptdump.c").write_text("int dump;\n")
    (reference / "files/drivers/iommu/Kconfig").write_text("config IOMMU_PTDUMP_DEBUGFS\n")
    (reference / "hooks").mkdir()
    (reference / "hooks/0001-a.patch").write_text(
        "--- a/drivers/iommu/iommu.c\n+++ b/drivers/iommu/iommu.c\n@@ -1 +1,2 @@\n one\n+two\n"
    )
    failing = [
        "echo '  CC      core.o'",
        "echo 'In file included from $(CURDIR)/include/x.h:3,'",
        "echo '                 from ../../trees/$(notdir $(CURDIR))/core.c:1:'",
        "echo '$(CURDIR)/core.c:1:5: error: unknown type name'",
        "echo '    1 | bad'",
        "echo '      | ^~~'",
        "echo '$(CURDIR)/drivers/iommu/ptdump.c:1:1: error: here, too'",
        "echo '$(CURDIR)/drivers/iommu/iommu.c:2:1: error: and here'",
        "echo 'make[2]: *** [$(CURDIR)/scripts/Makefile.build:295: core.o] Error 1'",
        "exit 1",
    ]
    makefile = TREE_MAKEFILE.replace('echo "  CC      core.o";', "; ".join(failing) + ";")
    (settings.tree / "Makefile").write_text(makefile)
    with pytest.raises(SetupError) as caught:
        build(settings)
    first, *lines, counted, whole = caught.value.message.splitlines()
    assert first == f"the kernel does not build ({settings.tree}):"
    assert lines == [
        f"  In file included from {settings.tree}/include/x.h:3,",
        f"                   from {settings.tree}/core.c:1:",
        f"  {settings.tree}/core.c:1:5: error: unknown type name",
        "      1 | bad",
        "        | ^~~",
        f"  {reference}/files/drivers/iommu/ptdump.c:1:1: error: here, too",
        f"  {settings.tree}/drivers/iommu/iommu.c:2:1: error: and here",
    ]
    copy = next(path for path in settings.store.path("trees").iterdir() if path.is_dir())
    assert counted == f"  the reference implementation changed drivers/iommu/iommu.c: line numbers refer to {copy}"
    assert whole.startswith("complete output: ")


def test_errors_in_the_test_module_name_its_sources(settings: SimpleNamespace) -> None:
    failing = 'if [ -n "$(M)" ]; then echo "main.c:1:5: error: bad"; echo "$(M)/main.c:1: error: bad"; exit 1; fi; '
    (settings.tree / "Makefile").write_text(TREE_MAKEFILE.replace('if [ -n "$(M)" ]', failing + 'if [ -n "$(M)" ]'))
    with pytest.raises(SetupError) as caught:
        build(settings)
    assert caught.value.message.splitlines()[1:3] == [
        f"  {settings.kmod}/main.c:1:5: error: bad",
        f"  {settings.kmod}/main.c:1: error: bad",
    ]


def test_what_an_interrupted_build_wrote_is_built_again(settings: SimpleNamespace) -> None:
    build(settings)
    made = builder(settings)
    (settings.tree / "core.c").write_text("int core = 1;\n")
    (made.out / ".pytest-iommu-building").write_bytes(b"")
    (made.out / "core.o").write_text("ha")  # newer than its source, and half
    assert build(settings)[0] == "int core = 1;\n"


def test_a_full_disk_is_told_from_a_bad_source(settings: SimpleNamespace) -> None:
    (settings.tree / "Makefile").write_text(
        TREE_MAKEFILE.replace('echo "  CC      core.o";', 'echo "fatal: core.o: No space left on device"; exit 1;')
    )
    with pytest.raises(SetupError, match="No space left on device.*prune"):
        build(settings)


def test_a_tree_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a kernel tree"):
        source.user_tree(tmp_path)


def test_a_missing_compiler_is_named(
    settings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bare_machine.make(tmp_path / "bare", without=("aarch64-linux-gnu-gcc",))))
    with pytest.raises(SetupError, match="machine: aarch64-linux-gnu-gcc, stdio.h.*\n.*install gcc-aarch64-linux-gnu "):
        builder(settings)


def test_a_missing_header_is_said_before_anything_is_made(
    settings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = ("openssl/opensslv.h", "-lcrypto")
    monkeypatch.setenv("PATH", str(bare_machine.make(tmp_path / "bare", unknown=unknown)))
    with pytest.raises(SetupError) as caught:
        build(settings)
    first, install, doctor = caught.value.message.splitlines()
    assert first == "missing on this machine: openssl/opensslv.h (header), libcrypto (library)"
    assert install.endswith("apt-get install libssl-dev")
    assert "pytest-iommu doctor" in doctor
    assert steps(settings) == []


def test_what_a_symbol_selects_is_said_before_compiling(
    settings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selects = "$(O)/.config; echo CONFIG_OBJTOOL=y >> $(O)/.config\n"
    (settings.tree / "Makefile").write_text(TREE_MAKEFILE.replace("$(O)/.config\n", selects))
    monkeypatch.setenv("PATH", str(bare_machine.make(tmp_path / "bare", unknown=("libelf.h",))))
    with pytest.raises(SetupError, match=r"missing on this machine: libelf.h \(header\)\n.*install libelf-dev"):
        build(settings)
    assert steps(settings) == ["configuring kernel arm64 plain"]


def test_required_symbols_that_a_tree_does_not_take_are_an_error(settings: SimpleNamespace) -> None:
    (settings.tree / "Makefile").write_text(
        TREE_MAKEFILE.replace("cp $(KCONFIG", "grep -v SMMU $(KCONFIG").replace("ALLCONFIG) $(O)", "ALLCONFIG) > $(O)")
    )
    with pytest.raises(SetupError, match="cannot be configured with ARM_SMMU_V3, which machine smmuv3 needs"):
        build(settings)


def test_make_arguments_get_a_build_of_their_own(settings: SimpleNamespace) -> None:
    plan = builder(settings).plan
    assert replace(plan, make_args=("LLVM=1",)).place != plan.place


def test_fragments_lie_over_each_other(tmp_path: Path) -> None:
    extra = tmp_path / "my.config"
    extra.write_text("# mine\nCONFIG_NR_CPUS=4\n# CONFIG_PREEMPT is not set\n")
    symbols = config.merged(machines.get("smmuv3"), "debug", [extra])
    assert (symbols["NR_CPUS"], symbols["PREEMPT"], symbols["KASAN"]) == ("4", "n", "y")
    assert "# CONFIG_PREEMPT is not set\n" in config.text(symbols)
    extra.write_text("NR_CPUS=4\n")
    with pytest.raises(SetupError, match=r"my.config:1: "):
        config.merged(machines.get("smmuv3"), "plain", [extra])
    with pytest.raises(SetupError, match="no kernel flavour 'x'; there are: .*debug"):
        config.merged(machines.get("smmuv3"), "x", ())


def test_a_program_that_is_interrupted_leaves_no_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script = f"sleep 1000 & echo $! > {pid_file}; echo started; wait"
        process.run(["sh", "-c", script], on_line=interrupt)
    child = Path(f"/proc/{pid_file.read_text().strip()}/cmdline")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)  # killed, not yet reaped by init
    assert not child.exists() or not child.read_bytes()


def test_a_killed_parent_takes_make_and_its_children_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    code = f"from pytest_iommu.core import process; process.run(['sh', '-c', {script!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 20
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        parent.kill()
    child = Path(f"/proc/{pid_file.read_text().strip()}/cmdline")
    while child.exists() and child.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists() or not child.read_bytes()


def test_output_is_logged_and_returned(tmp_path: Path) -> None:
    done = process.run(["sh", "-c", "echo one; echo two >&2; printf three; exit 3"], log=tmp_path / "logs/x.log")
    assert done == process.Finished(3, ("one", "two", "three"))
    assert (tmp_path / "logs/x.log").read_text() == "one\ntwo\nthree"
    assert stat.S_ISREG((tmp_path / "logs/x.log").stat().st_mode)


def test_the_options_of_all_dumps_are_switched_on() -> None:
    """So that the kernel of a tree that has one of them has its files; there is no message where a tree has not."""
    switched_on = {
        name
        for machine in machines.names()
        for name, value in config.merged(machines.get(machine), "plain", ()).items()
        if value == "y"
    }
    options = {option for one in LIVE_TEXTS for option in one.options}
    assert options <= switched_on
    assert options - {"INTEL_IOMMU_DEBUGFS"} <= set(kernel.DUMPS) <= switched_on


def test_a_renamed_symbol_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("CONFIG_SYSCTL=y\n")
    wanted = {"SYSCTL": "y", "PROC_SYSCTL": "y", "KASAN": "y", "SMP": "n"}
    assert config.not_taken(wanted, tmp_path / ".config") == ["KASAN"]
    (tmp_path / ".config").write_text("")
    assert config.not_taken(wanted, tmp_path / ".config") == ["KASAN", "PROC_SYSCTL", "SYSCTL"]
