# SPDX-License-Identifier: GPL-2.0-only
"""Jobs: processes of the agent that do something while it serves on; one constructor an operation, as in ops.py.

Jobs are numbered 0 to 15 and outlive a batch. A number is free again when its result was taken by wait_job(), and
after KILL: the next start_*() of that number drops what the killed job had. Times are nanoseconds of the guest's
CLOCK_MONOTONIC, which is the kernel's ktime_get_ns(). What the agent does is in guest/agent/ops_job.c and job_*.c.

A ``cpu`` of None is wherever the kernel likes. Who starts a job gets its errors at once: EBUSY for a number that is
taken, EBADF for one that there is not, EINVAL for a cpu that there is not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pytest_iommu.core.protocol import Op
from pytest_iommu.guest.ops import Code

_NO_CPU = 0xFFFFFFFF
_HELD, _KEEP, _SLOT = 1, 2, 4
_RECORD = struct.Struct("<IiQQ")
_DIGEST = struct.Struct("<QQI")
_LATENESS = struct.Struct("<QQQ")


class Signal(IntEnum):
    """What a job can be told; the numbers of agent/job.h."""

    GO = 1
    STOP = 2
    RELEASE = 3
    KILL = 4


@dataclass(frozen=True, slots=True)
class Read:
    """One system call of a job: of which round, its value or -errno, right before and right after it, what was read."""

    round: int
    value: int
    begin: int
    end: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a reader without ``keep`` read, over all rounds: ``crc32`` is zlib's; the data of ``reads`` is empty."""

    reads: tuple[Read, ...]
    bytes: int
    lines: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late a ticker woke: nanoseconds; ``worst_at`` is when it woke from its worst sleep."""

    worst: int
    median: int
    worst_at: int


def start_reader(
    job: int, path: str, chunk: int = 0, cpu: int | None = None, rounds: int = 1, held: bool = False, keep: bool = True
) -> Op:
    """Read a whole file ``rounds`` times (0: until STOP), ``chunk`` bytes a read(2) (0: 64 KiB) -> 0.

    STOP ends it behind the round that is under way. ``held``: the first read(2) that has something to copy waits in
    the copy to user memory until RELEASE (userfaultfd; its errno when the kernel does not let us). The job's value:
    the bytes read (at most INT32_MAX) or -errno of what ended it, EMSGSIZE when its results are more than 512 Ki
    read(2)s or 40 MiB; its data: see split_reads(), without ``keep`` split_digest().
    """
    flags = (_HELD if held else 0) | (_KEEP if keep else 0)
    return Op(Code.START_READER, job, chunk, path, struct.pack("<3I", _cpu(cpu), rounds, flags))


def start_sharing_reader(job: int, slot: int, chunk: int = 0, cpu: int | None = None, held: bool = False) -> Op:
    """Read what a slot of ops.open_file() has open, from where it stands to its end, as start_reader() -> 0.

    Its place is shared with the slot, and with other jobs that read it. EBADF when the slot is empty.
    """
    flags = _KEEP | _SLOT | (_HELD if held else 0)
    return Op(Code.START_READER, job, chunk, "", struct.pack("<3I", _cpu(cpu), slot, flags))


def start_writer(job: int, path: str, data: bytes, cpu: int | None = None, rounds: int = 1) -> Op:
    """Open a file that is there and write ``data`` in one write(2), ``rounds`` times (0: until STOP) -> 0.

    The first error ends it. The job's value: the bytes of the last write(2), or -errno. Its data: see split_calls(),
    when each write(2) began and ended.
    """
    return Op(Code.START_WRITER, job, 0, path, struct.pack("<2I", _cpu(cpu), rounds) + data)


def await_rounds(jobs: Iterable[int], rounds: int, milliseconds: int) -> Op:
    """Wait until each of these readers and writers has done that many rounds that began after this.

    -> the rounds that the one with the fewest has done in all. A job that ends meanwhile is waited for no longer.
    ETIMEDOUT when they have not done them by then, ESRCH when there is no such job.
    """
    return Op(Code.AWAIT_ROUNDS, 0, rounds, data=struct.pack("<I", milliseconds) + bytes(jobs))


def start_spinner(job: int, cpu: int, path: str = "") -> Op:
    """A SCHED_FIFO process on ``cpu`` that sleeps until GO, then takes that cpu until STOP -> 0.

    It does so in user mode, or in a read(2) of ``path``, which keeps the cpu until a signal comes (OCCUPY of the test
    module). In a guest it takes all of it: the throttling of real-time processes and the fair server of that cpu are
    turned off for good. EPERM without the privilege. Its data: see split_calls(), from when to when it had the cpu.
    """
    return Op(Code.START_SPINNER, job, cpu, path)


def start_ticker(job: int, cpu: int | None, interval_us: int, milliseconds: int) -> Op:
    """A SCHED_FIFO process that wakes every ``interval_us`` for so many milliseconds, or until STOP -> 0.

    It comes before a spinner on the same cpu. The job's value: how often it woke; what it overslept counts as one. Its
    data: see split_lateness(). EINVAL for more than 1 Mi ticks, or none. EPERM without the privilege.
    """
    return Op(Code.START_TICKER, job, _cpu(cpu), data=struct.pack("<2I", interval_us, milliseconds))


def signal_job(job: int, signal: Signal) -> Op:
    """-> 0; ESRCH when there is no such job. The data of KILL: see split_time().

    GO starts a spinner, STOP ends a job in its own time, RELEASE lets a held reader go, at once or when it gets there.
    KILL sends SIGKILL and waits, 30 s at most, until the job is reaped: ETIMEDOUT when it is not, as of one that does
    not get its cpu; it dies when it can. Give such a batch more time than that.
    """
    return Op(Code.SIGNAL_JOB, job, signal)


def wait_job(job: int, milliseconds: int) -> Op:
    """Wait for a job's end -> its value; its data. The job is gone then.

    ETIMEDOUT, without data, while it runs: it lives on. EINTR when it was killed, with the data of the calls that had
    returned. ESRCH when there is no such job.
    """
    return Op(Code.WAIT_JOB, job, milliseconds)


def job_state(job: int) -> Op:
    """-> 0; text for reports of failures, its first character the state of /proc/PID/stat, ``X`` of one that ended.

    The first line has ``pid=``, ``cpu=``, ``held=`` (1 once a held reader is held) and ``wchan=``; behind it comes the
    kernel's stack, where it can be read.
    """
    return Op(Code.JOB_STATE, job)


def reset_jobs() -> Op:
    """Kill and forget all jobs -> how many there were; ETIMEDOUT when one is left 30 s later."""
    return Op(Code.RESET_JOBS)


def split_reads(data: bytes) -> list[Read]:
    """The read(2)s of a reader's data, in order. ValueError when it is cut short or too long."""
    records, text = _split_records(data)
    reads: list[Read] = []
    at = 0
    for number, value, begin, end in records:
        size = max(value, 0)
        reads.append(Read(number, value, begin, end, text[at : at + size]))
        at += size
    if at != len(text):
        raise ValueError(f"{len(text)} bytes of text for reads of {at} bytes")
    return reads


def split_calls(data: bytes) -> list[Read]:
    """The system calls of a writer's or spinner's data, none with text. ValueError when it is none."""
    records, rest = _split_records(data)
    if rest:
        raise ValueError(f"{len(rest)} bytes behind the records")
    return [Read(*record) for record in records]


def split_digest(data: bytes) -> Digest:
    """The data of a reader without ``keep``. ValueError when it is none."""
    records, rest = _split_records(data)
    if len(rest) != _DIGEST.size:
        raise ValueError(f"{len(rest)} bytes behind the records, not {_DIGEST.size}")
    return Digest(tuple(Read(*record) for record in records), *_DIGEST.unpack(rest))


def split_lateness(data: bytes) -> Lateness:
    """The data of a ticker. ValueError when it is none."""
    if len(data) != _LATENESS.size:
        raise ValueError(f"{len(data)} bytes, not {_LATENESS.size}")
    return Lateness(*_LATENESS.unpack(data))


def split_time(data: bytes) -> int:
    """The nanoseconds from KILL until the job was reaped. ValueError when there are none."""
    if len(data) != 8:
        raise ValueError(f"{len(data)} bytes, not 8")
    return int.from_bytes(data, "little")


def _cpu(cpu: int | None) -> int:
    return _NO_CPU if cpu is None else cpu


def _split_records(data: bytes) -> tuple[list[tuple[int, int, int, int]], bytes]:
    count = int.from_bytes(data[:4], "little")
    end = 4 + count * _RECORD.size
    if len(data) < max(end, 4):
        raise ValueError(f"{len(data)} bytes for {count} records")
    return [_RECORD.unpack_from(data, at) for at in range(4, end, _RECORD.size)], data[end:]
