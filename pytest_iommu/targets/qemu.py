# SPDX-License-Identifier: GPL-2.0-only
"""The qemu target: a machine of qemu-images/ with the kernel under test.

QEMU inherits file descriptors for all its connections: socketpairs for QMP, qtest and agent, memfds for RAM and
console. So there are no paths, ports or leftovers, and QEMU's death is an immediate end of file.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.boot_modes import BOOT_MODES, FUNCTIONAL, BootMode
from pytest_iommu.core.limits import available_memory
from pytest_iommu.core.outcomes import IommuError, SetupError
from pytest_iommu.core.process import Child, finished
from pytest_iommu.guest.channel import Channel
from pytest_iommu.guest.gdb import CHARDEV, Gdb
from pytest_iommu.guest.qmp import Qmp
from pytest_iommu.guest.qtest import Qtest
from pytest_iommu.guest.virtual import VirtualGuest, Wires
from pytest_iommu.images.devicetree import with_stream_ids

if TYPE_CHECKING:
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images import Artefacts, Machine

log = logging.getLogger(__name__)

BOOT_TIMEOUT = 120.0
"""Seconds of host time for a boot: it takes one on a quiet host, 8 for a debug kernel, many more on a loaded host."""

HEADROOM = 64 << 20
"""Bytes that QEMU needs beyond the guest's RAM."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors that QEMU inherits: a memfd for RAM, and its ends of the socketpairs."""

    ram: int
    qmp: int
    qtest: int
    agent: int
    gdb: int


@dataclass(frozen=True, slots=True)
class Boot:
    """One way to start a guest; see core/boot_modes.py."""

    machine: Machine
    program: Sequence[str]
    kernel: str
    initrd: str
    append: str = ""
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    boot_mode: BootMode = BOOT_MODES[FUNCTIONAL]

    @property
    def icount(self) -> str:
        """The unit of the guest's clock; empty if it is the host's."""
        return self.machine.icount if self.boot_mode.icount is None else self.boot_mode.icount

    def command(
        self, console: Sequence[str], fds: Descriptors | None = None, tree: str = "", trace: str = ""
    ) -> list[str]:
        """Return QEMU's command line; without descriptors, for a guest with a console only.

        ``tree`` is the path of a device tree, if the board needs another one than QEMU's own; ``trace`` is that of the
        log of refused accesses, if the machine has one.
        """
        machine, boot_mode = self.machine, self.boot_mode
        backend = "memory-backend-ram,id=ram" if fds is None else "memory-backend-file,id=ram,share=on"
        where = "" if fds is None else f",mem-path=/proc/self/fd/{fds.ram}"
        words = [machine.append, machine.limit, "oops=panic", boot_mode.append, self.append]
        argv = [
            *self.program,
            *("-name", f"iommu-{machine.name}", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", f"{machine.qemu_machine},memory-backend=ram", "-cpu", machine.cpu),
            *("-smp", str(boot_mode.cpus)),
            *machine.qemu_args,
            *("-m", f"{machine.memory >> 20}M"),
            *("-object", f"{backend},size={machine.memory}{where}"),
            *("-kernel", self.kernel, "-initrd", self.initrd),
            *(("-dtb", tree) if tree else ()),
            *(("-trace", machine.iommu.trace, "-D", trace) if machine.iommu is not None and trace else ()),
            # An oops ends the guest: results after it prove nothing. A WARN only fails its own test.
            *("-append", " ".join(filter(None, words))),
            *console,
            *("-chardev", "null,id=agent" if fds is None else f"socket,id=agent,fd={fds.agent}"),
            *("-device", f"{machine.agent.driver},id=agentbus,addr={machine.agent.slot}"),
            *("-device", "virtserialport,bus=agentbus.0,chardev=agent,name=iommu.agent"),
        ]
        if fds is not None:
            argv += ["-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"]
            argv += ["-chardev", f"socket,id=qtest,fd={fds.qtest}", "-qtest", "chardev:qtest", "-qtest-log", "none"]
            if boot_mode.gdb:
                argv += ["-chardev", f"socket,id={CHARDEV},fd={fds.gdb}"]
        if self.icount:
            argv += ["-icount", self.icount]
        elif boot_mode.one_thread:
            argv += ["-accel", "tcg,thread=single"]
        for device in machine.devices:
            if not device.hotplug:
                argv += ["-device", device.argument]
        return [*argv, *self.arguments]

    def device_tree(self) -> bytes | None:
        """Return the machine's device tree if it differs from QEMU's: QEMU's own, with the machine's stream ids added.

        SetupError if QEMU does not dump its own.
        """
        machine = self.machine
        if not machine.moved and not machine.iommus:
            return None
        with tempfile.TemporaryDirectory(prefix="pytest-iommu-") as folder:
            path = Path(folder, "board.dtb")
            argv = [*self.program, *("-nodefaults", "-no-user-config", "-display", "none", "-cpu", machine.cpu)]
            argv += ["-machine", f"{machine.qemu_machine},dumpdtb={path}", *machine.qemu_args]
            argv += ["-smp", "2", "-m", f"{machine.memory >> 20}M"]
            said = ""
            try:
                said = finished(argv, 60, self.env).stderr.decode("utf-8", "replace").strip()
                return with_stream_ids(path.read_bytes(), machine.moved, machine.iommus)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                what = f"QEMU does not dump the device tree of machine {machine.name}"
                raise SetupError(f"{what}: {said or error}") from error


def boot_of(settings: Settings, machine: Machine, artefacts: Artefacts, boot_mode: str = FUNCTIONAL) -> Boot:
    """Return how to start this machine and kernel by the settings, in a mode of core/boot_modes.py."""
    return Boot(
        machine=machine.on(artefacts.qemu.number[0]).with_pages(artefacts.page),
        program=tuple(artefacts.qemu.argv_prefix),
        kernel=str(artefacts.image),
        initrd=str(artefacts.initrd),
        append=settings.append,
        arguments=settings.qemu_args,
        env=dict(artefacts.qemu.env),
        boot_mode=BOOT_MODES[boot_mode],
    )


def memory_file(name: str, size: int = 0) -> int:
    """Return a new memfd of that many bytes."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


class QemuTarget:
    """Starts guests of one machine and kernel."""

    name = "qemu"

    def __init__(self, boot: Boot, timeout: float = BOOT_TIMEOUT) -> None:
        self.boot = boot
        self.timeout = timeout

    def start(self) -> VirtualGuest:
        """Boot a guest and wait for its agent. SetupError if QEMU does not start or there is too little memory."""
        boot = self.boot
        log.info("booting %s", boot.machine.name)
        guest, started = self._spawn(), time.monotonic()
        try:
            guest.boot(self.timeout)
        except IommuError:
            guest.close()
            raise
        except BaseException:  # Ctrl-C while booting must leave nothing behind
            guest.close()
            raise
        log.info("%s answers after %.1f s", boot.machine.name, time.monotonic() - started)
        guest.name = f"{boot.machine.name} (pid {guest.child.pid}, booted in {time.monotonic() - started:.1f} s)"
        return guest

    @cached_property
    def _tree(self) -> bytes | None:
        """Takes a fifth of a second, and is the same for every guest."""
        return self.boot.device_tree()

    def _spawn(self) -> VirtualGuest:
        boot = self.boot
        board = self._tree
        have = available_memory()
        need = boot.machine.memory + HEADROOM
        if have is not None and have < need:
            what = f"machine {boot.machine.name} needs {need >> 20} MiB, {have >> 20} MiB are available"
            raise SetupError(f"{what}\ncommand: {' '.join(boot.command(()))}")
        ram = memory_file("iommu-ram", boot.machine.memory)
        record = memory_file("iommu-console")
        tree = memory_file("iommu-tree")
        os.write(tree, board or b"")
        traced = boot.machine.iommu is not None and boot.machine.iommu.trace
        trace = memory_file("iommu-faults") if traced else None
        pairs = [socket.socketpair() for _ in range(4)]
        (our_agent, agent), (our_qmp, qmp), (our_qtest, qtest), (our_gdb, gdb) = pairs
        monitor = Qmp(our_qmp)
        stub = Gdb(our_gdb, monitor)
        wires = Wires(
            *(Channel(our_agent), monitor, Qtest(our_qtest), stub),
            console=os.dup(record),
            ram=os.dup(ram),
            faults=None if trace is None else os.dup(trace),
        )
        theirs = Descriptors(ram, qmp.detach(), qtest.detach(), agent.detach(), gdb.detach())
        console = ("-chardev", f"file,id=console,path=/proc/self/fd/{record}", "-serial", "chardev:console")
        of_tree, of_trace = (f"/proc/self/fd/{fd}" if given else "" for fd, given in ((tree, board), (trace, traced)))
        argv = boot.command(console, theirs, of_tree, of_trace)
        log.debug("%s", shlex.join(argv))
        try:
            child = Child(argv, [record, tree, *([] if trace is None else [trace]), *astuple(theirs)], boot.env)
        except SetupError as error:
            wires.close()
            raise SetupError(f"{error.message}\ncommand: {' '.join(argv)}") from error
        try:
            return VirtualGuest(boot.machine, child, wires, host_time=not boot.icount)
        except OSError as error:
            child.close()
            wires.close()
            raise SetupError(f"cannot map the guest's RAM: {error}") from error
