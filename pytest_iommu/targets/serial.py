# SPDX-License-Identifier: GPL-2.0-only
"""The serial target: a board that has a serial console, and no network.

pexpect logs in and sends the agent through the shell (console_shell.py). The agent then has the line, and a process of
ours (guest/pump.py) is to it what ssh is to a network. What is on the line besides is the kernel's console.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import GuestLost, IommuError, SetupError
from pytest_iommu.core.process import Child
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.guest.console import Console
from pytest_iommu.guest.link import LINE, WINDOW
from pytest_iommu.guest.pump import DEAD
from pytest_iommu.targets.console_shell import PASSWORD_VARIABLE, ConsoleShell
from pytest_iommu.targets.running import ARCHES, with_arch
from pytest_iommu.targets.stdio import TAIL
from pytest_iommu.targets.with_console import ConsoleChild, ConsoleGuest, blamed, evidence

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.guest.channel import Channel

USER = "root"
BAUD = 115200
BITS = 10
"""Of a character: a start bit, eight, and a stop bit."""

SEND_BUFFER = 4096
"""Bytes of a batch that are taken before they go over the line: what moves then is what the board has."""

_WHERE = re.compile(r"(?P<device>/[^,]+)(?:,(?P<baud>\d+))?")


class Pump(ConsoleChild):
    """The process that has the line. ``record`` is the file that it writes the console to, closed with it."""

    def __init__(self, argv: list[str], line: int, record: int, wire: int) -> None:
        self._record = os.dup(record)
        try:
            super().__init__(argv, fds=[line, record], wire=wire)
        except BaseException:
            os.close(self._record)
            raise
        self.console = Console(self._record)

    def close(self) -> None:
        """Kill it, wait for it, free what it held; may be called twice."""
        super().close()
        if self._record >= 0:
            os.close(self._record)
            self._record = -1


class SerialGuest(ConsoleGuest):
    """A board through its console."""

    def begin(self, timeout: float) -> None:
        """Wait for the agent's HELLO; what the kernel said until then is not held against anybody."""
        super().begin(timeout)
        self._console.scan_new()

    def _silent(self, what: str) -> IommuError:
        # The pump asks for signs of life, and ends when there are none.
        if self.child.wait(DEAD + 1) is None:
            return super()._silent(what)
        return GuestLost(f"{what}, and {self.name} does not answer otherwise{self._stderr()}", self.evidence())


class SerialHost:
    """``DEVICE[,BAUD]``, what follows ``serial:`` in --iommu-target. SetupError when it is something else."""

    booted = False
    tree: Path | None = None
    module: Path | None = None
    has_agent = True

    def __init__(self, settings: Settings, machine: Machine) -> None:
        where = settings.target_argument
        found = _WHERE.fullmatch(where)
        if found is None:
            raise SetupError(f"--iommu-target=serial:/dev/DEVICE[,BAUD], not serial:{where}")
        self.device = found["device"]
        baud = int(found["baud"] or BAUD)
        speed = getattr(termios, f"B{baud}", None)
        if speed is None or baud == 0:
            raise SetupError(f"--iommu-target=serial:{where}: no serial line has {baud} baud")
        self._speed = int(speed)
        self.name = f"serial:{where}"
        self.rate = baud / BITS
        self._settings = settings
        self._machine = machine

    @property
    def patience(self) -> int:
        """Milliseconds after which a line is sent again: twice what all that may be on its way takes."""
        return 200 + int(2000 * WINDOW * LINE / self.rate)

    def open(self, command: str) -> tuple[Pump, socket.socket]:
        """Log in, send the agent if it is not there, and run a line of shell."""
        line = self._opened()
        try:
            session = secrets.token_hex(2).encode()
            with os.fdopen(os.memfd_create("console", os.MFD_CLOEXEC), "w+b", buffering=0) as record:
                try:
                    self._arrive(ConsoleShell(self.name, line, record, self.rate), session, command)
                except SetupError as error:
                    error.evidence = Evidence(self.name, Console(record.fileno()).tail(TAIL))
                    raise
            return self._pump(line, session)
        finally:
            os.close(line)

    def guest(self, child: Child, agent: Channel) -> SerialGuest:
        """The board through the agent that is at the other end now."""
        assert isinstance(child, Pump)
        agent.slow = True
        return SerialGuest(self.name, child, agent)

    def broken(self, child: Child, what: str) -> IommuError:
        """The console tells whether it was the kernel."""
        return blamed(child, SetupError(what, evidence(child)), "while it was connected to")

    def _opened(self) -> int:
        """The device, as a line for bytes, and ours alone."""
        try:
            line = os.open(self.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError(f"{self.device}: {error.strerror}") from error
        try:
            fcntl.flock(line, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tty.setraw(line, termios.TCSANOW)
            attributes = termios.tcgetattr(line)
            attributes[2] = attributes[2] & ~(termios.CRTSCTS | termios.CSTOPB) | termios.CLOCAL | termios.CREAD
            attributes[4] = attributes[5] = self._speed
            termios.tcsetattr(line, termios.TCSANOW, attributes)
            termios.tcflush(line, termios.TCIOFLUSH)
        except BlockingIOError as error:
            os.close(line)
            raise SetupError(f"{self.device} is used by another session") from error
        except (termios.error, OSError) as error:
            os.close(line)
            raise SetupError(f"{self.device} is no serial line: {error}") from error
        return line

    def _arrive(self, shell: ConsoleShell, session: bytes, command: str) -> None:
        """From whatever is on the console to the agent that has it."""
        from pytest_iommu.images import agent
        from pytest_iommu.images.artefacts import store_at
        from pytest_iommu.images.progress import Progress

        shell.log_in(USER, os.environ.get(PASSWORD_VARIABLE))
        arch = shell.machine()
        if arch not in ARCHES:
            raise SetupError(f"{self.name} is a {arch}: there is no agent for it, only for {', '.join(ARCHES)}")
        store, progress = store_at(self._settings.cache), Progress(None)
        built = agent.build(store, with_arch(self._machine, arch), progress)
        shell.put(built["agent"].read_bytes())
        shell.start(session, self.patience, command)

    def _pump(self, line: int, session: bytes) -> tuple[Pump, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        record = os.memfd_create("console", os.MFD_CLOEXEC)
        line = os.dup(line)
        words = map(str, (line, record, session.decode(), self.patience))
        argv = [sys.executable, "-m", "pytest_iommu.guest.pump", *words]
        try:
            child = Pump(argv, line, record, theirs.detach())
        except BaseException:
            ours.close()
            raise
        child.argv = (self.name,)
        return child, ours
