# SPDX-License-Identifier: GPL-2.0-only
"""QEMU: the one on PATH if it is new enough, else Debian's, unpacked into the cache without installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import finished
from pytest_iommu.images import unpacked
from pytest_iommu.images.apt import Apt, unpack
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import MANIFEST, Store, digest, touch

MINIMUM = (10, 0)
"""Older ones have no stage 2 or no nested SMMU (both stages at once came with 9.1, as the default with 9.2)."""
_VERSION = re.compile(r"version (\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Qemu:
    """How to start QEMU: the words before its arguments, additions to the environment, its version as text."""

    argv_prefix: tuple[str, ...]
    version: str
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    origin: str = ""

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    def __str__(self) -> str:
        return f"QEMU {self.version} ({self.origin})"


def ask_version(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """Return the version that the program reports, e.g. ``10.0.2``. SetupError if it does not run or is not QEMU."""
    try:
        done = finished([*argv, "--version"], 60, env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{argv[-1]}: does not run: {error}") from error
    output = done.stdout.decode("utf-8", "replace")
    found = _VERSION.search(output)
    if not found:
        said = output + done.stderr.decode("utf-8", "replace")
        raise SetupError(f"{argv[0]}: is not QEMU, or does not run:\n{said[:500]}")
    return ".".join(number for number in found.groups() if number is not None)


def installed(store: Store, path: str) -> Qemu:
    """Return the QEMU at this path. Its version is cached by path, size and time, so that a warm start runs nothing."""
    real = os.path.realpath(path)
    stat = os.stat(real)
    note = store.path("state", f"qemu-{digest(real, stat.st_size, stat.st_mtime_ns)}")
    try:
        version = note.read_text().strip()
    except OSError:
        version = ""
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        version = ask_version((path,), {})
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(version)
        except OSError:
            pass  # an unwritable cache only costs a moment here, and is reported where it matters
    return Qemu((path,), version, origin=path)


def _launch(root: Path, binary: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return how to start a program of an unpacked root: with its own dynamic linker, so that all libraries match."""
    program = root / "usr/bin" / binary
    try:
        started = unpacked.linker(root)
    except SetupError:
        started = None
    if not program.is_file() or started is None:
        raise SetupError(f"{root}: the unpacked QEMU is incomplete")
    argv = [started.program, "--library-path", started.path, "--argv0", binary, str(program)]
    for data in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"):
        if (root / data).is_dir():
            argv += ["-L", str(root / data)]
    # Without this it would load the modules of an installed QEMU of another version.
    return tuple(argv), {"QEMU_MODULE_DIR": str(root / "usr/lib" / started.triplet / "qemu")}


def _entries(store: Store, machine: Machine, major: int | None) -> list[Path]:
    """Return this machine's fetched QEMUs, newest version first; of one major version, else the oldest major first.

    Otherwise a newer QEMU that was fetched for one user's request would become the default for all.
    """
    found: dict[int, list[tuple[list[int], Path]]] = {}
    for path in store.path("qemu").glob(f"{machine.qemu_package}_*"):
        version = _upstream(path.name.partition("_")[2].replace("-", ":", 1))
        if version >= MINIMUM and major in (None, version[0]):
            found.setdefault(version[0], []).append(([int(one) for one in re.findall(r"\d+", path.name)], path))
    return [path for one in sorted(found) for _, path in sorted(found[one], reverse=True)]


def _stat_list(root: Path) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(folder, name), root): os.lstat(os.path.join(folder, name)).st_size
        for folder, _, files in os.walk(root)
        for name in files
        if not os.path.islink(os.path.join(folder, name))
    }


def fetched(store: Store, machine: Machine, major: int | None = None) -> Qemu | None:
    """Return a cached QEMU; one with missing files or of another size counts as absent, and fetch() removes it."""
    return next((found for path in _entries(store, machine, major) if (found := _whole(store, path, machine))), None)


def _whole(store: Store, path: Path, machine: Machine) -> Qemu | None:
    """Return the QEMU at this place of the cache, or None if it is damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if _stat_list(path / "root") != manifest["files"]:
            return None
        argv, env = _launch(path / "root", machine.qemu_binary)
        store.hold(path)
        version = str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError, SetupError):
        return None
    touch(path)
    return Qemu(argv, version, env, f"fetched, {path.name}")


def fetch(store: Store, machine: Machine, progress: Progress, offline: bool, choice: str = "") -> Qemu:
    """Download and unpack a QEMU that is new enough, or as ``choice`` requests. SetupError if no suite has one."""
    what = f"fetching QEMU ({machine.qemu_package})"
    with store.lock(f"qemu-{machine.qemu_package}", what, progress):
        found = find(store, machine, choice)  # by the session that this one waited for
        if found is not None:
            return found
        for path in _entries(store, machine, None):
            if _whole(store, path, machine) is None:
                progress.note(f"{path.name} in the cache is damaged: removed")
                shutil.rmtree(path)
        with Apt.of(store, what, progress, offline) as apt:
            return _fetch(store, machine, progress, apt, chosen_major(choice))


def _fetch(store: Store, machine: Machine, progress: Progress, apt: Apt, major: int | None) -> Qemu:
    # Closest to this machine first: its own suite, its backports, then newer ones.
    own = apt.mirror.codename
    for suite in dict.fromkeys([own, f"{own}-backports", *reversed(apt.suites)]):
        package = apt.find([machine.qemu_package], [suite])
        if package is None or _upstream(package.version) < MINIMUM:
            continue
        if major not in (None, _upstream(package.version)[0]):
            continue
        with progress.step(f"fetching QEMU: {package.name} {package.version}") as step:
            debs = apt.download_closure(package, step.update)
        final = store.path("qemu", f"{package.name}_{package.version.replace(':', '-')}")
        with progress.step("unpacking QEMU") as step, store.making(final) as work:
            for number, deb in enumerate(debs):
                unpack(deb, work / "root")
                deb.unlink()
                step.update(number / len(debs))
            # Documentation of 80 packages: a third of the files, which would be checked on every start.
            for useless in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var", "etc"):
                shutil.rmtree(work / "root" / useless, ignore_errors=True)
            argv, env = _launch(work / "root", machine.qemu_binary)
            manifest = {"version": ask_version(argv, env), "files": _stat_list(work / "root")}
            (work / MANIFEST).write_text(json.dumps(manifest))
        found = fetched(store, machine, major)
        if found is None:
            raise SetupError(f"{final}: the QEMU just unpacked is incomplete; is the disk in order?")
        return found
    wanted = f"{'.'.join(map(str, MINIMUM))} or newer" if major is None else f"{major}"
    raise SetupError(
        f"none of {', '.join(apt.suites)} of this machine's mirror has {machine.qemu_package} {wanted}; "
        "install one and name it with --iommu-qemu=PATH"
    )


def _upstream(version: str) -> tuple[int, int]:
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def chosen_major(choice: str) -> int | None:
    """Return the major version that ``fetched:N`` requests, None for other choices. SetupError if N is invalid."""
    word, colon, number = choice.partition(":")
    if word != "fetched" or not colon:
        return None
    if not number.isdecimal() or int(number) < MINIMUM[0]:
        raise SetupError(f"--iommu-qemu={choice}: fetched:N takes a major version, {MINIMUM[0]} or newer")
    return int(number)


def find(store: Store, machine: Machine, choice: str) -> Qemu | None:
    """Return the QEMU that ``--iommu-qemu`` selects: auto, system, fetched, fetched:N or a path; None: must be fetched.

    SetupError if the selected one is absent or too old.
    """
    wanted = ".".join(map(str, MINIMUM))
    if choice.partition(":")[0] == "fetched":
        return fetched(store, machine, chosen_major(choice))
    if choice in ("", "auto", "system"):
        on_path = shutil.which(machine.qemu_binary)
        if on_path is not None:
            qemu = installed(store, on_path)
            if qemu.number >= MINIMUM:
                return qemu
            if choice == "system":
                raise SetupError(f"--iommu-qemu=system: {on_path} is {qemu.version}, {wanted} is needed")
        elif choice == "system":
            raise SetupError(f"--iommu-qemu=system: no {machine.qemu_binary} on PATH")
        return fetched(store, machine)
    path = Path(choice).expanduser()
    if path.is_dir():
        path = path / machine.qemu_binary
    if not path.is_file() or not os.access(path, os.X_OK):
        raise SetupError(f"--iommu-qemu: {path}: no such program; system, fetched, or a path to {machine.qemu_binary}")
    qemu = installed(store, str(path.absolute()))
    if qemu.number < MINIMUM:
        raise SetupError(f"--iommu-qemu: {path} is {qemu.version}, {wanted} is needed")
    return qemu
