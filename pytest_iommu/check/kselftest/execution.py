# SPDX-License-Identifier: GPL-2.0-only
"""Run a kselftest program on a guest: the agent stores its files there, and its output is streamed."""

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
"""A file descriptor number of the agent."""

MODULE_NAME = MODULE.rpartition("/")[2]
MODULE_FILE = f"/modules/{MODULE_NAME}.ko"
"""Path of the test module in our own guests; others do not have it."""

GRACE = 60.0
"""Seconds of host time that a program gets beyond its own limit in guest time."""


def run(guest: Guest, selftest: Selftest, program: Program, chosen: Sequence[str]) -> Ran:
    """Run some tests of a program. If the guest ends during the run, the returned value says how.

    SetupError if its files cannot be stored. The end of the guest before the program runs is raised as well.
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
    """Return the directory for our files: beside the agent, removed with it; anywhere in our own guests."""
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
        raise SetupError(f"cannot store {path} in the guest: {ops.errno_name(bad.value)}", guest.evidence())
    return reply


def _hand_module_over(guest: Guest, folder: str) -> None:
    """If the test module is a file of the guest, unload it: the program loads it itself, and tests that."""
    (module,) = guest.run([ops.read_file(MODULE_FILE)]).results
    if not module.ok:
        return
    _put(guest, folder, {f"{FOLDER}/test_modules/{MODULE_NAME}.ko": module.data})
    guest.run([ops.rmmod(MODULE_NAME)])


def _take_module_back(guest: Guest) -> None:
    """Load the module again for the next user of the guest."""
    file, loaded = guest.run([ops.stat(MODULE_FILE), ops.stat(MODULE)]).results
    if not file.ok or loaded.ok:
        return
    (done,) = guest.run([ops.insmod(MODULE_FILE)]).results
    if not done.ok:
        what = f"cannot load {MODULE_NAME} again after the program: {ops.errno_name(done.value)}"
        raise GuestLost(what, guest.evidence())
