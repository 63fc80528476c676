# SPDX-License-Identifier: GPL-2.0-only
"""SIGTERM and SIGHUP end a run as Ctrl-C does: with its results written, its guests gone and nothing left in /tmp.

By default Python ends at once at these two, without any cleanup.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


class Terminated(KeyboardInterrupt):
    """A signal asks this process to end. The text is the signal's name, ``number`` what it is to the kernel."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Signals:
    """The handlers of one pytest process.

    ``note`` is called with the exception as soon as a signal comes: a second Ctrl-C may end pytest before it has told
    anybody about the first, and what was written then would look complete.
    """

    def __init__(self, note: Callable[[KeyboardInterrupt], None]) -> None:
        self._note = note
        self._held = False
        self._before: dict[signal.Signals, object] = {}

    def install(self, ctrl_c: bool = True) -> None:
        """Handle the signals that have no handler. A signal that is ignored, as under nohup, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS if ctrl_c else _SIGNALS[1:]:
            before = signal.getsignal(number)
            if before in _UNTOUCHED:
                signal.signal(number, self._handle)
                self._before[number] = before

    def restore(self) -> None:
        """Undo install()."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)  # type: ignore[arg-type]  # it is what getsignal() gave
        self._before.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No signal interrupts what is done in here, which is short; one that comes meanwhile is only noted."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(signal.Signals(number))
        self._note(error)
        if not self._held:
            raise error
