# SPDX-License-Identifier: GPL-2.0-only
"""The vng target: virtme-ng boots a kernel with this machine's file system, behind an emulated VT-d.

virtme-ng is called as a program. Its exit status is meaningless: without udev in the guest it is always 255. So a port
of our own leads to a shell in the guest, which is used like one on a machine that is running already.
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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import IommuError, KernelHang, SetupError
from pytest_iommu.core.process import Child, guarded
from pytest_iommu.core.waiting import Deadline, ready
from pytest_iommu.guest.console import Console
from pytest_iommu.images import bootimage
from pytest_iommu.targets import kvm
from pytest_iommu.targets.running import line
from pytest_iommu.targets.stdio import RATE
from pytest_iommu.targets.with_console import ConsoleChild, ConsoleGuest, blamed, evidence

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.guest.channel import Channel
    from pytest_iommu.images.qemu_binary import Qemu

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

PLACES = ("/usr/lib/modules/{}/vmlinuz", "/boot/vmlinuz-{}")
"""Paths of a distribution's kernel, by its release; vng knows the same."""

_IN_TREE = re.compile(r"(?P<tree>.*)/arch/x86/boot/bzImage")


class VngProcess(ConsoleChild):
    """vng and its child processes. ``console`` is the guest's, with the programs' output; ``folder`` is temporary.

    QEMU is vng's grandchild: a signal to vng would not reach it, one to the process group does.
    """

    def __init__(self, argv: list[str], env: dict[str, str], folder: tempfile.TemporaryDirectory[str]) -> None:
        self._folder = folder
        super().__init__(guarded(argv), env=env)
        self.argv = tuple(argv)
        # QEMU opens it anew for the console; vng's later output must not overwrite its middle.
        fcntl.fcntl(self._stderr, fcntl.F_SETFL, os.O_APPEND)
        self.console = Console(self._stderr)

    def stderr(self) -> str:
        """Return nothing: stderr is part of the console."""
        return ""

    def close(self) -> None:
        """Kill the whole process group and free its resources; may be called twice."""
        if self._stderr < 0:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        super().close()
        self._folder.cleanup()


class VngGuest(ConsoleGuest):
    """A guest booted by vng: it has a console of its own."""

    host_time = True

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO. KernelCrash if the kernel reported a fault while booting."""
        super().begin(timeout)
        splat = self._console.scan_new()
        if splat is not None:
            raise self._crash(splat, "while booting")


class VngHost:
    """Boots the kernel that the settings name. SetupError if there is no kernel or no vng."""

    booted = True
    has_agent = False
    rate = RATE

    def __init__(self, settings: Settings, machine: Machine) -> None:
        if platform.machine() != "x86_64":
            raise SetupError(
                "--iommu-target=vng requires an x86_64 machine: it boots a kernel with that machine's file system"
            )
        if settings.target_argument or settings.kernel is not None or settings.series:
            raise SetupError("--iommu-target=vng builds nothing: name the kernel to boot with --iommu-image=FILE")
        # Beside the interpreter: a virtual environment need not be activated.
        self._vng = shutil.which("vng", path=os.pathsep.join((os.path.dirname(sys.executable), _path())))
        if self._vng is None:
            raise SetupError("no vng (virtme-ng) here: pip install 'pytest-iommu[vng]'")
        if settings.image is not None:
            bootimage.check(settings.image, "x86_64", memory=0)
        self._image = (settings.image or installed_kernel()).absolute()
        found = _IN_TREE.fullmatch(str(self._image))
        self.tree = Path(found["tree"]) if found and Path(found["tree"], "Makefile").is_file() else None
        self._settings = settings
        self._machine = replace(machine, name="vng", arch="x86_64", make_arch="amd64")
        self._machine = replace(self._machine, qemu_binary="qemu-system-x86_64", qemu_package="qemu-system-x86")
        self.name = f"vng ({self._image})"

    def open(self, command: str) -> tuple[VngProcess, socket.socket]:
        """Boot, and run a shell command there."""
        # An abstract name leaves nothing to remove.
        name = f"pytest-iommu-{secrets.token_hex(16)}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"\0{name}")
            server.listen(1)
            folder = tempfile.TemporaryDirectory(prefix="pytest-iommu-vng.", ignore_cleanup_errors=True)
            try:
                child = self._start(folder, name)
            except BaseException:
                folder.cleanup()
                raise
            wire = None
            try:
                wire = self._connected(server, child)
                self._booted(wire, child)
                wire.sendall(f"{command}\n".encode())
                return child, wire
            except BaseException:
                if wire is not None:
                    wire.close()
                child.close()
                raise

    def guest(self, child: Child, agent: Channel) -> VngGuest:
        """Return the guest through the agent at the other end."""
        assert isinstance(child, VngProcess)
        return VngGuest(self.name, child, agent)

    def broken(self, child: Child, what: str) -> IommuError:
        """Look in the console for a kernel report."""
        return blamed(child, SetupError(what, evidence(child)), "while booting")

    def argv(self, name: str, program: Path) -> list[str]:
        """Return vng's command line. ``name`` is the socket's, ``program`` starts QEMU."""
        image, tools = str(self._image), []
        if _IN_TREE.fullmatch(image):
            tools = ["--skip-modules"]  # otherwise it creates a directory of modules in the tree
        elif busybox := self._tools[1]:
            tools = ["--busybox", shlex.quote(str(busybox))]
        if not kvm.works(self._tools[0]):
            tools.append("--disable-kvm")
        qemu = [
            *("-machine", "q35", "-device", "intel-iommu,intremap=off"),
            *("-chardev", f"socket,id=iommu,path={name},abstract=on"),
            # Both properties are needed so that it uses VT-d: a domain that is in use.
            *("-device", "virtio-serial-pci,id=iommuports,disable-legacy=on,iommu_platform=on"),
            *("-device", "virtserialport,bus=iommuports.0,chardev=iommu,name=iommu.agent"),
            *self._settings.qemu_args,
        ]
        assert self._vng is not None
        # vng inserts the words quoted here into a shell command verbatim; it quotes the others itself.
        return [
            *(self._vng, "--run", shlex.quote(image), "--qemu", shlex.quote(str(program)), "--verbose"),
            *("--memory", "512M", "--cpus", "2", "--disable-microvm", *tools),
            *([f"--append={self._settings.append}"] if self._settings.append else []),
            *("--exec", SHELL, f"--qemu-opts={shlex.join(qemu)}"),
        ]

    @cached_property
    def _tools(self) -> tuple[Qemu, Path | None]:
        """Provide QEMU, and a static busybox where vng does not find one."""
        from pytest_iommu.images import busybox, qemu_binary
        from pytest_iommu.images.artefacts import store_at
        from pytest_iommu.images.progress import Progress

        settings, machine = self._settings, self._machine
        store, progress = store_at(settings.cache), Progress(None)

        emulator = qemu_binary.find(store, machine, settings.qemu)
        emulator = emulator or qemu_binary.fetch(store, machine, progress, settings.offline, settings.qemu)
        needed = not (_IN_TREE.fullmatch(str(self._image)) or shutil.which("busybox"))
        return emulator, busybox.find(store, machine, progress, settings.offline) if needed else None

    def _start(self, folder: tempfile.TemporaryDirectory[str], name: str) -> VngProcess:
        # A fetched QEMU is started by its own dynamic linker, but vng accepts only the path of one program.
        emulator = self._tools[0]
        program = Path(folder.name, "qemu")
        words = [*(f"{key}={value}" for key, value in emulator.env.items()), *emulator.argv_prefix]
        program.write_text(f'#!/bin/sh\nexec env {shlex.join(words)} "$@"\n')
        program.chmod(0o700)
        assert self._vng is not None
        # vng runs a program of its own by name, and leaves files in $TMPDIR when it is killed.
        env = {"PATH": os.pathsep.join((os.path.dirname(self._vng), _path())), "TMPDIR": folder.name}
        return VngProcess(self.argv(name, program), env, folder)

    def _connected(self, server: socket.socket, child: VngProcess) -> socket.socket:
        """Accept QEMU's connection to the port."""
        deadline = Deadline(START_TIMEOUT)
        while True:
            if ready(server, select.POLLIN, deadline, within=0.1):
                wire, _ = server.accept()
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


def installed_kernel() -> Path:
    """Return the running kernel, else the newest one installed. SetupError if there is no readable one."""
    running = [Path(place.format(platform.release())) for place in PLACES]
    others = {path: place for place in PLACES for path in Path("/").glob(place.format("*")[1:])}
    newest = sorted(others, key=lambda path: _numbers(path, others[path]), reverse=True)
    for path in (*running, *newest):
        if path.is_file() and os.access(path, os.R_OK):
            return path
    why = f"{newest[0]} is not readable" if newest else "no kernel is installed on this machine"
    raise SetupError(f"{why}: give --iommu-image=FILE, e.g. arch/x86/boot/bzImage of a tree")


def _numbers(path: Path, place: str) -> list[int]:
    release = str(path)[place.index("{}") :]
    return [int(word) for word in re.findall(r"\d+", release)]


def _peer(wire: socket.socket) -> int:
    """Return the user id of the process at the other end."""
    _, uid, _ = struct.unpack("3i", wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _path() -> str:
    return os.environ.get("PATH", os.defpath)
