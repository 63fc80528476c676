# SPDX-License-Identifier: GPL-2.0-only
"""A QMP client over a connected socket: synchronous, because a test has nothing else to do meanwhile.

qemu.qmp is not used: its synchronous API ignores timeouts while connecting and takes twice the time per command.
"""

from __future__ import annotations

import json
import logging
import socket
from dataclasses import dataclass, field
from typing import Any

from pytest_iommu.core.waiting import Deadline, receive, send

log = logging.getLogger(__name__)


class QmpError(Exception):
    """QEMU is gone, did not answer in time, or refused the command."""


class QmpTimeout(QmpError):
    """QEMU sent nothing in time."""


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """An asynchronous QMP event, e.g. ``DEVICE_DELETED`` with the device's id in ``data``."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Qmp:
    """One QMP connection. Events that arrive meanwhile are kept in ``events``.

    Every command has an id, which QEMU repeats in the answer. An answer that arrives after its command timed out is
    dropped, not taken for the answer to the next command.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._number = 0
        self._greeted = self._asked = self._negotiated = False
        self._broken = ""
        self.events: list[QmpEvent] = []

    def command(self, name: str, timeout: float = 5.0, **arguments: Any) -> Any:
        """Execute a command and return what it returns; ``timeout`` in seconds."""
        deadline = Deadline(timeout)
        while not self._negotiated:
            if self._greeted and not self._asked:
                self._send("qmp_capabilities", {}, deadline)
                self._asked = True
            self._take(self._message(deadline))
        self._send(name, arguments, deadline)
        return self._answer(name, deadline)

    def monitor(self, line: str, timeout: float = 5.0) -> str:
        """Run a line of the human monitor, e.g. ``info registers``, and return its text."""
        return str(self.command("human-monitor-command", timeout, **{"command-line": line}))

    def wait(self, name: str, timeout: float, **data: Any) -> QmpEvent | None:
        """Take the first event with that name and data, waiting up to ``timeout`` seconds; None if there is none."""
        deadline = Deadline(timeout)
        while True:
            for event in self.events:
                if event.name == name and data.items() <= event.data.items():
                    self.events.remove(event)
                    return event
            try:
                self._take(self._message(deadline))
            except QmpTimeout:
                return None

    def close(self) -> None:
        """Close the connection; QEMU continues to run."""
        self._sock.close()

    def _send(self, name: str, arguments: dict[str, Any], deadline: Deadline) -> None:
        if self._broken:
            raise QmpError(f"{name}: {self._broken}")
        self._number += 1
        log.debug("%s %s", name, arguments or "")
        request = {"execute": name, "arguments": arguments, "id": self._number}
        try:
            send(self._sock, json.dumps(request).encode() + b"\n", deadline)
        except OSError as error:
            # Half a command may have been sent; the next one would complete it.
            self._broken = f"a command could not be sent: {error}"
            raise QmpError(f"{name}: {error}") from error

    def _answer(self, name: str, deadline: Deadline) -> Any:
        """Return QEMU's answer to the last command."""
        while True:
            answer = self._message(deadline)
            if answer.get("id") != self._number:
                self._take(answer)
            elif "error" in answer:
                raise QmpError(f"{name}: {answer['error'].get('desc')}")
            else:
                return answer.get("return")

    def _take(self, message: dict[str, Any]) -> None:
        """Handle a message that does not answer the last command: the greeting, an event, or a late answer."""
        if "QMP" in message:
            self._greeted = True
        elif "event" in message:
            self.events.append(QmpEvent(str(message["event"]), dict(message.get("data", {}))))
        elif "id" not in message or (not self._negotiated and "error" in message):
            raise QmpError(f"QEMU did not understand the command: {message.get('error', message)}")
        else:
            self._negotiated = True  # the very first answer

    def _message(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = receive(self._sock, 65536, deadline)
            except TimeoutError as error:
                raise QmpTimeout(f"no answer from QEMU: {error}") from error
            except OSError as error:
                raise QmpError(f"no answer from QEMU: {error}") from error
            if not data:
                raise QmpError("QEMU closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message
