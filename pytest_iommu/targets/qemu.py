# SPDX-License-Identifier: GPL-2.0-only
"""The qemu target: a machine of qemu-images/ with a kernel under test.

Everything QEMU is connected by is a file descriptor it inherits: socketpairs for QMP and agent, memfds for RAM and
console. So there are no paths, no ports and no leftovers, and QEMU's death is an end of file at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_iommu.guest.channel import Channel
from pytest_iommu.guest.process import Child, available_memory
from pytest_iommu.guest.qmp import Qmp
from pytest_iommu.guest.virtual import VirtualGuest
from pytest_iommu.outcomes import IommuError, SetupError

if TYPE_CHECKING:
    from pytest_iommu.images import Artefacts, Machine
    from pytest_iommu.settings import Settings

BOOT_TIMEOUT = 120.0
"""Seconds of host time for a boot: a second on a quiet host, 8 for a debug kernel, many more on a loaded one."""

HEADROOM = 64 << 20
"""Bytes that QEMU needs beyond the guest's RAM."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One way to start a guest. ``functional``: under icount, one host thread, and devices' waits cost nothing."""

    machine: Machine
    program: Sequence[str]
    kernel: str
    initrd: str
    append: str = ""
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    functional: bool = True

    def command(self, ram: int | None, console: Sequence[str], qmp: int | None, agent: int | None) -> list[str]:
        """QEMU's command line; ``ram``, ``qmp`` and ``agent`` are descriptors that QEMU inherits, or not to be had."""
        machine = self.machine
        backend = "memory-backend-ram,id=ram" if ram is None else "memory-backend-file,id=ram,share=on"
        where = "" if ram is None else f",mem-path=/proc/self/fd/{ram}"
        argv = [
            *self.program,
            *("-name", f"iommu-{machine.name}", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", f"{machine.qemu_machine},memory-backend=ram", "-cpu", machine.cpu, "-smp", "2"),
            *("-m", f"{machine.memory >> 20}M"),
            *("-object", f"{backend},size={machine.memory}{where}"),
            *("-kernel", self.kernel, "-initrd", self.initrd),
            # An oops ends the guest: what runs on after one proves nothing. A WARN does not, it fails its own test.
            *("-append", " ".join(filter(None, [machine.append, "oops=panic", self.append]))),
            *console,
            *("-chardev", "null,id=agent" if agent is None else f"socket,id=agent,fd={agent}"),
            *("-device", f"{machine.agent.driver},id=agentbus,addr={machine.agent.slot}"),
            *("-device", "virtserialport,bus=agentbus.0,chardev=agent,name=iommu.agent"),
        ]
        if qmp is not None:
            argv += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
        if self.functional and machine.icount:
            argv += ["-icount", machine.icount]
        for device in machine.devices:
            argv += ["-device", device.argument]
        return [*argv, *self.arguments]


def boot_of(settings: Settings, machine: Machine, artefacts: Artefacts) -> Boot:
    """How the settings want this machine and kernel to be started."""
    return Boot(
        machine=machine,
        program=tuple(artefacts.qemu.argv_prefix),
        kernel=str(artefacts.image),
        initrd=str(artefacts.initrd),
        append=settings.append,
        arguments=settings.qemu_args,
        env=dict(artefacts.qemu.env),
    )


def memory_file(name: str, size: int = 0) -> int:
    """A new memfd of that many bytes."""
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
        """Boot a guest and wait for its agent. SetupError when QEMU does not start or there is too little memory."""
        boot = self.boot
        guest, started = self._spawn(), time.monotonic()
        try:
            guest.boot(self.timeout)
        except IommuError:
            guest.close()
            raise
        except BaseException:  # Ctrl-C while booting must leave nothing behind
            guest.close()
            raise
        guest.name = f"{boot.machine.name} (pid {guest.child.pid}, booted in {time.monotonic() - started:.1f} s)"
        return guest

    def _spawn(self) -> VirtualGuest:
        boot = self.boot
        have = available_memory()
        ram = memory_file("iommu-ram", boot.machine.memory)
        log = memory_file("iommu-console")
        kept = os.dup(log)
        (our_qmp, qmp), (our_agent, agent) = socket.socketpair(), socket.socketpair()
        fds = [ram, log, qmp.detach(), agent.detach()]
        console = ("-chardev", f"file,id=console,path=/proc/self/fd/{log}", "-serial", "chardev:console")
        argv = boot.command(ram, console, fds[2], fds[3])
        try:
            if have is not None and have < boot.machine.memory + HEADROOM:
                for fd in fds:
                    os.close(fd)
                need = (boot.machine.memory + HEADROOM) >> 20
                raise SetupError(f"machine {boot.machine.name} needs {need} MiB, {have >> 20} MiB are available")
            child = Child(argv, fds, boot.env)
        except SetupError as error:
            os.close(kept)
            our_qmp.close()
            our_agent.close()
            raise SetupError(f"{error.message}\ncommand: {' '.join(argv)}") from error
        return VirtualGuest(boot.machine.name, child, Channel(our_agent), Qmp(our_qmp), kept)
