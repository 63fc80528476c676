# SPDX-License-Identifier: GPL-2.0-only
"""Children: descriptors passed on, output kept, nothing that survives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_iommu.core.limits import available_memory
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.process import Child, finished


def test_descriptors_are_passed_and_closed_here() -> None:
    fd = os.memfd_create("passed")
    kept = os.dup(fd)
    child = Child(["sh", "-c", f"echo hello > /proc/self/fd/{fd}"], [fd])
    assert child.wait(60) == 0
    assert os.pread(kept, 100, 0) == b"hello\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    os.close(kept)
    child.close()


def test_how_it_ended_and_what_it_said() -> None:
    child = Child(["sh", "-c", "echo bad option >&2; exit 3"])
    assert child.wait(60) == 3
    assert child.how_it_ended() == "ended with status 3"
    assert child.stderr() == "bad option\n"
    child.close()


def test_close_kills_and_may_be_called_twice() -> None:
    child = Child(["sleep", "100"])
    assert child.wait(0.01) is None
    child.close()
    child.close()
    assert child.how_it_ended().startswith("was killed by SIGKILL (out of memory?")


def test_another_thread_may_not_start_one() -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            Child(["true"])
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught


def test_without_setpriv_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError, match="setpriv"):
        Child(["true"])


def test_it_dies_with_a_killed_parent() -> None:
    code = (
        "from pytest_iommu.core.process import Child\n"
        "import time\n"
        "print(Child(['sleep', '100']).pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    # setpriv arms the signal before it becomes sleep
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"):
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_some_memory_is_available() -> None:
    have = available_memory()
    assert have is None or have > 0


def test_a_short_program_is_run_to_its_end() -> None:
    done = finished([sys.executable, "-c", "import sys; print(sys.stdin.read() + 'out'); sys.exit('err')"], 60)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"out\n", b"err\n")


def test_a_short_program_that_takes_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        finished([sys.executable, "-c", "import signal; signal.pause()"], 0.05)
