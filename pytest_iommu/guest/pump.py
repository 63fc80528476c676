# SPDX-License-Identifier: GPL-2.0-only
"""A program that is to a serial line what ssh is to a network: its stdin and stdout are those of a shell over there.

``python -m pytest_iommu.guest.pump LINE CONSOLE SESSION PATIENCE``: descriptors of the line and of a file for what is
on it besides, and what the agent's --line was told, milliseconds for one. That is at the other end already.
"""

from __future__ import annotations

import os
import select
import sys

from pytest_iommu.core.waiting import CLOCK, TICK
from pytest_iommu.guest.link import END, PIECE, Link

FIRST = 30.0
"""Seconds until the agent has said something."""

DEAD = 15.0
"""Seconds without a character after which nobody is there: a ping was not answered, and a kernel says nothing."""

SILENT = 60.0
"""Seconds without a line of the agent; meanwhile the kernel may have flooded the console, or booted."""

PING = 2.0
LINGER = 0.5
"""Seconds in which the last acknowledgement may be asked for again."""


class Broken(Exception):
    """The line, or who is at its other end, is gone: said in words."""


class Pump:
    """Moves bytes until one side has ended."""

    def __init__(self, line: int, console: int, link: Link) -> None:
        self._line = line
        self._console = console
        self._link = link
        self._eof = False
        self._told = False
        self._start = self._now = self._last = self._pinged = CLOCK.look()[0]
        os.set_blocking(line, False)
        os.set_blocking(1, False)

    def run(self) -> None:
        """Until the shell over there has ended. Broken."""
        try:
            while not (self._link.ended and not self._link.received):
                self._step()
                self._judge()
            until = self._now + LINGER
            while self._now < until:
                self._step()
        finally:
            self._link.console.finish()
            self._keep()

    @property
    def status(self) -> int:
        """The exit status of the shell over there."""
        return int(self._link.last or b"0")

    def _step(self) -> None:
        link = self._link
        poll = select.poll()
        poll.register(self._line, select.POLLIN | (select.POLLOUT if link.out else 0))
        if link.room and not self._eof:
            poll.register(0, select.POLLIN)
        if link.received:
            poll.register(1, select.POLLOUT)
        # The link resends after its patience: nothing here has to be more exact.
        events = dict(poll.poll(min(TICK, link.patience / 2) * 1000))
        self._now = CLOCK.look()[0]
        if events.get(self._line, 0) & ~select.POLLOUT:
            self._read_line()
        if events.get(0):
            self._read_host()
        # First what the kernel said: who has an answer looks there for what it said until then.
        self._keep()
        if link.received:
            self._write_host()
        self._tell_end()
        link.tick(self._now)
        if link.out:
            self._write_line()

    def _read_line(self) -> None:
        try:
            data = os.read(self._line, 65536)
        except BlockingIOError:
            return
        except OSError as error:
            raise Broken(f"the line is gone: {error.strerror}") from None
        if not data:
            raise Broken("the line is gone: it is closed")
        self._last = self._now
        self._link.feed(data, self._now)

    def _read_host(self) -> None:
        try:
            data = os.read(0, PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._link.send(data, self._now)
        self._eof = not data

    def _write_host(self) -> None:
        try:
            del self._link.received[: os.write(1, self._link.received)]
        except BlockingIOError:
            pass
        except OSError:
            # Nobody reads it any more; the end of stdin is seen, too.
            self._link.received.clear()

    def _write_line(self) -> None:
        try:
            del self._link.out[: os.write(self._line, self._link.out)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise Broken(f"the line is gone: {error.strerror}") from None

    def _tell_end(self) -> None:
        if self._eof and not self._told and self._link.room:
            self._link.send(b"", self._now, END)
            self._told = True

    def _keep(self) -> None:
        """What is not the link's is the console's."""
        text = self._link.console.text
        if text:
            os.write(self._console, text)
            text.clear()

    def _judge(self) -> None:
        """Whether anybody is there."""
        heard = self._link.heard
        if heard is None and self._now - self._start >= FIRST:
            raise Broken(f"the agent said nothing on the line within {FIRST:g} s")
        quiet = self._now - self._last
        if quiet >= DEAD and heard is not None:
            raise Broken(f"the line has been dead for {quiet:.0f} s")
        if heard is not None and self._now - heard >= SILENT:
            raise Broken(f"the agent has said nothing on the line for {SILENT:g} s, something else has")
        if self._now - max(heard or 0.0, self._pinged) >= PING:
            self._link.ping()
            self._pinged = self._now


def main(argv: list[str]) -> int:
    """The exit status is that of the shell over there, 1 when the line broke: stderr says how."""
    line, console, session, patience = argv
    pump = Pump(int(line), int(console), Link(session.encode(), int(patience) / 1000))
    try:
        pump.run()
    except Broken as broken:
        print(broken, file=sys.stderr)
        return 1
    if pump.status:
        print(f"the shell at the other end of the line ended with status {pump.status}", file=sys.stderr)
    return pump.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
