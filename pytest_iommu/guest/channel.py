# SPDX-License-Identifier: GPL-2.0-only
"""Frames between host and agent, over a socket or a pair of pipes.

A frame is magic, type, sequence number and length (u32 each, little endian), then the payload; agent/agent.h defines
the same in C. The agent speaks first. A batch is one frame to the agent and one frame back. Programs run with
``stream`` print their output unframed before the reply, each terminated by a marker of ours. Every kind of stream
failure has its own exception. After a failure the stream may be out of step, so the channel refuses further use.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.core.waiting import Deadline, ready
from pytest_iommu.guest import ops as operations

log = logging.getLogger(__name__)

MAGIC = 0x54504D49
HELLO, BATCH, REPLY, ERROR = 1, 2, 3, 4
MAX_FRAME = 64 << 20
HEAD = struct.Struct("<4I")
PROTOCOL = "1"

LOOK = 0.5
"""Seconds without output after which a streaming guest is checked."""

STOOD_STILL = 5.0
"""Seconds: shorter than any watchdog timeout of the kernel."""


class ChannelError(Exception):
    """Base of all channel errors."""


class ChannelClosed(ChannelError):
    """The other end is closed."""


class HalfFrame(ChannelClosed):
    """The other end closed in the middle of a frame."""


class ChannelTimeout(ChannelError):
    """The answer did not arrive completely in time."""


class ProtocolError(ChannelError):
    """The data is not a frame or not the expected one, or the agent reports that ours was malformed."""


class Channel:
    """The connection to one agent, over a socket or two descriptors, which close() closes."""

    def __init__(self, stream: socket.socket | tuple[int, int]) -> None:
        """``stream``: a connected stream socket, or descriptors to read from and to write to."""
        if isinstance(stream, socket.socket):
            descriptor = stream.detach()
            self._in, self._out = descriptor, descriptor
        else:
            self._in, self._out = stream
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._printed = bytearray()
        self._ahead = bytearray()
        self._seq = 0
        self._broken = ""
        self.slow = False
        """Whether a frame may take longer than a batch does: a limit is then one for each piece of it that moves."""
        self.stood_still = ""
        """How long this process, and perhaps the guest, was stopped during the last batch; empty if not for long.

        If the guest's clock continued meanwhile, its watchdogs and time limits expired and its results cannot be
        trusted.
        """

    def hello(self, timeout: float, look: Callable[[], None] | None = None) -> dict[str, str]:
        """Wait for the agent's first frame, ``timeout`` in seconds, and return its ``key=value`` lines.

        ``look`` is called periodically meanwhile. A key that occurs several times (``error``, ``kmsg``) has its values
        joined by newlines. ProtocolError if the agent speaks another protocol.
        """
        deadline = Deadline(timeout)
        while look is not None and not ready(self._in, select.POLLIN, deadline, within=LOOK) and not deadline.over:
            look()
        kind, _, payload = self._receive(deadline)
        if kind != HELLO:
            raise self._break(ProtocolError(f"the agent's first frame has type {kind}, expected HELLO"))
        found: dict[str, str] = {}
        for line in payload.decode("utf-8", "backslashreplace").splitlines():
            key, _, value = line.partition("=")
            found[key] = f"{found[key]}\n{value}" if key in found else value
        if found.get("protocol") != PROTOCOL:
            raise self._break(ProtocolError(f"the agent speaks protocol {found.get('protocol')}, expected {PROTOCOL}"))
        return found

    def run(self, ops: Sequence[Op], timeout: float, look: Callable[[], None] | None = None) -> Reply:
        """Run a batch; ``timeout`` in seconds covers all of it. ``look`` is called periodically while it streams."""
        deadline = Deadline(timeout)
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        self._printed = bytearray()
        marker = secrets.token_hex(16).encode()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("batch %d: %s", self._seq, "; ".join(map(operations.described, ops)))
        self._send(BATCH, self._seq, operations.encode(ops, marker), deadline)
        printed = {at: self._stream(marker, deadline, look) for at, op in enumerate(ops) if operations.streams(op)}
        kind, seq, payload = self._receive(deadline)
        if kind == ERROR:
            raise self._break(ProtocolError(f"the agent reports: {payload.decode('utf-8', 'backslashreplace')}"))
        if kind != REPLY or seq != self._seq:
            what = "HELLO: it was restarted" if kind == HELLO else f"type {kind}, number {seq}"
            raise self._break(ProtocolError(f"the agent answered batch {self._seq} with a frame of {what}"))
        missed = deadline.missed
        still = f"this process was stopped or frozen for {missed:.0f} s while the guest ran a batch"
        self.stood_still = still if missed > STOOD_STILL else ""
        try:
            reply = decode_reply(payload)
        except ValueError as error:
            raise self._break(ProtocolError(f"malformed reply: {error}")) from None
        if len(reply.results) != len(ops):
            raise self._break(ProtocolError(f"{len(reply.results)} results for {len(ops)} operations"))
        if not printed:
            return reply
        results = (Result(one.value, printed.get(at, one.data)) for at, one in enumerate(reply.results))
        return replace(reply, results=tuple(results))

    @property
    def output(self) -> bytes:
        """The output so far of a streaming program in the current or the last batch."""
        return bytes(self._printed)

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        for descriptor in {self._in, self._out}:
            if descriptor >= 0:
                os.close(descriptor)
        self._in = self._out = -1
        self._broken = self._broken or "the channel was closed"

    def _break(self, error: ChannelError) -> ChannelError:
        self._broken = self._broken or str(error)
        return error

    def _usable(self) -> None:
        if self._broken:
            raise ChannelClosed(f"the channel is no longer usable: {self._broken}")

    def _send(self, kind: int, seq: int, payload: bytes, deadline: Deadline) -> None:
        self._usable()
        if len(payload) > MAX_FRAME:
            raise ProtocolError(f"a batch of {len(payload)} bytes exceeds the limit of {MAX_FRAME}")
        left = memoryview(HEAD.pack(MAGIC, kind, seq, len(payload)) + payload)
        while left:
            try:
                left = left[os.write(self._out, left) :]
                self._moved(deadline)
            except BlockingIOError:
                self._wait(self._out, select.POLLOUT, deadline, f"{len(left)} bytes of the batch could not be sent")
            except OSError as error:
                raise self._break(ChannelClosed(f"the agent's end is closed ({error.strerror})")) from None

    def _receive(self, deadline: Deadline) -> tuple[int, int, bytes]:
        """Read one frame: type, sequence number, payload."""
        self._usable()
        head = self._take(HEAD.size, deadline, "a frame header")
        magic, kind, seq, size = HEAD.unpack(head)
        if magic != MAGIC or size > MAX_FRAME:
            raise self._break(ProtocolError(f"not a frame header: {head.hex(' ', 4)}"))
        return kind, seq, bytes(self._take(size, deadline, "a frame payload"))

    def _stream(self, marker: bytes, deadline: Deadline, look: Callable[[], None] | None) -> bytes:
        """Collect the output of a program up to the marker; ``output`` grows as it arrives."""
        self._printed, self._ahead = self._ahead, bytearray()
        end = self._printed.find(marker)
        while end < 0:
            start = max(len(self._printed) - len(marker), 0)
            self._printed += self._more(deadline)
            end = self._printed.find(marker, start)
            if look is not None:
                look()
        self._ahead = self._printed[end + len(marker) :]
        del self._printed[end:]
        return self.output

    def _more(self, deadline: Deadline) -> bytes:
        """Return what the agent sent; nothing if it has been silent for a while."""
        if not ready(self._in, select.POLLIN, deadline, within=LOOK):
            if deadline.over:
                raise self._break(ChannelTimeout("timeout: a program is still running"))
            return b""
        try:
            got = os.read(self._in, 65536)
        except OSError as error:
            raise self._break(ChannelClosed(f"the agent's end is closed ({error.strerror})")) from None
        if not got:
            raise self._break(ChannelClosed("the agent's end is closed"))
        return got

    def _take(self, size: int, deadline: Deadline, what: str) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        have = min(size, len(self._ahead))
        data[:have] = self._ahead[:have]
        del self._ahead[:have]
        while have < size:
            try:
                got = os.readv(self._in, [view[have:]])
            except BlockingIOError:
                self._wait(self._in, select.POLLIN, deadline, f"received {have} of {size} bytes of {what}")
                continue
            except OSError as error:
                raise self._ended(have, size, what, f" ({error.strerror})") from None
            if got == 0:
                raise self._ended(have, size, what)
            have += got
            self._moved(deadline)
        return data

    def _moved(self, deadline: Deadline) -> None:
        if self.slow:
            deadline.restart()

    def _ended(self, have: int, size: int, what: str, why: str = "") -> ChannelError:
        if have or "payload" in what:
            return self._break(HalfFrame(f"the stream ended after {have} of {size} bytes of {what}{why}"))
        return self._break(ChannelClosed(f"the agent's end is closed{why}"))

    def _wait(self, descriptor: int, event: int, deadline: Deadline, state: str) -> None:
        if not ready(descriptor, event, deadline):
            raise self._break(ChannelTimeout(f"timeout: {state}"))


def decode_reply(payload: bytes) -> Reply:
    """Parse a REPLY's payload: taint, kernel messages, count, value and data of each result. ValueError."""
    try:
        taint, size = struct.unpack_from("<II", payload, 0)
        kmsg = payload[8 : 8 + size].decode("utf-8", "backslashreplace")
        at = 8 + size
        (count,) = struct.unpack_from("<I", payload, at)
        at += 4
        results: list[Result] = []
        for _ in range(count):
            value, size = struct.unpack_from("<iI", payload, at)
            at += 8 + size
            if at > len(payload):
                raise ValueError(f"result {len(results)} is truncated")
            results.append(Result(value, payload[at - size : at]))
    except struct.error as error:
        raise ValueError(str(error)) from None
    if at != len(payload):
        raise ValueError(f"{len(payload) - at} bytes after the last result")
    return Reply(tuple(results), taint, kmsg)
