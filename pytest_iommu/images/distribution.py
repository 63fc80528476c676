# SPDX-License-Identifier: GPL-2.0-only
"""A kernel of Debian's that is ready: its image, and our test module built against its headers package.

The packages are fetched from the machine's own mirror and unpacked; nothing is installed, nothing of them stays in the
cache. The headers belong to another machine and another Debian: their programs run with the C library of their own
suite, and a compiler that is older than the kernel's gets the options that it knows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core import process
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images import ready, toolchain, unpacked
from pytest_iommu.images.apt import Apt, Package, unpack
from pytest_iommu.images.kernel import MODULE
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

IMAGES = ("linux-image-{}", "linux-binary-{}")
"""Packages that have the image; since 7.3 the first one only depends on the second."""
MODULES = ("linux-image-{}", "linux-modules-{}")
HEADERS = "linux-headers-{}"
VMLINUZ = ("boot/vmlinuz-{}", "usr/lib/modules/{}/vmlinuz")

NEWER = {"-fmin-function-alignment=8": "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="}
"""Options of newer compilers -> what tells kbuild to do without. The module need not be built with the kernel's own."""

PROGRAMS = {
    "scripts/basic/fixdep": "",
    "scripts/mod/modpost": "modpost.real-lsb-64",
    "tools/objtool/objtool": "objtool.real-x86",
}
"""What kbuild runs for a module, and the program that it becomes."""

WITHOUT_BTF = "CONFIG_DEBUG_INFO_BTF_MODULES="
"""It would take pahole, and nobody asks for the module's types."""


@dataclass(frozen=True, slots=True)
class Made:
    """Where the parts of a ready kernel are: ``folder`` is for --iommu-modules."""

    release: str
    image: Path
    config: Path
    folder: Path


def make(store: Store, machine: Machine, series: str, folder: Path, progress: Progress, offline: bool = False) -> Made:
    """Fetch the newest kernel of a series (``6.12``) for that machine, and build the test module for it in ``folder``.

    SetupError if no suite has one, or if the module does not build.
    """
    toolchain.require(["program", "fetch"], toolchain.tools(machine))
    needed = {**ready.BOOT, **(ready.VNG if machine.arch == "x86_64" else {})}
    what = f"fetching Debian's kernel {series}"
    with store.scratch("distribution") as work:
        with Apt.of(store, what, progress, offline, arch=machine.debian_arch) as apt:
            release, suite = _find(apt, machine, series)
            names = [one.format(release) for one in (*IMAGES, HEADERS)]
            common = HEADERS.format(release.removesuffix(f"-{machine.debian_arch}") + "-common")
            _fetch(apt, [*names, common], suite, work, progress)
            headers = work / "usr/src" / HEADERS.format(release)
            if ready.wants_modules((headers / ".config").read_text(), needed):
                _fetch(
                    apt, [name for one in MODULES if (name := one.format(release)) not in names], suite, work, progress
                )
        with Apt.of(store, what, progress, offline) as apt:
            _fetch_programs(apt, headers, suite, work, progress)
        folder.mkdir(parents=True, exist_ok=True)
        with progress.step(f"building module {MODULE} for {release}"):
            module = _build(machine, headers, work / "usr/src" / common, work / "module")
        image = folder / f"vmlinuz-{release}"
        shutil.copyfile(_only(work, VMLINUZ, release), image)
        shutil.copyfile(headers / ".config", folder / f"config-{release}")
        shutil.copyfile(module, folder / module.name)
        # virtme-ng finds them where a root directory has them.
        modules = folder / "lib/modules" / release
        modules.mkdir(parents=True, exist_ok=True)
        for name, content in ready.boot_modules(ready.index(work), needed):
            (modules / name).write_bytes(content)
    return Made(release, image, folder / f"config-{release}", folder)


def _find(apt: Apt, machine: Machine, series: str) -> tuple[str, str]:
    """Return the newest release of a series, e.g. 6.12.117+deb13-arm64, and the suite that has it."""
    pattern = rf"^linux-headers-[0-9.]+[^-]*-{machine.debian_arch}$"
    found: dict[str, str] = {}
    for suite in apt.suites:
        for name in apt.names(pattern, suite):
            found.setdefault(name.removeprefix("linux-headers-"), suite)
    own = [one for one in found if re.match(re.escape(series) + r"[.+]", one)]
    if not own:
        known = sorted({".".join(one.split(".")[:2]) for one in found}, key=lambda one: [*map(int, one.split("."))])
        there = ", ".join(f"debian:{one}" for one in known) or "none"
        raise SetupError(
            f"no suite of this machine's mirror has a kernel {series} for {machine.debian_arch}; there: {there}"
        )
    newest = max(own, key=lambda one: [int(number) for number in re.findall(r"\d+", one)])
    return newest, found[newest]


def _fetch(apt: Apt, names: Sequence[str], suite: str, work: Path, progress: Progress) -> None:
    """Unpack those of the packages that the suite has; one that it lacks is missed where it is needed."""
    for name in names:
        package = apt.find([name], [suite])
        if package is None:
            continue
        with progress.step(f"fetching {package.name} {package.version}"):
            deb = apt.download(package)
        unpack(deb, work)
        deb.unlink()


def _fetch_programs(apt: Apt, headers: Path, suite: str, work: Path, progress: Progress) -> None:
    """Unpack the programs of kbuild for this machine, and let them run with the libraries of their own suite."""
    scripts = headers / "scripts"
    name = Path(scripts.readlink()).parent.name if scripts.is_symlink() else ""
    package: Package | None = apt.find([name], [suite]) if name else None
    if package is None:
        raise SetupError(f"{headers.name} does not lead to a linux-kbuild package of {suite}")
    root = work / "host"
    with progress.step(f"fetching {package.name} {package.version}") as step:
        for deb in apt.download_closure(package, step.update):
            unpack(deb, root)
            deb.unlink()
    programs = work / "usr/lib" / name
    shutil.rmtree(programs, ignore_errors=True)
    programs.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / "usr/lib" / name, programs)
    found = unpacked.linker(root)
    # The programs named here only choose the one for a byte order and a word size, or for an architecture.
    for name, real in PROGRAMS.items():
        program = programs / name
        chosen = program.parent / real
        if program.is_file():
            unpacked.run_by(found, program, chosen if chosen.is_file() else None)


def _build(machine: Machine, headers: Path, common: Path, copy: Path) -> Path:
    """Return the module, built in a copy of its sources."""
    copy.mkdir()
    for path in ready.module_sources():
        shutil.copy(path, copy)
    compiler = f"{machine.cross_compile}gcc"
    argv = ["make", "-C", str(common), f"O={headers}", f"ARCH={machine.make_arch}", f"M={copy}"]
    # The headers name the compiler of the kernel; on the command line it is ours.
    argv += [f"CROSS_COMPILE={machine.cross_compile}", f"CC={compiler}", WITHOUT_BTF, *_without(compiler), "modules"]
    done = process.run(argv, env=process.environment_of_make(LC_ALL="C"))
    built = copy / f"{MODULE}.ko"
    if done.status != 0 or not built.is_file():
        last = "\n".join(done.lines[-15:])
        raise SetupError(f"the test module does not build against {headers.name}:\n{last}")
    return built


def _without(compiler: str) -> list[str]:
    """What to tell kbuild of the options that this compiler does not know."""
    argv = [compiler, "-fsyntax-only", "-x", "c", "/dev/null"]
    return [word for flag, word in NEWER.items() if subprocess.run([*argv, flag], capture_output=True).returncode]


def _only(work: Path, places: Sequence[str], release: str) -> Path:
    for place in places:
        path = work / place.format(release)
        if path.is_file():
            return path
    raise SetupError(f"the packages of {release} have no image at {' or '.join(one.format(release) for one in places)}")
