# SPDX-License-Identifier: GPL-2.0-only
"""Progress display while something is fetched or built, and the duration of each step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

log = logging.getLogger(__name__)

TTY_INTERVAL = 0.2
LINE_INTERVAL = 10.0


def elapsed(seconds: float) -> str:
    """Format as ``7s`` or ``3m07s``."""
    whole = int(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02d}s"


class ProgressStep:
    """One running step; call update() at any rate, it prints only as often as useful."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.name = name
        self.started = progress.clock()
        self._progress = progress
        self._shown = self.started
        self._fraction: float | None = None
        self._width = 0

    @property
    def seconds(self) -> float:
        return self._progress.clock() - self.started

    def update(self, fraction: float | None = None) -> None:
        """Report progress: 0.0 to 1.0, or None if unknown (the last value stays)."""
        if fraction is not None:
            self._fraction = min(fraction, 0.99)
        progress = self._progress
        now = progress.clock()
        if now - self._shown < (TTY_INTERVAL if progress.tty else LINE_INTERVAL):
            return
        self._shown = now
        percent = "" if self._fraction is None else f" {self._fraction * 100:.0f}%"
        text = f"iommu: {self.name}{percent} {elapsed(self.seconds)}"
        if progress.tty:
            progress.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            progress.write(text + "\n")

    def finish(self, word: str) -> None:
        text = f"iommu: {self.name} {word} {elapsed(self.seconds)}"
        self._progress.write(("\r" + text.ljust(self._width) if self._width else text) + "\n")


class Progress:
    """Prints steps to ``stream`` (None: silent) and records their seconds in ``timings``.

    On a terminal a step is one line that is updated; elsewhere it is a line every 10 s, without carriage returns.
    ``around`` is a context manager around each write.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.stream = stream
        self.around = around
        self.clock = clock
        self.tty = stream is not None and stream.isatty()
        self.timings: dict[str, float] = {}

    def write(self, text: str) -> None:
        if self.stream is not None:
            with self.around():
                self.stream.write(text)
                self.stream.flush()

    def note(self, text: str) -> None:
        """Print one line of information."""
        self.write(f"iommu: {text}\n")

    @contextmanager
    def step(self, name: str, timed: bool = True) -> Iterator[ProgressStep]:
        """A step that may take long. Its duration is stored under its name if ``timed``, also when it fails."""
        log.info("%s", name)
        step = ProgressStep(self, name)
        if not self.tty:
            self.write(f"iommu: {name}\n")
        try:
            yield step
        except BaseException:
            step.finish("stopped after")
            raise
        finally:
            if timed:
                self.timings[name] = self.timings.get(name, 0.0) + step.seconds
        step.finish("done in")
        log.info("%s: done in %s", name, elapsed(step.seconds))


_session = Progress(None)


def use(progress: Progress) -> None:
    """Set the progress display on which this session reports that it waits for another one."""
    global _session
    _session = progress


def of_this_session() -> Progress:
    """The progress display on which this session reports waiting, even while other progress is hidden."""
    return _session
