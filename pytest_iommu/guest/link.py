# SPDX-License-Identifier: GPL-2.0-only
"""Bytes over a line that loses and garbles characters, and that a kernel prints to in between.

Each piece goes as a line of text; agent/link.h says what is in it, and is the other end. A piece is sent again until
it is acknowledged. All that is no such line is the console's: what the kernel says comes out as it went in, without
the remains of lines that it broke. Nothing here reads, writes or looks at a clock.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections import deque
from dataclasses import dataclass

DATA, END, ACK, AGAIN, PING, QUIT = b"D", b"E", b"A", b"N", b"P", b"Q"
PIECE = 192
"""Bytes of a piece."""
WINDOW = 8
"""Pieces that may be on their way."""
LINE = 23 + PIECE // 3 * 4
"""Characters of a line with a whole piece."""
LONGEST = 4096
"""Characters after which a line of the console is passed on unfinished."""

_LINE = re.compile(rb"(.{4})([DEANPQ])([0-9a-f]{4})([0-9a-f]{4})([0-9A-Za-z+/]*={0,2})([0-9a-f]{8})")
_STAMP = re.compile(rb"\[ *\d+\.\d{6}\]")
"""How the kernel begins a line (printk.time)."""
_OURS = re.compile(rb"[0-9A-Za-z+/=]*")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that came whole."""

    session: bytes
    kind: bytes
    number: int
    due: int
    payload: bytes


def encode(session: bytes, kind: bytes, number: int = 0, due: int = 0, payload: bytes = b"") -> bytes:
    """A line."""
    body = b"%s%s%04x%04x%s" % (session, kind, number, due, base64.b64encode(payload))
    return b"~%s%08x\n" % (body, zlib.crc32(body))


def decode(text: bytes) -> Line | None:
    """What is between the ~ and the end of a line; None when that is not whole."""
    found = _LINE.fullmatch(text)
    if found is None or zlib.crc32(text[:-8]) != int(found[6], 16):
        return None
    try:
        payload = base64.b64decode(found[5], validate=True)
    except binascii.Error:
        return None
    return Line(found[1], found[2], int(found[3], 16), int(found[4], 16), payload)


class Console:
    """Tells lines of a link from what else comes."""

    def __init__(self, session: bytes) -> None:
        begun = b"|".join(session[:length] for length in range(len(session)))
        self._ours = re.compile(b"~(?:%s[0-9A-Za-z+/=]*|(?:%s)(?=%s))" % (session, begun, _STAMP.pattern))
        self._rest = b""
        self._head: bytes | None = None
        self.text = bytearray()
        """The console's, to be taken."""
        self.broken = 0
        """How many lines of the link were no use so far."""

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are whole now."""
        *texts, self._rest = (self._rest + data).split(b"\n")
        found = [line for line in map(self._line, texts) if line is not None]
        if len(self._rest) > LONGEST:
            self.text += self._rest
            self._rest = b""
        return found

    def finish(self) -> None:
        """Nothing more comes: what has begun is the console's as well."""
        self.text += self._without_ours(self._rest)
        self._rest = b""

    def _line(self, text: bytes) -> Line | None:
        before, tilde, after = text.rpartition(b"~")
        if tilde:
            line = decode(after)
            if line is not None:
                self._head = None
                self.text += self._without_ours(before)
                return line
        elif self._head is not None and _OURS.fullmatch(text):
            # The rest of a line that the kernel broke in two.
            line, self._head = decode(self._head + text), None
            self.broken -= line is not None
            return line
        own = self._ours.search(text)
        if own is None:
            self.text += text + b"\n"
            return None
        self.broken += 1
        self._head = own[0][1:]
        self.text += self._without_ours(text)
        return None

    def _without_ours(self, text: bytes) -> bytes:
        """What of the console is in a broken line: all from the kernel's time stamp on, else what has blanks."""
        own = self._ours.search(text)
        if own is None:
            return text
        before, rest = text[: own.start()], text[own.end() :]
        stamp = _STAMP.search(rest)
        if stamp is not None:
            rest = rest[stamp.start() :]
        elif b" " not in rest.strip():
            rest = b""
        return b"".join(part + b"\n" for part in (before, rest) if part)


class Link:
    """One end. ``patience``: seconds after which all that was not acknowledged is sent again.

    Times are seconds of any clock that goes on. ``out`` are lines to be written and ``received`` is what came: who
    owns the link takes from both.
    """

    def __init__(self, session: bytes, patience: float) -> None:
        self.session = session
        self.patience = patience
        self.out = bytearray()
        self.received = bytearray()
        self.console = Console(session)
        self.ended = False
        """The other end sends nothing any more."""
        self.last = b""
        """What its end came with: the exit status of its shell, in digits."""
        self.heard: float | None = None
        """When a line of the other end came last."""
        self.again = 0
        """How many pieces were sent again."""
        self._pieces: deque[tuple[bytes, bytes]] = deque()
        self._first = 0
        self._due = 0
        self._sent = 0.0
        self._complained: float | None = None

    @property
    def room(self) -> bool:
        """Whether a piece can be sent."""
        return len(self._pieces) < WINDOW

    @property
    def idle(self) -> bool:
        """Whether the other end has all that was sent."""
        return not self._pieces

    def feed(self, data: bytes, now: float) -> None:
        """What came over the line."""
        broken = self.console.broken
        for line in self.console.feed(data):
            self._take(line, now)
        if self.console.broken > broken:
            self._complain(now)

    def send(self, data: bytes, now: float, kind: bytes = DATA) -> None:
        """Send a piece, of PIECE bytes at most; there has to be room."""
        assert self.room
        assert len(data) <= PIECE
        if not self._pieces:
            self._sent = now
        self._pieces.append((kind, data))
        self._put(kind, self._first + len(self._pieces) - 1, data)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._put(PING)

    def tick(self, now: float) -> None:
        """Send again what was not answered; to be called now and then."""
        if self.out:
            self._sent = now
        elif self._pieces and now - self._sent >= self.patience:
            self._send_again(now)

    def _put(self, kind: bytes, number: int = 0, payload: bytes = b"") -> None:
        self.out += encode(self.session, kind, number & 0xFFFF, self._due, payload)

    def _take(self, line: Line, now: float) -> None:
        if line.session != self.session:
            return
        self.heard = now
        self._acknowledged(line.due, now)
        if line.kind in (DATA, END):
            self._piece(line, now)
        elif line.kind == AGAIN:
            self._send_again(now)
        elif line.kind == PING:
            self._put(ACK)

    def _piece(self, line: Line, now: float) -> None:
        ahead = (line.number - self._due) & 0xFFFF
        if 0 < ahead < WINDOW:
            self._complain(now)
            return
        self._complained = None
        if ahead == 0:
            self._due = (self._due + 1) & 0xFFFF
            if line.kind == END:
                self.ended, self.last = True, line.payload
            else:
                self.received += line.payload
        # Else it came before, and its acknowledgement was lost.
        self._put(ACK)

    def _acknowledged(self, due: int, now: float) -> None:
        count = (due - self._first) & 0xFFFF
        if 0 < count <= len(self._pieces):
            self._first = due
            self._sent = now
            for _ in range(count):
                self._pieces.popleft()

    def _complain(self, now: float) -> None:
        """Once for a hole: what was on its way behind it comes, too. The complaint may be lost."""
        if self._complained is None or now - self._complained >= self.patience:
            self._put(AGAIN)
            self._complained = now

    def _send_again(self, now: float) -> None:
        self._sent = now
        self.again += len(self._pieces)
        for at, (kind, data) in enumerate(self._pieces):
            self._put(kind, self._first + at, data)
