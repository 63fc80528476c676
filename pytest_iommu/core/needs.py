# SPDX-License-Identifier: GPL-2.0-only
"""What a run needs of this machine: commands, headers and libraries, and the Debian package that brings each of them.

This is the only list. tools/setup installs from it, kernel builds check it before they start, and ``pytest-iommu
doctor`` prints it. Nothing but the standard library is imported here: tools/setup runs ``python3 -m
pytest_iommu.core.needs`` before there is a virtual environment.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError

Group = Literal["setup", "kernel", "program", "fetch", "guest"]

SIGNING = ("MODULE_SIG_FORMAT", "SECURITY_LOCKDOWN_LSM")
"""Lockdown selects module signing, and with it scripts/sign-file, certs/extract-cert and a key of the build's own."""
LIBRARIES_OF_TARGET = {"arm64": "libc6-dev-arm64-cross", "riscv": "libc6-dev-riscv64-cross", "x86": "libc6-dev"}
"""Debian's cross C libraries by the kernel's name of the architecture."""


@dataclass(frozen=True)
class Need:
    """One thing to be found. ``package`` is Debian's, empty if it is unknown.

    ``compiler`` says whose header or library it is, ``link`` how a library is linked, ``pkgconfig`` the name that
    pkg-config knows it by. With ``config`` it is needed only by kernels that have one of these symbols set.
    """

    kind: Literal["command", "header", "library", "module"]
    name: str
    package: str
    why: str = ""
    compiler: Literal["host", "target"] = "host"
    link: tuple[str, ...] = ()
    pkgconfig: str = ""
    config: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = self.name if self.kind == "command" else f"{self.name} ({self.kind})"
        return f"{what} of the target's compiler" if self.compiler == "target" and self.kind != "command" else what


NEEDS: Mapping[Group, tuple[Need, ...]] = {
    "setup": (Need("module", "ensurepip", "python3-venv", "the virtual environment"),),
    "kernel": (
        Need("command", "make", "make"),
        Need("header", "stdlib.h", "libc6-dev", "programs of the build"),
        Need("command", "flex", "flex", "Kconfig and dtc"),
        Need("command", "bison", "bison", "Kconfig and dtc"),
        Need("command", "bc", "bc", "kernel/time"),
        Need("command", "perl", "perl-base", "lib/crypto"),
        Need("command", "patch", "patch", "the reference implementation"),
        Need("command", "openssl", "openssl", "the key that modules are signed with", config=SIGNING),
        Need(
            *("header", "openssl/opensslv.h", "libssl-dev", "scripts/sign-file, certs/extract-cert"),
            config=SIGNING,
            pkgconfig="libcrypto",
        ),
        Need(
            *("library", "libcrypto", "libssl-dev", "scripts/sign-file, certs/extract-cert"),
            link=("-lcrypto",),
            config=SIGNING,
            pkgconfig="libcrypto",
        ),
        # Whatever is chosen, x86_64 builds objtool; the other architectures do with some options.
        Need("header", "libelf.h", "libelf-dev", "objtool", config=("OBJTOOL", "INTEL_IOMMU"), pkgconfig="libelf"),
        Need("command", "pahole", "pahole", "BTF", config=("DEBUG_INFO_BTF",)),
    ),
    # The guest's init and its other programs; always with gcc, whatever the kernel is compiled with.
    "program": (
        Need("command", "{cross}gcc", "{gcc}", "programs of the guest"),
        Need("header", "stdio.h", "{libc}", "programs of the guest", "target"),
        Need("library", "libc.a", "{libc}", "programs of the guest are static", "target", ("-static",)),
    ),
    "fetch": (
        Need("command", "apt-get", "apt", "kernel source and QEMU"),
        Need("command", "dpkg-deb", "dpkg", "unpacks packages"),
        Need("command", "tar", "tar", "unpacks the kernel source"),
        Need("command", "xz", "xz-utils", "unpacks the kernel source"),
    ),
    "guest": (Need("command", "setpriv", "util-linux", "ends QEMU when its parent was killed"),),
}

LLVM = {"clang": "clang", "ld.lld": "lld", "llvm-ar": "llvm", "llvm-nm": "llvm", "llvm-objcopy": "llvm"}
"""What LLVM=1 runs, and the Debian package of it; a suffix such as -17 belongs to both."""


@dataclass(frozen=True)
class Tools:
    """The compilers of a build. ``cross`` is the prefix of the target's, empty where the target is this machine.

    ``arguments`` are those of make: LLVM=, CC=, HOSTCC=, HOSTCFLAGS= and CROSS_COMPILE= choose other compilers.
    """

    cross: str = ""
    arch: str = ""
    arguments: tuple[str, ...] = ()

    @cached_property
    def _given(self) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self.arguments)

    @property
    def llvm(self) -> tuple[str, str] | None:
        """Prefix and suffix of LLVM's programs, None where the kernel is not built with LLVM."""
        value = self._given.get("LLVM", "")
        if value in ("", "0"):
            return None
        return (value, "") if value.endswith("/") else ("", value if value.startswith("-") else "")

    @property
    def compiler(self) -> str:
        """The program that compiles the kernel."""
        if "CC" in self._given:
            return (self._given["CC"].split() or [""])[-1]
        if self.llvm is not None:
            return self.llvm_program("clang")
        return self._given.get("CROSS_COMPILE", self.cross) + "gcc"

    @property
    def host(self) -> list[str]:
        """The command line that compiles programs of the build."""
        chosen = self._given.get("HOSTCC", "gcc" if self.llvm is None else self.llvm_program("clang"))
        flags = self._given.get("HOSTCFLAGS", os.environ.get("HOSTCFLAGS", ""))
        return [*shlex.split(chosen), *shlex.split(flags)]

    def llvm_program(self, name: str) -> str:
        """What that program of LLVM is called here."""
        prefix, suffix = self.llvm or ("", "")
        return prefix + name + suffix

    def compilers(self) -> list[Need]:
        """Those of the kernel and of the build's own programs."""
        found = [self._command(self.host[0]), self._command(self.compiler)]
        if self.llvm is not None:
            found += [self._command(self.llvm_program(name)) for name in LLVM]
        return list(dict.fromkeys(found))

    def _command(self, name: str) -> Need:
        own = re.fullmatch(r"([a-z0-9_]+-linux-gnu-)?gcc", name)
        package = ("gcc-" + own[1].rstrip("-").replace("_", "-") if own[1] else "gcc") if own else ""
        for program, of in LLVM.items():
            if self.llvm is not None and name == self.llvm_program(program) and "/" not in name:
                package = of + self.llvm[1]
        return Need("command", name, package, "compiles the kernel" if name == self.compiler else "builds the kernel")

    def complete(self, need: Need) -> Need:
        """The need with the target's names in it."""
        gcc = self._command(f"{self.cross}gcc").package
        libc = LIBRARIES_OF_TARGET.get(self.arch, "") if self.cross else "libc6-dev"
        words = {"cross": self.cross, "gcc": gcc, "libc": libc}
        return replace(need, name=need.name.format(**words), package=need.package.format(**words))


OURS = (("arm64", "aarch64", "aarch64-linux-gnu-"),)
"""Architecture as make and as uname call it, and the cross compiler's prefix, of what `make conformance` runs."""
OTHERS = (("x86_64", "x86_64", "x86_64-linux-gnu-"), ("riscv", "riscv64", "riscv64-linux-gnu-"))
"""Those of the machines with other IOMMUs."""


def tools_of(arch: str, uname: str, cross: str, arguments: Sequence[str] = ()) -> Tools:
    """The compilers for a target on this machine."""
    return Tools("" if platform.machine() in (arch, uname) else cross, arch, tuple(arguments))


def needed(groups: Iterable[Group], tools: Tools, symbols: Collection[str] | None = None) -> list[Need]:
    """What these groups need, for a kernel with these symbols set; ``symbols`` None is one with all of them."""
    found: list[Need] = []
    for group in groups:
        found += tools.compilers() if group == "kernel" else []
        for need in NEEDS[group]:
            if symbols is None or not need.config or any(name in symbols for name in need.config):
                found.append(tools.complete(need))
    return list(dict.fromkeys(found))


def locate(need: Need, tools: Tools) -> str:
    """Where it is, or ``found``; empty when it is missing."""
    if need.kind == "command":
        return shutil.which(need.name) or ""
    if need.kind == "module":
        return "found" if importlib.util.find_spec(need.name) else ""
    # Where the compiler itself is missing, another one of this machine knows whether its headers are there.
    likely = [[f"{tools.cross}gcc"]] if need.compiler == "target" else [tools.host, ["gcc"], ["cc"], ["clang"]]
    argv = next((one for one in likely if shutil.which(one[0])), None)
    if argv is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="pytest-iommu-") as folder:
        source, flags = "int main(void) { return 0; }\n", [*need.link, "-o", f"{folder}/a.out"]
        if need.kind == "header":
            source, flags = f"#include <{need.name}>\n", ["-E", *flags]
        for more in ([], _pkgconfig(need)):
            argv_of_try = [*argv, "-x", "c", "-", *flags, *more]
            done = subprocess.run(argv_of_try, input=source, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return "found"
    return ""


def _pkgconfig(need: Need) -> list[str]:
    """The flags that kbuild asks pkg-config for."""
    if not need.pkgconfig or shutil.which("pkg-config") is None:
        return []
    argv = ["pkg-config", "--cflags" if need.kind == "header" else "--libs", need.pkgconfig]
    return shlex.split(subprocess.run(argv, capture_output=True, text=True, check=False).stdout)


def missing(needs: Iterable[Need], tools: Tools) -> list[Need]:
    """Those that are not there."""
    return [need for need in needs if not locate(need, tools)]


def packages(needs: Iterable[Need]) -> list[str]:
    """The Debian packages that bring them."""
    return list(dict.fromkeys(need.package for need in needs if need.package))


def install_line(needs: Iterable[Need]) -> str:
    """What to type to have them; empty where no package is known."""
    names = packages(needs)
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {' '.join(names)}" if names else ""


def complaint(lacking: Sequence[Need]) -> str:
    """What is said where something is missing: what, how to have it, and where the whole list is."""
    lines = [f"missing on this machine: {', '.join(dict.fromkeys(map(str, lacking)))}"]
    line = install_line(lacking)
    lines += [f"install with: {line}"] if line else []
    return "\n".join([*lines, "`pytest-iommu doctor` lists everything that a run needs"])


def command_missing(name: str) -> SetupError:
    """The error for one command that was not found."""
    known = {need.name: need for needs in NEEDS.values() for need in needs if need.kind == "command"}
    return SetupError(complaint([known.get(name) or Tools().complete(Tools()._command(name))]))


def symbols_of(text: str) -> set[str]:
    """The symbols that a configuration or a fragment sets."""
    return set(re.findall(r"(?m)^CONFIG_(\w+)=[^n\n]", text))


def our_symbols(uname: str = "aarch64") -> set[str]:
    """The symbols that any of our fragments sets for an architecture, by uname's name of it."""
    others = {name for arch, its, _ in (*OURS, *OTHERS) if its != uname for name in (arch, its)}
    files = [path for path in (paths.qemu_images() / "config").glob("*.config") if path.stem not in others]
    return {name for path in files for name in symbols_of(path.read_text())}


def main(names: Sequence[str] = ()) -> int:
    """For tools/setup: print the packages that ``make conformance`` lacks here, a line each; on stderr what for.

    ``names`` are the architectures of further machines, as make calls them.
    """
    lacking: dict[Need, None] = {}
    for arch, uname, cross in (*OURS, *(one for one in OTHERS if one[0] in names)):
        tools = tools_of(arch, uname, cross)
        lacking |= dict.fromkeys(missing(needed(NEEDS, tools, our_symbols(uname)), tools))
    for need in lacking:
        print(f"setup: missing: {need}", file=sys.stderr)
    print("\n".join(packages(lacking)))
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
