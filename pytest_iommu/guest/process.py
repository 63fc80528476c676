# SPDX-License-Identifier: GPL-2.0-only
"""A child process that cannot outlive us: pdeathsig, its own process group, stderr in memory, ended by pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

from pytest_iommu.guest import limits
from pytest_iommu.guest.waiting import Deadline
from pytest_iommu.outcomes import SetupError

STDERR_LIMIT = 65536


class Child:
    """A running child. ``fds`` are inherited under their own numbers and closed here.

    ``wire``: a descriptor that becomes its stdin and stdout, closed here, too; without one it has no stdin, and
    stdout goes where stderr goes.

    setpriv sends SIGKILL to the child when the *thread* that started it ends, so only the main thread may start one.
    The own process group keeps the terminal's Ctrl-C away: we end the child ourselves, after reporting.
    """

    def __init__(
        self,
        argv: Sequence[str],
        fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        wire: int | None = None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a child with pdeathsig has to be started from the main thread")
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise SetupError("setpriv (util-linux) is not on PATH: QEMU could outlive a killed pytest")
        self.argv = tuple(argv)
        self._killed = limits.killed()
        self._stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                [setpriv, "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL if wire is None else wire,
                stdout=self._stderr if wire is None else wire,
                stderr=self._stderr,
                pass_fds=tuple(fds),
                env={**os.environ, **(env or {})},
                process_group=0,
            )
        except OSError as error:
            os.close(self._stderr)
            raise SetupError(f"cannot start {argv[0]}: {error}") from error
        finally:
            for fd in (*fds, *(() if wire is None else (wire,))):
                os.close(fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status when it has ended (negative: a signal), else None."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """The exit status, or None when it still runs after ``timeout`` seconds."""
        deadline = Deadline(timeout)
        while True:
            piece = deadline.piece
            try:
                return self._process.wait(piece)
            except subprocess.TimeoutExpired:
                if piece == 0:
                    return None

    def stderr(self) -> str:
        """What it wrote to stderr, and to stdout unless that is a wire (the last 64 KiB)."""
        size = os.fstat(self._stderr).st_size
        start = max(0, size - STDERR_LIMIT)
        return os.pread(self._stderr, size - start, start).decode("utf-8", "replace")

    def how_it_ended(self) -> str:
        """For a message: ``was killed by SIGKILL``, ``ended with status 1``, ``still runs``."""
        status = self.poll()
        return "still runs" if status is None else ended(status, self._killed)

    def close(self) -> None:
        """Kill it, wait for it, free what it held; may be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


def ended(status: int, killed: int | None = None) -> str:
    """How a process ended, by its exit status (negative: a signal); of SIGKILL, what limits its memory.

    ``killed`` is what limits.killed() said when it was started.
    """
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was killed by {name}" + (f" ({limits.doubt(killed)})" if name == "SIGKILL" else "")


def finished(
    argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a short program without stdin to its end. OSError; TimeoutExpired after ``timeout`` seconds, it is killed."""
    deadline = Deadline(timeout)
    with subprocess.Popen(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=deadline.piece)
                    return subprocess.CompletedProcess(argv, process.returncode, output, errors)
                except subprocess.TimeoutExpired:
                    if deadline.over:
                        raise subprocess.TimeoutExpired(argv, timeout) from None
        except BaseException:
            process.kill()
            raise
