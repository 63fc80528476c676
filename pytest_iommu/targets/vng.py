# SPDX-License-Identifier: GPL-2.0-only
"""The vng target: virtme-ng boots a machine of qemu-images/ with the files of the host in place of an initramfs.

virtme-ng is called as a program. Its exit status is meaningless: without udev in the guest it is always 255. So a port
of our own leads to a shell in the guest, which is used like one on a machine that is running already.

virtme-ng starts QEMU through a script of ours, which adds the machine. It closes all descriptors before, so QEMU opens
what the qemu target hands over: files below /proc/<our pid>/fd, and sockets with abstract names.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import IommuError, KernelHang, SetupError
from pytest_iommu.core.process import Child, guarded
from pytest_iommu.core.waiting import Deadline, ready
from pytest_iommu.guest.console import Console
from pytest_iommu.guest.gdb import Gdb
from pytest_iommu.guest.qmp import Qmp
from pytest_iommu.guest.qtest import Qtest
from pytest_iommu.guest.virtual import VirtualGuest, Wires
from pytest_iommu.targets.qemu import ALONE, Boot, Ends, memory_file, require_memory
from pytest_iommu.targets.running import KO, line
from pytest_iommu.targets.stdio import RATE
from pytest_iommu.targets.with_console import ConsoleChild, blamed, evidence

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Evidence
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.guest.channel import Channel
    from pytest_iommu.images import Artefacts

ARCH = "x86_64"
"""Of the host, whose files the guest has, and so of the machines."""

START_TIMEOUT = 60.0
"""Seconds until vng has started QEMU: it looks for modules, and packs an initramfs."""

BOOT_TIMEOUT = 180.0
"""Seconds until there is a shell: a distribution's kernel takes 20 without KVM, on a quiet host."""

# Runs in the guest, and must be short because it is on the kernel's command line. Without udev the port has no symlink
# by name. The host writes only after the guest has: data for a port that is not open is lost.
SHELL = (
    "modprobe -q virtio_console;for i in 1 2 3 4 5;do for p in /sys/class/virtio-ports/*;do "
    'read -r n<$p/name;[ "$n" = iommu.agent ]&&'
    "exec sh -c 'echo ready;read -r c;eval \"$c\"' <>/dev/${p##*/} >&0;done;sleep 1;done"
)

# What virtme-ng would have the kernel find by itself; without CONFIG_BLOCK there is no name for it to try.
ROOT = "root=/dev/root"

SBIN = "/usr/sbin:/sbin"
"""Where virtme-ng looks besides PATH."""

_IN_TREE = re.compile(r"(?P<tree>.*)/arch/x86/boot/bzImage")


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors of the files that QEMU opens; ``faults`` is None on machines without a trace of refused accesses."""

    ram: int
    faults: int | None

    @classmethod
    def of(cls, boot: Boot) -> Files:
        """New ones, for a guest."""
        traced = boot.machine.iommu is not None and boot.machine.iommu.trace
        return cls(memory_file("iommu-ram", boot.machine.memory), memory_file("iommu-faults") if traced else None)

    def close(self) -> None:
        """Close them."""
        os.close(self.ram)
        if self.faults is not None:
            os.close(self.faults)


class VngProcess(ConsoleChild):
    """vng and its child processes. ``console`` is the guest's, with the programs' output; ``folder`` is temporary.

    QEMU is vng's grandchild: a signal to vng would not reach it, one to the process group does. ``kept`` has what ends
    with it, as long as no guest has taken it over.
    """

    def __init__(self, argv: list[str], env: dict[str, str], folder: tempfile.TemporaryDirectory[str]) -> None:
        self._folder = folder
        self.kept = ExitStack()
        self.files: Files | None = None
        self.monitors: tuple[socket.socket, ...] = ()
        super().__init__(guarded(argv), env=env)
        self.argv = tuple(argv)
        # QEMU opens it anew for the console; vng's later output must not overwrite its middle.
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, os.O_APPEND)
        self.console = Console(self._stderr)
        script = Path(folder.name, SCRIPT)
        self.script = script.read_bytes() if script.is_file() else b""

    def stderr(self) -> str:
        """Return nothing: stderr is part of the console."""
        return ""

    def wires(self, agent: Channel) -> Wires:
        """The connections to QEMU, which are the caller's from now on."""
        assert self.files is not None
        qmp, qtest, gdb = self.monitors
        self.kept.pop_all()
        monitor = Qmp(qmp)
        console = os.dup(self._stderr)
        return Wires(agent, monitor, Qtest(qtest), Gdb(gdb, monitor), console, self.files.ram, self.files.faults)

    def close(self) -> None:
        """Kill the whole process group and free its resources; may be called twice."""
        if self._stderr < 0:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        super().close()
        self.kept.close()
        self._folder.cleanup()


class VngGuest(VirtualGuest):
    """A guest booted by vng. ``module`` is empty: it goes with the guest."""

    module = ""

    def __init__(self, name: str, boot: Boot, child: VngProcess, wires: Wires) -> None:
        super().__init__(boot.machine, child, wires, host_time=not boot.icount)
        self.name = name
        self.kernel = ""
        self._script = child.script

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO. KernelCrash if the kernel reported a fault while booting."""
        self.boot(timeout)

    def evidence(self) -> Evidence:
        """As of any guest, with the script that starts QEMU: virtme-ng's command line lacks the machine."""
        found = super().evidence()
        return replace(found, files={**found.files, SCRIPT: self._script})


SCRIPT = "qemu.sh"
"""What virtme-ng starts in place of QEMU."""


class VngHost:
    """Boots one machine and kernel. SetupError if there is no vng."""

    booted = True
    has_agent = False
    rate = RATE

    def __init__(self, settings: Settings, boot: Boot, kernel: Artefacts) -> None:
        if platform.machine() != ARCH:
            raise SetupError(
                f"--iommu-target=vng requires an {ARCH} machine: it boots a kernel with that machine's file system"
            )
        # Beside the interpreter: a virtual environment need not be activated.
        self._vng = shutil.which("vng", path=os.pathsep.join((os.path.dirname(sys.executable), _path())))
        if self._vng is None:
            raise SetupError("no vng (virtme-ng) here: pip install 'pytest-iommu[vng]'")
        found = _IN_TREE.fullmatch(boot.kernel)
        self.tree = Path(found["tree"]) if found and Path(found["tree"], "Makefile").is_file() else None
        self.module = next((path for path in kernel.modules if path.name == KO), None)
        self._settings = settings
        self._boot = boot
        self.name = f"vng {boot.machine.name} ({boot.kernel})"

    def open(self, command: str) -> tuple[VngProcess, socket.socket]:
        """Boot, and run a shell command there."""
        require_memory(self._boot)
        with ExitStack() as mine, ExitStack() as servers:
            files = Files.of(self._boot)
            mine.callback(files.close)
            names = [f"pytest-iommu-{secrets.token_hex(16)}" for _ in range(4)]
            listening = [servers.enter_context(_listen(name)) for name in names]
            folder = tempfile.TemporaryDirectory(prefix="pytest-iommu-vng.", ignore_cleanup_errors=True)
            try:
                child = self._start(folder, self._ends(files, names))
            except BaseException:
                folder.cleanup()
                raise
            mine.callback(child.close)
            qmp, qtest, agent = (self._connected(one, child, mine) for one in listening[:3])
            # Without a gdbstub nobody comes.
            gdb = self._connected(listening[3], child, mine) if self._boot.boot_mode.gdb else _unused(mine)
            self._booted(agent, child)
            agent.sendall(f"{command}\n".encode())
            child.files, child.monitors, child.kept = files, (qmp, qtest, gdb), mine.pop_all()
            return child, agent

    def guest(self, child: Child, agent: Channel) -> VngGuest:
        """Return the guest through the agent at the other end."""
        assert isinstance(child, VngProcess)
        wires = child.wires(agent)
        try:
            return VngGuest(self.name, self._boot, child, wires)
        except OSError as error:
            wires.close()
            raise SetupError(f"cannot map the guest's RAM: {error}") from error

    def broken(self, child: Child, what: str) -> IommuError:
        """Look in the console for a kernel report."""
        return blamed(child, SetupError(what, evidence(child)), "while booting")

    def argv(self, program: Path) -> list[str]:
        """Return vng's command line. ``program`` starts QEMU."""
        boot = self._boot
        assert self._vng is not None
        # vng inserts the words quoted here into a shell command verbatim; it quotes the others itself. It is told that
        # there is no KVM, since our script says what QEMU uses. virtio-fs would bring a RAM of its own.
        return [
            *(self._vng, "--run", shlex.quote(boot.kernel), "--qemu", shlex.quote(str(program)), "--verbose"),
            *("--memory", f"{boot.machine.memory >> 20}M", "--cpus", str(boot.boot_mode.cpus)),
            *("--disable-microvm", "--disable-kvm", "--force-9p", *self._tools),
            *(f"--append={ROOT} {boot.words}", "--exec", SHELL),
        ]

    def script(self, ends: Ends) -> str:
        """Return the script that starts QEMU with the machine's parts, then virtme-ng's, for which slots remain.

        Of what both name, the last one counts: the board.
        """
        boot = self._boot
        words = [*(f"{key}={value}" for key, value in boot.env.items()), *boot.program, *ALONE, *boot.parts(ends)]
        rest = [*boot.board, *boot.clock, *boot.arguments]
        return f'#!/bin/sh\nexec env {shlex.join(words)} "$@" {shlex.join(rest)}\n'

    @cached_property
    def _tools(self) -> Sequence[str]:
        """What virtme-ng needs for the kernel's modules; it leaves those of a tree alone, to which it would write."""
        from pytest_iommu.images import busybox
        from pytest_iommu.images.artefacts import store_at
        from pytest_iommu.images.progress import Progress

        image = self._boot.kernel
        if self._settings.image is None or _IN_TREE.fullmatch(image) or not _has_modules(Path(image)):
            return ["--skip-modules"]
        if not all(shutil.which(name, path=f"{_path()}:{SBIN}") for name in ("modprobe", "depmod")):
            raise SetupError(
                "virtme-ng looks for modules with modprobe and depmod, which are not here: apt install kmod"
            )
        if shutil.which("busybox"):
            return []
        store = store_at(self._settings.cache)
        found = busybox.find(store, self._boot.machine, Progress(None), self._settings.offline)
        return ["--busybox", shlex.quote(str(found))]

    def _ends(self, files: Files, names: Sequence[str]) -> Ends:
        trace = "" if files.faults is None else _file(files.faults)
        return Ends.of(_file(files.ram), [f"path={name},abstract=on" for name in names], trace)

    def _start(self, folder: tempfile.TemporaryDirectory[str], ends: Ends) -> VngProcess:
        program = Path(folder.name, SCRIPT)
        program.write_text(self.script(ends))
        program.chmod(0o700)
        assert self._vng is not None
        # vng runs a program of its own by name, and leaves files in $TMPDIR when it is killed.
        env = {"PATH": os.pathsep.join((os.path.dirname(self._vng), _path())), "TMPDIR": folder.name}
        return VngProcess(self.argv(program), env, folder)

    def _connected(self, server: socket.socket, child: VngProcess, stack: ExitStack) -> socket.socket:
        """Accept QEMU's connection."""
        deadline = Deadline(START_TIMEOUT)
        while True:
            if ready(server, select.POLLIN, deadline, within=0.1):
                wire, _ = server.accept()
                stack.callback(wire.close)
                if _peer(wire) == os.geteuid():
                    return wire
                wire.close()  # every user can see the name
            ended = child.poll() is not None
            if ended or deadline.over:
                said = "\n".join(child.console.tail().strip().splitlines()[-5:])
                how = child.how_it_ended() if ended else f"did not start QEMU within {START_TIMEOUT:g} s"
                raise SetupError(f"no guest: vng {how}\n{said}\ncommand: {shlex.join(child.argv)}", evidence(child))

    def _booted(self, wire: socket.socket, child: VngProcess) -> None:
        """Wait for the shell."""
        try:
            said = line(wire, Deadline(BOOT_TIMEOUT))
        except TimeoutError:
            late = KernelHang(f"{self.name} did not boot within {BOOT_TIMEOUT:g} s", evidence(child))
            raise blamed(child, late, "and then hung") from None
        except (OSError, EOFError):
            child.wait(2.0)
            raise self.broken(child, f"{self.name} ended before its shell was ready") from None
        if said != "ready":
            raise SetupError(
                f"{self.name} began with unexpected output {said!r}: what uses the port iommu.agent?", evidence(child)
            )


def _has_modules(image: Path) -> bool:
    """Whether virtme-ng may find modules for an image: below a directory that the image is in, or above."""
    return any((above / "lib/modules").is_dir() or (above / "usr/lib/modules").is_dir() for above in image.parents)


def _listen(name: str) -> socket.socket:
    """A socket of an abstract name, which leaves nothing to remove."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0{name}")
    server.listen(1)
    return server


def _unused(stack: ExitStack) -> socket.socket:
    """A socket with nobody at the other end."""
    ours, theirs = socket.socketpair()
    theirs.close()
    stack.callback(ours.close)
    return ours


def _file(fd: int) -> str:
    """A path of a descriptor of ours, for QEMU."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _peer(wire: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    _, uid, _ = struct.unpack("3i", wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _path() -> str:
    return os.environ.get("PATH", os.defpath)
