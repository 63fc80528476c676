# SPDX-License-Identifier: GPL-2.0-only
"""A program of the kselftest on a guest: the agent puts its files there, its output comes as it is printed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from pytest_iommu.check.kselftest.built import BUSYBOX, Selftest
from pytest_iommu.check.kselftest.programs import FOLDER, HELPERS, Program, arguments, time_limit
from pytest_iommu.check.kselftest.verdict import Ran
from pytest_iommu.core.outcomes import GuestLost, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.protocol import Guest, Op, Reply
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE

SLOT = 63
"""Of the agent's open files."""

MODULE_NAME = MODULE.rpartition("/")[2]
MODULE_FILE = f"/modules/{MODULE_NAME}.ko"
"""Where a guest of ours has the test module; others have no such file."""

GRACE = 60.0
"""Seconds of the host's time that a program has beyond its own, which is the guest's."""


def run(guest: Guest, selftest: Selftest, program: Program, chosen: Sequence[str]) -> Ran:
    """Run a program with these of its tests. However the guest ends while it runs, it is in what is returned.

    SetupError when its files cannot be put there; also what ends the guest before it runs is raised.
    """
    folder = _folder(guest)
    words, files = arguments(program, chosen, folder)
    needed = {f"{FOLDER}/{program.name}", *((HELPERS, BUSYBOX) if program.shell else ())} & selftest.files.keys()
    _put(guest, folder, {name: selftest.files[name].read_bytes() for name in needed} | files)
    argv = [f"{folder}/{FOLDER}/{program.name}", *words]
    if program.shell:
        argv = [f"{folder}/{BUSYBOX}", "sh", *argv] if BUSYBOX in selftest.files else ["/bin/sh", *argv]
        _hand_module_over(guest, folder)
    limit, output = time_limit(), ""
    try:
        (done,) = guest.run([ops.run(*argv, timeout=limit, stream=True)], limit + GRACE).results
        output = ops.text_of(done)
        if program.shell:
            _take_module_back(guest)
    except (KernelCrash, KernelHang, GuestLost) as error:
        said = error.evidence.output if error.evidence is not None else ""
        return Ran(output or said, error=error)
    return Ran(output, done.value)


def _folder(guest: Guest) -> str:
    """Where our files go: beside the agent, which goes with all that lies there; in a guest of ours anywhere."""
    (agent,) = guest.run([ops.readlink("/proc/self/exe")]).results
    parent = str(PurePosixPath(ops.text_of(agent)).parent) if agent.ok else "/"
    return "/tmp" if parent == "/" else parent


def _put(guest: Guest, folder: str, files: Mapping[str, bytes]) -> None:
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    guest.run([ops.mkdir(f"{folder}/{parent}") for parent in sorted(parents)])
    for name, content in sorted(files.items()):
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        path = f"{folder}/{name}"
        _all_ok(guest, path, [ops.open_file(SLOT, path, flags), ops.write(SLOT, content), ops.close(SLOT)])


def _all_ok(guest: Guest, path: str, batch: Iterable[Op]) -> Reply:
    reply = guest.run(list(batch), 60.0)
    bad = next((one for one in reply.results if not one.ok), None)
    if bad is not None:
        raise SetupError(f"{path} cannot be put into the guest: {ops.errno_name(bad.value)}", guest.evidence())
    return reply


def _hand_module_over(guest: Guest, folder: str) -> None:
    """Where the test module is a file of the guest's, the program loads it itself: it has a test of that."""
    (module,) = guest.run([ops.read_file(MODULE_FILE)]).results
    if not module.ok:
        return
    _put(guest, folder, {f"{FOLDER}/test_modules/{MODULE_NAME}.ko": module.data})
    guest.run([ops.rmmod(MODULE_NAME)])


def _take_module_back(guest: Guest) -> None:
    """Who comes next finds it loaded."""
    file, loaded = guest.run([ops.stat(MODULE_FILE), ops.stat(MODULE)]).results
    if not file.ok or loaded.ok:
        return
    (done,) = guest.run([ops.insmod(MODULE_FILE)]).results
    if not done.ok:
        what = f"{MODULE_NAME} cannot be loaded again after the program: {ops.errno_name(done.value)}"
        raise GuestLost(what, guest.evidence())
