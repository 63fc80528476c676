# SPDX-License-Identifier: GPL-2.0-only
"""Child processes, none of which outlives us: long programs with a log, guests, and short questions.

- run(): a build or a download. Its output goes to a log, and its whole process group ends with it.
- Child: a guest. It runs beside us, is killed with us, and is ended by its process id.
- finished(): a short program that answers a question.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_iommu.core import limits, needs
from pytest_iommu.core.outcomes import SetupError, SetupLost
from pytest_iommu.core.waiting import Deadline

_log = logging.getLogger(__name__)

TICK = 0.5
KEPT_LINES = 4000
STDERR_LIMIT = 65536
NO_SPACE = "No space left on device"
APT_NO_SPACE = "You don't have enough free space"

_MAKES_OWN = (
    *("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "GNUMAKEFLAGS"),
    *("ARCH", "CROSS_COMPILE", "O", "KBUILD_OUTPUT", "OUTPUT"),
)

# A killed pytest cannot end what it started. make's own children would not see the death signal of make, so a shell
# gets it and kills the process group that all of them are in.
GUARD = 'trap "kill -KILL 0" TERM; "$@" & wait "$!"'


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: exit status and the last lines it wrote (both streams)."""

    status: int
    lines: tuple[str, ...]


def no_room(error: Exception) -> bool:
    """Whether a disk is full, or its owner's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: Path) -> SetupLost:
    """The error for a full disk; ``path`` is where it was to be written."""
    return SetupLost(
        f"{NO_SPACE}: {path}. A kernel source takes 2 GB, a build 200 MB. Free some, choose another place with "
        "--iommu-cache=DIR, or drop old entries with: pytest-iommu cache prune"
    )


def environment_of_make(**variables: str) -> dict[str, str]:
    """Our environment for a make that must not inherit from another make, with ``variables`` set.

    Under a make (``make check``) MAKELEVEL and the like would make it one, and kselftest's lib.mk then write to /;
    ARCH, O and others of a shell would choose another kernel or place than we say.
    """
    ours = {name: value for name, value in os.environ.items() if name not in _MAKES_OWN}
    return ours | {"PYTHONDONTWRITEBYTECODE": "1"} | variables


def guarded(argv: Sequence[str]) -> list[str]:
    """``argv``, so that it and its children die with us; in the main thread only, whose end the signal follows."""
    if threading.current_thread() is not threading.main_thread() or shutil.which("setpriv") is None:
        return list(argv)
    return ["setpriv", "--pdeathsig", "TERM", "--", "/bin/sh", "-c", GUARD, "pytest-iommu", *argv]


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the whole group: politely first, so that make removes half-written targets."""
    try:
        # With the guard, child is the shell and the program its only child; the shell's own TERM kills at once.
        below = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    except OSError:
        below = []
    # Not SIGINT: a shell's background jobs ignore it.
    for pid in [int(number) for number in below] or [child.pid]:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    try:
        child.wait(5.0)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> Finished:
    """Run ``argv`` to its end and return its status and last lines; both streams are appended to ``log``.

    ``on_tick`` is called at least every half second. SetupError when the program is absent or the disk is full.
    """
    _log.info("%s", shlex.join(argv))
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    output: IO[bytes] | None = None
    try:
        if shutil.which(argv[0], path=(env or os.environ).get("PATH")) is None:
            raise needs.command_missing(argv[0])
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        child = subprocess.Popen(
            guarded(argv),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _pump(child, output, lines, on_line, on_tick)
            status = child.wait()
        except BaseException:
            _end(child)
            raise
        finally:
            assert child.stdout is not None
            child.stdout.close()
    except OSError as error:
        if no_room(error):
            raise disk_full(log or cwd or Path(argv[0])) from error
        raise
    finally:
        if output is not None:
            output.close()
    _log.info("%s: status %d", argv[0], status)
    if status != 0 and any(NO_SPACE in line or APT_NO_SPACE in line for line in lines):
        raise disk_full(cwd or log or Path(argv[0]))
    return Finished(status, tuple(lines))


def _pump(
    child: subprocess.Popen[bytes],
    output: IO[bytes] | None,
    lines: deque[str],
    on_line: Callable[[str], None] | None,
    on_tick: Callable[[], None] | None,
) -> None:
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ready = selector.select(TICK)
            if on_tick is not None:
                on_tick()
            if not ready:
                continue
            data = os.read(descriptor, 65536)
            if output is not None:
                output.write(data)
            *whole, rest = (rest + data).split(b"\n")
            if not data and rest:
                whole.append(rest)
            for raw in whole:
                line = raw.decode(errors="replace")
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            if not data:
                return


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
