# SPDX-License-Identifier: GPL-2.0-only
"""A running machine with a shell: the agent is copied to it, and the test module is loaded into its kernel.

Everything uses one connection: a shell command there reads files of known size from stdin, and becomes the agent.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import socket
import tarfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.boot_modes import FUNCTIONAL
from pytest_iommu.core.machines import DRIVERS
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Guest
from pytest_iommu.core.waiting import Deadline, receive, send
from pytest_iommu.guest import ops, refusal
from pytest_iommu.guest.channel import Channel
from pytest_iommu.targets.stdio import AgentGuest

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_iommu.core.key import Key
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.outcomes import IommuError
    from pytest_iommu.core.process import Child
    from pytest_iommu.core.protocol import Result
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.images.store import Store, StoreEntry

DEBUGFS = "/sys/kernel/debug"
FILESYSTEMS = "/proc/filesystems"
MODULE = "iommu_ptdump_test"
KO = f"{MODULE}.ko"
SOURCES = "module.tar.gz"
HEADERS = "/lib/modules/{}/build"
"""A kernel's build directory, by its release."""

CONNECT_TIMEOUT = 30.0
BUILD_TIMEOUT = 600

# One line of words that csh accepts as well. Each file is sent after the previous one was taken, because busybox's head
# reads more than its limit if there is more.
SCRIPT = (
    'D=$(mktemp -d "${TMPDIR:-/tmp}/pytest-iommu.XXXXXX") || exit; '
    "trap 'rm -rf \"$D\"' EXIT; trap 'exit 1' HUP INT TERM; "
    'echo pytest-iommu $(id -u) $(uname -m) "$D"; cat /proc/version; '
    f"echo $(test -d /sys/module/{MODULE} && echo loaded); "
    'while read -r size name && test -n "$name"; do head -c "$size" > "$D/$name" || exit; echo taken; done; '
    'test -e "$D/agent" || ln -s "$IOMMU_AGENT" "$D/agent"; chmod 700 "$D/agent"; "$D/agent" --stdio'
)

ARCHES = {
    "aarch64": ("arm64", "aarch64-linux-gnu-"),
    "x86_64": ("amd64", "x86_64-linux-gnu-"),
    "riscv64": ("riscv64", "riscv64-linux-gnu-"),
}
"""The output of `uname -m`, Debian's name of it, and the prefix of its cross compiler."""


class Reached(Guest, Protocol):
    """A guest that a host has reached. ``module`` is the one to remove at the end."""

    hello: dict[str, str]
    kernel: str
    module: str

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO."""


class Host(Protocol):
    """How to reach a machine.

    ``booted``: each guest is a boot of its own, of the machine and in the mode that is asked for; otherwise one boot of
    whatever is there serves all guests.
    """

    name: str
    booted: bool
    tree: Path | None
    """The build directory of its kernel, if that is on this machine."""
    module: Path | None
    """The test module for its kernel, if that is known before the machine is reached."""
    has_agent: bool
    """Whether the agent is on the host before anything is sent, as $IOMMU_AGENT."""
    rate: float
    """Bytes per second that the connection carries, at least."""

    def open(self, command: str) -> tuple[Child, socket.socket]:
        """Run a shell command there; returns the local process that lives as long, with its stdin and stdout."""

    def guest(self, child: Child, agent: Channel) -> Reached:
        """Called when that shell command has become the agent."""

    def broken(self, child: Child, what: str) -> IommuError:
        """Return the error text if the connection breaks before the agent has started."""


@dataclass(frozen=True, slots=True)
class There:
    """What the machine reports before files are sent: ``folder`` is for our files."""

    uid: str
    arch: str
    folder: str
    version: str
    loaded: bool = False
    """Whether it has the test module: then nobody needs to send it one."""


class RunningTarget:
    """A machine that a host reaches. ``page`` is the kernel page size in bytes that the tests assume."""

    def __init__(self, host: Host, settings: Settings, machine: Machine, key: Key, page: int, workers: int = 1) -> None:
        self.name = host.name
        self._host = host
        self._settings = settings
        self._machine = machine
        self._key = key
        self._page = page
        self._workers = workers
        self._no_dump = ""

    def start(self) -> Reached:
        """Connect and load the module. SetupError if that fails; skips what a machine that runs already cannot be."""
        if not self._host.booted:
            self._check_key()
        if self._no_dump:
            pytest.skip(self._no_dump)
        guest = self._connect()
        try:
            self._look(guest)
            self._load(guest)
            if isinstance(guest, AgentGuest):
                self._devices(guest)
        except BaseException:
            guest.close()
            raise
        return guest

    def _check_key(self) -> None:
        if self._key.boot_mode != FUNCTIONAL:
            pytest.skip(f"needs a guest booted in mode {self._key.boot_mode}: {self.name} is not booted")
        only = f"{self._settings.machine}/{self._settings.flavour}"
        if str(self._key) != only:
            pytest.skip(f"needs {self._key}: {self.name} is a single machine, and stands for {only}")
        if self._workers > 1:
            raise SetupError(f"there is only one {self.name} with one test module: run without -n")

    def _connect(self) -> Reached:
        child, ours = self._host.open(SCRIPT)
        guest = None
        try:
            there = self._greeted(ours, child)
            if there.uid != "0":
                raise SetupError(f"the user id on {self.name} is {there.uid}, but the agent has to be root")
            self._there = there
            for name, data in self._files(there).items():
                time = CONNECT_TIMEOUT + len(data) / self._host.rate
                send(ours, f"{len(data)} {name}\n".encode() + data, Deadline(time))
                if (said := line(ours, Deadline(CONNECT_TIMEOUT))) != "taken":
                    raise OSError(f"{self.name} did not accept {name}: {said}")
            send(ours, b"\n", Deadline(CONNECT_TIMEOUT))
            guest = self._host.guest(child, Channel(ours))
            guest.begin(CONNECT_TIMEOUT)
            guest.kernel = f"Linux {guest.hello['kernel']}, {there.arch}"
        except BaseException as error:
            broken = None
            if isinstance(error, (OSError, EOFError)):
                told = f"; it said: {child.stderr().strip()}" if child.stderr().strip() else ""
                broken = self._host.broken(child, f"{self.name} does not accept files: {error}{told}")
            ours.close()
            if guest is not None:
                guest.close()
            child.close()
            if broken is not None:
                raise broken from error
            raise
        return guest

    def _greeted(self, ours: socket.socket, child: Child) -> There:
        """Read what the machine reports; a login shell's greeting before that is skipped."""
        deadline = Deadline(CONNECT_TIMEOUT)
        words: list[str] = []
        try:
            while words[:1] != ["pytest-iommu"] or len(words) != 4:
                words = line(ours, deadline).split(maxsplit=3)
            return There(words[1], words[2], words[3], line(ours, deadline), line(ours, deadline) == "loaded")
        except (OSError, EOFError) as error:
            child.wait(1.0)
            said = child.stderr().strip() or str(error) or "it ended at once"
            what = f"no connection to {self.name}: {said}\ncommand: {shlex.join(child.argv)}"
            raise self._host.broken(child, what) from error

    def _files(self, there: There) -> dict[str, bytes]:
        """Return the files to send: the agent, and the module or its sources."""
        from pytest_iommu.images import agent, ready
        from pytest_iommu.images.artefacts import store_at
        from pytest_iommu.images.progress import Progress

        if there.arch not in ARCHES:
            raise SetupError(
                f"there is no agent for the architecture of {self.name}, {there.arch}, only for {', '.join(ARCHES)}"
            )
        theirs = with_arch(self._machine, there.arch)
        store = store_at(self._settings.cache)
        files = {}
        if not self._host.has_agent:
            files["agent"] = agent.build(store, theirs, Progress(None))["agent"].read_bytes()
        given = self._settings.modules
        if there.loaded:
            return files
        if self._host.module is not None:
            return {**files, KO: self._host.module.read_bytes()}
        if given is not None:
            return {**files, KO: ready.modules(store, given)[KO].read_bytes()}
        key = self._module_key(there)
        found = store.get("modules", key)
        if found is None and self._host.tree is not None:
            found = _built_here(store, key, self._host.tree, there)
        return {**files, **({KO: found[KO].read_bytes()} if found else {SOURCES: _sources()})}

    def _module_key(self, there: There) -> str:
        from pytest_iommu.images.store import digest, tree_digest

        return digest("modules", tree_digest(paths.module(MODULE)), there.arch, there.version)

    def _look(self, guest: Reached) -> None:
        """Check that there is something to test."""
        mounted, dump, kinds = guest.run(
            [ops.list_directory(DEBUGFS), ops.stat(f"{DEBUGFS}/iommu"), ops.read_file(FILESYSTEMS)]
        ).results
        if not mounted.ok or not mounted.data:
            if kinds.ok and "debugfs" not in ops.text_of(kinds).split():
                if self._host.booted and self._key.boot_mode != FUNCTIONAL:
                    return  # it was booted so
                raise SetupError(f"the kernel of {self.name} has no debugfs (CONFIG_DEBUG_FS, or debugfs=off)")
            raise SetupError(f"{self.name} has no debugfs mounted: mount -t debugfs debugfs {DEBUGFS}")
        if not dump.ok and guest.memory is None:
            kernel = guest.hello.get("kernel")
            self._no_dump = f"{self.name} runs {kernel}, which has no page-table dump: no {DEBUGFS}/iommu"
            pytest.skip(self._no_dump)
        page = int(guest.hello.get("page_size", "4096"))
        if page != self._page:
            what = f"{self.name} has {page >> 10}K pages, but the tests assume {self._page >> 10}K"
            raise SetupError(f"{what}: select with --iommu-flavour (64k, or plain)")

    def _load(self, guest: Reached) -> None:
        """Provide the test module there: loaded already, given, cached, or built over there."""
        folder = self._there.folder
        (loaded, sent) = guest.run([ops.stat(f"{DEBUGFS}/{MODULE}"), ops.stat(f"{folder}/{KO}")]).results
        if loaded.ok:
            return
        path = f"{folder}/{KO}" if sent.ok else self._build(guest, folder)
        reply = guest.run([ops.insmod(path)], 60.0)
        (done,) = reply.results
        if not done.ok:
            said = reply.kmsg.strip()
            reason = refusal.why(-done.value, said, guest.run(refusal.asked()).results)
            what = f"cannot load {KO} on {self.name}: {ops.errno_name(done.value)}"
            what += f": {reason}" if reason else ""
            raise SetupError(f"{what}\n{said}" if said else what, guest.evidence())
        if not self._host.booted:
            guest.module = MODULE

    def _build(self, guest: Reached, folder: str) -> str:
        """Build the module over there, for its running kernel, and cache it."""
        from pytest_iommu.images.artefacts import store_at

        kdir = HEADERS.format(guest.hello["kernel"])
        (there,) = guest.run([ops.stat(f"{kdir}/.")]).results
        if not there.ok:
            raise SetupError(f"{self.name} has no test module and no {kdir} to build it: give --iommu-modules")
        line = f'cd "$1" && mkdir m && tar -xzf {SOURCES} -C m && make -C {kdir} M="$1/m" modules'
        (done,) = guest.run(
            [ops.run("/bin/sh", "-c", line, "sh", folder, timeout=BUILD_TIMEOUT)], BUILD_TIMEOUT + 10.0
        ).results
        if done.value != 0:
            last = "\n".join(ops.text_of(done).splitlines()[-15:])
            raise SetupError(f"the test module does not build on {self.name} ({kdir}):\n{last}")
        built = f"{folder}/m/{KO}"
        (data,) = guest.run([ops.read_file(built)], 60.0).results
        if data.ok:
            store = store_at(self._settings.cache)
            store.put("modules", self._module_key(self._there), {KO: data.data}, {"for": self._there.version})
        return built

    def _devices(self, guest: AgentGuest) -> None:
        """Return the test devices that are missing, or behind another IOMMU than expected, with the reason."""
        listed, iommus = guest.run(
            [ops.read_file(f"{DEBUGFS}/{MODULE}/devices"), ops.list_directory("/sys/class/iommu")]
        ).results
        have = {line.split()[0] for line in ops.text_of(listed).splitlines() if line.strip()}
        if self._machine.iommu is not None and not _has_driver(iommus, self._machine.iommu.type):
            have = set()
        name = self._machine.name
        guest.absent = {
            device.name: f"{self.name} has no device like {name} behind an IOMMU"
            for device in self._machine.devices
            if device.name not in have
        }


def with_arch(machine: Machine, arch: str) -> Machine:
    """A machine as a compilation target; ``arch`` is one of ARCHES."""
    make_arch, cross = ARCHES[arch]
    return replace(machine, name=arch, arch=arch, make_arch=make_arch, cross=cross)


def _has_driver(listed: Result, iommu: str) -> bool:
    return any(name.startswith(DRIVERS[iommu].sysfs) for name in ops.text_of(listed).splitlines())


def _built_here(store: Store, key: str, tree: Path, there: There) -> StoreEntry:
    """Return the test module, built against the kernel's tree without writing to it."""
    from pytest_iommu.core import process
    from pytest_iommu.images import ready
    from pytest_iommu.images.progress import Progress

    what = f"the test module for {there.version}"
    with store.lock(f"artefacts-modules-{key}", what, Progress(None)), store.scratch("module") as work:
        found = store.get("modules", key)
        if found is not None:
            return found
        for path in ready.module_sources():
            shutil.copy(path, work)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        argv = ["make", jobs, "-C", str(tree), f"M={work}", "modules"]
        done = process.run(argv, env=process.environment_of_make(LC_ALL="C"))
        if done.status != 0:
            last = "\n".join(done.lines[-15:])
            raise SetupError(f"the test module does not build in {tree}:\n{last}")
        return store.put("modules", key, {KO: work / KO}, {"for": there.version})


def _sources() -> bytes:
    """Return the test module's sources as a packed tar file."""
    from pytest_iommu.images import ready

    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as archive:
        for path in ready.module_sources():
            archive.add(path, path.name)
    return found.getvalue()


def line(ours: socket.socket, deadline: Deadline, limit: int = 4096) -> str:
    """Read one line, and not a byte more. EOFError, TimeoutError."""
    line = b""
    while not line.endswith(b"\n") and len(line) < limit:
        byte = receive(ours, 1, deadline)
        if not byte:
            raise EOFError(line.decode("utf-8", "replace"))
        line += byte
    return line.decode("utf-8", "replace").strip()
