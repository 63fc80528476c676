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
from dataclasses import dataclass, field
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
from pytest_iommu.targets import kvm

if TYPE_CHECKING:
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images import Artefacts, Machine

log = logging.getLogger(__name__)

BOOT_TIMEOUT = 120.0
"""Seconds of host time for a boot: it takes one on a quiet host, 8 for a debug kernel, many more on a loaded host."""

ALONE = ("-nodefaults", "-no-user-config", "-no-reboot")
"""What no guest of ours has: devices and settings that we do not name, and a second life."""

HEADROOM = 64 << 20
"""Bytes that QEMU needs beyond the guest's RAM."""


@dataclass(frozen=True, slots=True)
class Ends:
    """QEMU's ends of its connections: paths of the files for RAM and for the trace of refused accesses (empty where the
    machine has none), and what a socket chardev takes for each of the others.
    """

    ram: str
    qmp: str
    qtest: str
    agent: str
    gdb: str
    trace: str

    @classmethod
    def of(cls, ram: str, sockets: Sequence[str], trace: str) -> Ends:
        """``sockets`` are those of QMP, qtest, agent and gdbstub."""
        qmp, qtest, agent, gdb = sockets
        return cls(ram, qmp, qtest, agent, gdb, trace)


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

    @property
    def words(self) -> str:
        """The kernel's command line."""
        machine = self.machine
        counted = machine.append_icount if self.icount else ""
        # An oops ends the guest: results after it prove nothing. A WARN only fails its own test.
        words = [machine.append, counted, machine.limit, "oops=panic", self.boot_mode.append, self.append]
        return " ".join(filter(None, words))

    @property
    def board(self) -> list[str]:
        """QEMU's arguments for the board itself."""
        machine = self.machine
        return [
            *("-machine", f"{machine.qemu_machine},memory-backend=ram", "-cpu", machine.cpu),
            *("-smp", str(self.boot_mode.cpus), "-m", f"{machine.memory >> 20}M"),
        ]

    @property
    def clock(self) -> list[str]:
        """QEMU's arguments that say what runs the processors, and whose time it is."""
        if self.icount:
            return ["-icount", self.icount]
        if self.boot_mode.one_thread:
            return ["-accel", "tcg,thread=single"]
        # With several -accel the first one counts: the user's must be the only one.
        return [] if "-accel" in self.arguments else kvm.accelerator(self.machine, self.program, self.env)

    def parts(self, ends: Ends | None = None) -> list[str]:
        """QEMU's arguments for RAM, IOMMU, devices and connections; without ends, for a guest with a console only."""
        machine = self.machine
        backend = "memory-backend-ram,id=ram" if ends is None else "memory-backend-file,id=ram,share=on"
        where = "" if ends is None else f",mem-path={ends.ram}"
        argv = [
            *machine.qemu_args,
            *("-object", f"{backend},size={machine.memory}{where}"),
            *("-chardev", "null,id=agent" if ends is None else f"socket,id=agent,{ends.agent}"),
            *("-device", f"{machine.agent.driver},id=agentbus,addr={machine.agent.slot}"),
            *("-device", "virtserialport,bus=agentbus.0,chardev=agent,name=iommu.agent"),
        ]
        if ends is not None:
            argv += ["-chardev", f"socket,id=qmp,{ends.qmp}", "-mon", "chardev=qmp,mode=control"]
            argv += ["-chardev", f"socket,id=qtest,{ends.qtest}", "-qtest", "chardev:qtest", "-qtest-log", "none"]
            if self.boot_mode.gdb:
                argv += ["-chardev", f"socket,id={CHARDEV},{ends.gdb}"]
            if machine.iommu is not None and ends.trace:
                argv += ["-trace", machine.iommu.trace, "-D", ends.trace]
        for device in machine.devices:
            if not device.hotplug:
                argv += ["-device", device.argument]
        return argv

    def command(self, console: Sequence[str], ends: Ends | None = None, tree: str = "") -> list[str]:
        """Return QEMU's command line; without ends, for a guest with a console only.

        ``tree`` is the path of a device tree, if the board needs another one than QEMU's own.
        """
        return [
            *self.program,
            *("-name", f"iommu-{self.machine.name}", *ALONE, "-display", "none"),
            *self.board,
            *("-kernel", self.kernel, "-initrd", self.initrd),
            *(("-dtb", tree) if tree else ()),
            *("-append", self.words),
            *console,
            *self.parts(ends),
            *self.clock,
            *self.arguments,
        ]

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


def _file(fd: int | None) -> str:
    """A path of an inherited descriptor, for QEMU."""
    return f"/proc/self/fd/{fd}"


def require_memory(boot: Boot) -> None:
    """SetupError if there is too little memory for a guest."""
    have = available_memory()
    need = boot.machine.memory + HEADROOM
    if have is not None and have < need:
        what = f"machine {boot.machine.name} needs {need >> 20} MiB, {have >> 20} MiB are available"
        raise SetupError(f"{what}\ncommand: {' '.join(boot.command(()))}")


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
        require_memory(boot)
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
        sockets = [one.detach() for one in (qmp, qtest, agent, gdb)]
        ends = Ends.of(_file(ram), [f"fd={fd}" for fd in sockets], _file(trace) if traced else "")
        console = ("-chardev", f"file,id=console,path={_file(record)}", "-serial", "chardev:console")
        argv = boot.command(console, ends, _file(tree) if board else "")
        log.debug("%s", shlex.join(argv))
        files = [ram, record, tree, *([] if trace is None else [trace])]
        try:
            child = Child(argv, [*files, *sockets], boot.env)
        except SetupError as error:
            wires.close()
            raise SetupError(f"{error.message}\ncommand: {' '.join(argv)}") from error
        try:
            return VirtualGuest(boot.machine, child, wires, host_time=not boot.icount)
        except OSError as error:
            child.close()
            wires.close()
            raise SetupError(f"cannot map the guest's RAM: {error}") from error
