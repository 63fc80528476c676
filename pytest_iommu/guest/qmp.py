# SPDX-License-Identifier: GPL-2.0-only
"""A QMP client over a connected socket: synchronous, because a test has nothing else to do meanwhile.

qemu.qmp is not used: its synchronous API ignores timeouts while connecting and costs twice the time a command.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any


class QmpError(Exception):
    """QEMU is gone, did not answer in time, or refused the command."""


class QmpTimeout(QmpError):
    """QEMU said nothing in time."""


@dataclass(frozen=True, slots=True)
class Event:
    """What QEMU tells unasked, e.g. ``DEVICE_DELETED`` with the device's id in ``data``."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


class Qmp:
    """One QMP connection. Events that came meanwhile are kept in ``events``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._greeted = False
        self.events: list[Event] = []

    def command(self, name: str, timeout: float = 5.0, **arguments: Any) -> Any:
        """Execute a command and return what it returns; ``timeout`` in seconds."""
        deadline = time.monotonic() + timeout
        if not self._greeted:
            self._message(deadline)
            self._exchange({"execute": "qmp_capabilities"}, deadline)
            self._greeted = True
        return self._exchange({"execute": name, "arguments": arguments}, deadline)

    def monitor(self, line: str, timeout: float = 5.0) -> str:
        """Run a line of the human monitor, e.g. ``info registers``, and return its text."""
        return str(self.command("human-monitor-command", timeout, **{"command-line": line}))

    def wait(self, name: str, timeout: float, **data: Any) -> Event | None:
        """Take the first event of that name and with that data, at once or within ``timeout`` seconds; else None."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event.name == name and data.items() <= event.data.items():
                    self.events.remove(event)
                    return event
            try:
                message = self._message(deadline)
            except QmpTimeout:
                return None
            if "event" in message:
                self._note(message)

    def close(self) -> None:
        """Close the connection; QEMU itself goes on."""
        self._sock.close()

    def _exchange(self, request: dict[str, Any], deadline: float) -> Any:
        try:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.01))
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"{request['execute']}: {error}") from error
        while True:
            answer = self._message(deadline)
            if "event" in answer:
                self._note(answer)
            elif "error" in answer:
                raise QmpError(f"{request['execute']}: {answer['error'].get('desc')}")
            elif "return" in answer:
                return answer["return"]

    def _note(self, message: dict[str, Any]) -> None:
        self.events.append(Event(str(message["event"]), dict(message.get("data", {}))))

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                self._sock.settimeout(max(deadline - time.monotonic(), 0.01))
                data = self._sock.recv(65536)
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
