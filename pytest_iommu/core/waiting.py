# SPDX-License-Identifier: GPL-2.0-only
"""Time limits for guests that count only the time in which this process runs, and waits within such a limit.

A process that is stopped (SIGSTOP) or whose container is frozen does not run, while CLOCK_MONOTONIC goes on; a guest in
the same container does not run either. When both go on, a plain time limit is over, and the guest would be called hung
although it had no time to answer. So nothing here waits longer than TICK without a look at the clock, and when two
looks are more than GAP apart, this process stood still in between, and that time does not count.

Every limit that judges a guest is a Deadline.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

TICK = 0.25
"""Seconds: the longest wait without a look at the clock."""

GAP = 1.0
"""Seconds between two looks above which we stood still. A loaded host delays a look by a tenth of that."""


class Clock:
    """A clock that stands still while this process does; ``read`` gives seconds that do not.

    Where nobody waits, nobody looks at it, so it also stands still then. Only differences within one wait mean
    anything.
    """

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._lock = threading.Lock()  # a reader is held by one thread and started by another
        self._last = read()
        self._missed = 0.0

    def look(self) -> tuple[float, float]:
        """Seconds that count, and seconds that did not, both since some moment in the past."""
        with self._lock:
            now = self._read()
            gap = now - self._last
            if gap > GAP:
                self._missed += gap - TICK
            self._last = now
            return now - self._missed, self._missed


CLOCK = Clock()
"""The process's one clock: whatever waits makes it tick for all."""


class Deadline:
    """A time limit of so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        now, self._missed = CLOCK.look()
        self._seconds = seconds
        self._end = now + seconds

    def restart(self) -> None:
        """So many seconds from now on."""
        now, _ = CLOCK.look()
        self._end = now + self._seconds

    @property
    def left(self) -> float:
        """Seconds until it is over, 0 when it is."""
        now, _ = CLOCK.look()
        return max(self._end - now, 0.0)

    @property
    def piece(self) -> float:
        """Seconds of it that may be waited before the next look."""
        return min(self.left, TICK)

    @property
    def over(self) -> bool:
        return self.left == 0

    @property
    def missed(self) -> float:
        """Seconds that did not count since the limit was set: the process stood still."""
        _, missed = CLOCK.look()
        return missed - self._missed


def ready(descriptor: int | socket.socket, event: int, deadline: Deadline, within: float = float("inf")) -> bool:
    """Wait for an event of poll(2); False when the deadline is over, or ``within`` seconds.

    A descriptor that is ready is always seen, however late we come.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    until = Deadline(within)
    while True:
        left = min(deadline.left, until.left)
        if poll.poll(min(left, TICK) * 1000):
            return True
        if left == 0:
            return False


def receive(sock: socket.socket, size: int, deadline: Deadline) -> bytes:
    """At most ``size`` bytes, none at the end of the stream. TimeoutError when nothing comes in time; OSError."""
    if not ready(sock, select.POLLIN, deadline):
        raise TimeoutError("timed out")
    return sock.recv(size)


def send(sock: socket.socket, data: bytes, deadline: Deadline) -> None:
    """Send all of it. TimeoutError when it is not taken in time, perhaps in part; OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[sock.send(left, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            if not ready(sock, select.POLLOUT, deadline):
                raise TimeoutError("timed out") from None
