# SPDX-License-Identifier: GPL-2.0-only
"""A machine that was not started here and whose memory is not accessible: an agent behind a child's stdin and stdout.

There is no console. Kernel messages come with the agent's answers (/dev/kmsg). After the agent is gone, the machine is
asked for its log, if it still answers.
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
RATE = 1e5
"""Bytes that go over a network in a second, at least."""

_STAMP = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\]")
_WORD = re.compile(r"[\w-]+")


class AgentGuest:
    """A machine through its agent.

    ``log`` returns the machine's whole kernel log without using the agent, or an empty text if it does not answer.
    ``absent`` maps missing test devices to the reason: a test that gives the test module a command for one is skipped.
    """

    memory = None
    host_time = False
    """Whether it is a guest of this host and uses the host's clock, which continues while both are stopped."""

    def __init__(self, name: str, child: Child, agent: Channel, log: Callable[[], str]) -> None:
        self.name = name
        self.child = child
        self.hello: dict[str, str] = {}
        self.kernel = ""
        """A description for reports."""
        self.absent: dict[str, str] = {}
        self.module = ""
        """The module to remove at the end."""
        self._agent = agent
        self._log = log
        self._since = 0.0
        self._said = ""
        self._taint = 0
        self._splat: Splat | None = None
        self._closed = False
        self._last = Evidence()

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO, ``timeout`` in seconds. SetupError if none arrives."""
        try:
            self.hello = self._agent.hello(timeout)
            (up,) = self._agent.run([operations.read_file("/proc/uptime")], timeout).results
        except ChannelError as error:
            self.child.wait(1.0)
            raise SetupError(f"no agent on {self.name}: {error}{self._stderr()}", self.evidence()) from error
        self._since = float(up.data.split()[0]) if up.ok else 0.0
        self._taint = int(self.hello.get("taint", "0"), 0)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run a batch. ``timeout`` is in seconds. Skips the test if the batch uses a missing device."""
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
        # It is not booted again: the next guest is the same kernel, and must not be blamed for an old taint.
        self._taint |= bad
        if splat is None and bad:
            splat = Splat("taint", f"the kernel is tainted: {taint_words(bad)}", reply.kmsg)
        if splat is not None:
            raise self._crash(splat, "while it ran a batch")
        return reply

    def pause(self) -> None:
        """Do nothing: the machine is not ours to stop."""

    def close(self) -> None:
        """Remove the module if it is ours, and end the agent; never raises, may be called twice."""
        if self._closed:
            return
        if self.module:
            self._unload()
        self._last = self.evidence()
        self._closed = True
        # The end of file ends the agent, and the shell that started it cleans up.
        self._agent.close()
        self.child.wait(5.0)
        self.child.close()

    def evidence(self) -> Evidence:
        """Return all that is known about the machine; after close(), its state at that time."""
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
            return  # the machine is gone or hangs, which has been reported
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
        """Explain the loss of the agent: an oops may have ended it alone, a panic the whole machine."""
        self.child.wait(2.0)
        splat = self._late_splat()
        if splat is not None:
            return self._crash(splat, when)
        return GuestLost(f"lost {self.name} {when}: {cause}{self._stderr()}", self.evidence())

    def _hang(self, what: str) -> IommuError:
        log = self._log()
        if not log:
            return GuestLost(
                f"{what}, and {self.name} does not answer a new connection{self._stderr()}", self.evidence()
            )
        splat = scan(self._new(log))
        if splat is not None:
            return self._crash(splat, "and then hung")
        return KernelHang(f"{what}; {self.name} still answers a new connection", self.evidence())

    def _late_splat(self) -> Splat | None:
        new = self._new(self._log())
        self._said = new[-KEPT:] or self._said
        return scan(self._said)

    def _new(self, log: str) -> str:
        """Return the part of a log, stamped with seconds since boot, that was written since we connected."""
        lines = log.splitlines(keepends=True)
        for number, line in enumerate(lines):
            stamp = _STAMP.match(line)
            if stamp is not None and float(stamp[1]) >= self._since:
                return "".join(lines[number:])
        return ""


class RunningHost(ABC):
    """A machine that is running already, reached by a program here."""

    name: str
    booted = False
    tree: Path | None = None
    module: Path | None = None
    has_agent = False
    rate = RATE

    @abstractmethod
    def argv(self, command: str) -> list[str]:
        """Return the command that runs a shell command there, connected to our stdin and stdout."""

    def open(self, command: str) -> tuple[Child, socket.socket]:
        """Run a shell command there."""
        ours, theirs = socket.socketpair()
        try:
            return Child(self.argv(command), wire=theirs.detach()), ours
        except BaseException:
            ours.close()
            raise

    def guest(self, child: Child, agent: Channel) -> AgentGuest:
        """Return the machine through the agent at the other end."""
        return AgentGuest(self.name, child, agent, self._log)

    def broken(self, child: Child, what: str) -> IommuError:
        """Nothing more is known about it."""
        return SetupError(what)

    def _log(self) -> str:
        """Return the machine's kernel log over a separate connection; empty if it does not answer."""
        try:
            done = finished(self.argv("dmesg"), timeout=10)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.decode("utf-8", "replace")
