# SPDX-License-Identifier: GPL-2.0-only
"""A machine that we did not start and cannot look into: an agent at the other end of a child's stdin and stdout.

There is no console. What the kernel says comes with the agent's answers (/dev/kmsg), and once the agent is gone by
asking the machine for its log, if it still answers.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.process import Child, finished
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.guest import ops as operations
from pytest_iommu.guest.channel import Channel, ChannelError, ChannelTimeout
from pytest_iommu.guest.console import TAINT_MASK, Splat, scan, taint_words
from pytest_iommu.guest.ops import Code

TAIL = 16384
KEPT = 4 << 20

_STAMP = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\]")
_WORD = re.compile(r"[\w-]+")


class AgentGuest:
    """A machine through its agent.

    ``log`` gives the whole kernel log of the machine, without the agent, or an empty text where it does not answer any
    more. ``absent`` maps devices that the tests know and the machine does not have to the reason: a test that gives
    the test module a command with one is skipped.
    """

    memory = None
    host_time = False
    """Whether it is a guest of this host, and its clock the host's: that goes on while we both stand still."""

    def __init__(self, name: str, child: Child, agent: Channel, log: Callable[[], str]) -> None:
        self.name = name
        self.child = child
        self.hello: dict[str, str] = {}
        self.kernel = ""
        """In words, for reports."""
        self.absent: dict[str, str] = {}
        self.module = ""
        """The module that has to go with us."""
        self._agent = agent
        self._log = log
        self._since = 0.0
        self._said = ""
        self._taint = 0
        self._splat: Splat | None = None
        self._closed = False
        self._last = Evidence()

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO, ``timeout`` in seconds. SetupError when none comes."""
        try:
            self.hello = self._agent.hello(timeout)
            (up,) = self._agent.run([operations.read_file("/proc/uptime")], timeout).results
        except ChannelError as error:
            self.child.wait(1.0)
            raise SetupError(f"no agent on {self.name}: {error}{self._stderr()}", self.evidence()) from error
        self._since = float(up.data.split()[0]) if up.ok else 0.0
        self._taint = int(self.hello.get("taint", "0"), 0)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run a batch. ``timeout`` is in seconds. Skips the test when the batch is about a device that is not there."""
        __tracebackhide__ = True
        if self._closed:
            raise GuestLost(f"the connection to {self.name} was closed", self._last)
        self._look_for_devices(ops)
        try:
            reply = self._agent.run(ops, timeout)
        except ChannelTimeout:
            raise self._hang(f"the agent did not answer within {timeout:g} s") from None
        except ChannelError as error:
            raise self._ended("while it ran a batch", error) from None
        if self.host_time and self._agent.stood_still:
            raise GuestLost(self._agent.stood_still, self.evidence())
        self._said = (self._said + reply.kmsg)[-KEPT:]
        splat = scan(reply.kmsg)
        bad = reply.taint & ~self._taint & TAINT_MASK
        # It is not booted again: the next guest is the same kernel, and what it was tainted by is not its fault.
        self._taint |= bad
        if splat is None and bad:
            splat = Splat("taint", f"the kernel is tainted: {taint_words(bad)}", reply.kmsg)
        if splat is not None:
            raise self._crash(splat, "while it ran a batch")
        return reply

    def pause(self) -> None:
        """It is not ours to stop."""

    def close(self) -> None:
        """Take the module out if it is ours, and end the agent; never raises, may be called twice."""
        if self._closed:
            return
        if self.module:
            self._unload()
        self._last = self.evidence()
        self._closed = True
        # Its end of file ends the agent, and whoever started it tidies up.
        self._agent.close()
        self.child.wait(5.0)
        self.child.close()

    def evidence(self) -> Evidence:
        """What is known of it; after close() as it was then."""
        if self._closed:
            return self._last
        files = {"kmsg.txt": self._said.encode()}
        if stderr := self.child.stderr().strip():
            files["stderr.txt"] = stderr.encode()
        command = shlex.join(self.child.argv)
        output = self._agent.output.decode("utf-8", "backslashreplace")
        return Evidence(command, self._said[-TAIL:], self._splat.text if self._splat else "", output, files)

    def _look_for_devices(self, ops: Iterable[Op]) -> None:
        if not self.absent:
            return
        for op in ops:
            if op.code == Code.WRITE_FILE and op.path.endswith("/control"):
                missing = self.absent.keys() & set(_WORD.findall(op.data.decode("utf-8", "replace")))
                for name in sorted(missing):
                    pytest.skip(f"needs {name}: {self.absent[name]}")

    def _unload(self) -> None:
        try:
            (gone,) = self._agent.run([operations.rmmod(self.module)], 10.0).results
        except ChannelError:
            return  # the machine is gone, or hangs: that was said
        if not gone.ok:
            errno = operations.errno_name(gone.value)
            warnings.warn(f"{self.module} stays loaded on {self.name}: {errno}", stacklevel=2)

    def _stderr(self) -> str:
        said = self.child.stderr().strip()
        return f"; it said: {said}" if said else ""

    def _crash(self, splat: Splat, when: str) -> KernelCrash:
        self._splat = splat
        return KernelCrash(f"{splat.kind} {when}: {splat.title}", self.evidence())

    def _ended(self, when: str, cause: Exception) -> IommuError:
        """The agent is gone: an oops may have ended it alone, a panic all of the machine."""
        self.child.wait(2.0)
        splat = self._late_splat()
        if splat is not None:
            return self._crash(splat, when)
        return GuestLost(f"lost {self.name} {when}: {cause}{self._stderr()}", self.evidence())

    def _hang(self, what: str) -> IommuError:
        log = self._log()
        if not log:
            return GuestLost(f"{what}, and {self.name} does not answer otherwise{self._stderr()}", self.evidence())
        splat = scan(self._new(log))
        if splat is not None:
            return self._crash(splat, "and then hung")
        return KernelHang(f"{what}; {self.name} still answers otherwise", self.evidence())

    def _late_splat(self) -> Splat | None:
        new = self._new(self._log())
        self._said = new[-KEPT:] or self._said
        return scan(self._said)

    def _new(self, log: str) -> str:
        """The part of a log, stamped with seconds since boot, that is from our time."""
        lines = log.splitlines(keepends=True)
        for number, line in enumerate(lines):
            stamp = _STAMP.match(line)
            if stamp is not None and float(stamp[1]) >= self._since:
                return "".join(lines[number:])
        return ""


class RunningHost(ABC):
    """A machine that runs already, reached by a program of this one."""

    name: str
    booted = False
    tree: Path | None = None

    @abstractmethod
    def argv(self, command: str) -> list[str]:
        """What runs a line of shell there, its stdin and stdout being ours."""

    def open(self, command: str) -> tuple[Child, socket.socket]:
        """Run a line of shell there."""
        ours, theirs = socket.socketpair()
        try:
            return Child(self.argv(command), wire=theirs.detach()), ours
        except BaseException:
            ours.close()
            raise

    def guest(self, child: Child, agent: Channel) -> AgentGuest:
        """The machine through the agent that is at the other end now."""
        return AgentGuest(self.name, child, agent, self._log)

    def broken(self, child: Child, what: str) -> IommuError:
        """Nothing more is known of it."""
        return SetupError(what)

    def _log(self) -> str:
        """The machine's kernel log over a connection of its own; empty when it does not answer."""
        try:
            done = finished(self.argv("dmesg"), timeout=10)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.decode("utf-8", "replace")
