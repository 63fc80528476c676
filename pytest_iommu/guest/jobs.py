# SPDX-License-Identifier: GPL-2.0-only
"""Jobs: background processes of the agent; one constructor per operation, as in ops.py.

Jobs are numbered 0 to 15 and outlive a batch. A number becomes free when wait_job() has taken its result, and after
KILL; the next start_*() of that number discards the data of the killed job. Times are nanoseconds of the guest's
CLOCK_MONOTONIC, which is the kernel's ktime_get_ns(). guest/agent/ops_job.c and job_*.c implement them.

A ``cpu`` of None leaves the choice to the kernel. start_*() reports errors at once: EBUSY for a used number, EBADF for
an invalid number, EINVAL for a cpu that does not exist.
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
    """Signals for a job; the numbers of agent/job.h."""

    GO = 1
    STOP = 2
    RELEASE = 3
    KILL = 4


@dataclass(frozen=True, slots=True)
class Read:
    """One system call of a job: its round, its value or -errno, the times right before and after it, the bytes read."""

    round: int
    value: int
    begin: int
    end: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Digest:
    """Totals of a reader without ``keep`` over all rounds: ``crc32`` is zlib's; the data of ``reads`` is empty."""

    reads: tuple[Read, ...]
    bytes: int
    lines: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late a ticker woke, in nanoseconds; ``worst_at`` is the time of its latest wake-up."""

    worst: int
    median: int
    worst_at: int


def start_reader(
    job: int, path: str, chunk: int = 0, cpu: int | None = None, rounds: int = 1, held: bool = False, keep: bool = True
) -> Op:
    """Read a whole file ``rounds`` times (0: until STOP), ``chunk`` bytes per read(2) (0: 64 KiB) -> 0.

    A directory is read with getdents64(2); its data are the kernel's records.

    STOP ends it after the current round. One that reads until STOP pauses between rounds once half of the room below is
    used, so that the second half lasts for half a minute. ``held``: the first read(2) that returns data blocks in its
    copy to user memory until RELEASE (userfaultfd; returns its errno if the kernel does not permit it). The job's value
    is the number of bytes read (at most INT32_MAX), or the -errno that ended it: EMSGSIZE for more than 512 Ki read(2)s
    or 40 MiB. For its data see split_reads(), without ``keep`` split_digest().
    """
    flags = (_HELD if held else 0) | (_KEEP if keep else 0)
    return Op(Code.START_READER, job, chunk, path, struct.pack("<3I", _cpu(cpu), rounds, flags))


def start_sharing_reader(job: int, slot: int, chunk: int = 0, cpu: int | None = None, held: bool = False) -> Op:
    """Read the open file of ops.open_file()'s slot, from its current offset to its end, as start_reader() -> 0.

    The offset is shared with the slot and with other jobs that read it. EBADF for an empty slot.
    """
    flags = _KEEP | _SLOT | (_HELD if held else 0)
    return Op(Code.START_READER, job, chunk, "", struct.pack("<3I", _cpu(cpu), slot, flags))


def start_writer(job: int, path: str, data: bytes, cpu: int | None = None, rounds: int = 1) -> Op:
    """Open an existing file and write ``data`` in one write(2), ``rounds`` times (0: until STOP) -> 0.

    The first error ends it; EMSGSIZE for more than 512 Ki write(2)s. One that writes until STOP slows down as a reader
    does. The job's value is the number of bytes of the last write(2), or -errno. For its data, the times of each
    write(2), see split_calls().
    """
    return Op(Code.START_WRITER, job, 0, path, struct.pack("<2I", _cpu(cpu), rounds) + data)


def await_rounds(jobs: Iterable[int], rounds: int, milliseconds: int) -> Op:
    """Wait until each of these readers and writers has completed that many rounds that began after this call.

    -> the total number of rounds of the job that has the fewest. Jobs that end meanwhile are no longer waited for.
    ETIMEDOUT on timeout, ESRCH if there is no such job.
    """
    return Op(Code.AWAIT_ROUNDS, 0, rounds, data=struct.pack("<I", milliseconds) + bytes(jobs))


def start_spinner(job: int, cpu: int, path: str = "") -> Op:
    """Start a SCHED_FIFO process on ``cpu`` that sleeps until GO, then occupies that cpu until STOP -> 0.

    It spins in user mode, or in a read(2) of ``path`` that occupies the cpu until a signal arrives (OCCUPY of the test
    module). In a guest it gets the whole cpu: real-time throttling and the fair server of that cpu are turned off for
    good. EPERM without the privilege. For its data, the times during which it had the cpu, see split_calls().
    """
    return Op(Code.START_SPINNER, job, cpu, path)


def start_ticker(job: int, cpu: int | None, interval_us: int, milliseconds: int) -> Op:
    """Start a SCHED_FIFO process that wakes every ``interval_us`` for so many milliseconds, or until STOP -> 0.

    It has priority over a spinner on the same cpu. The job's value is the number of wake-ups; missed ones count as one.
    For its data see split_lateness(). EINVAL for no ticks or more than 1 Mi. EPERM without the privilege.
    """
    return Op(Code.START_TICKER, job, _cpu(cpu), data=struct.pack("<2I", interval_us, milliseconds))


def signal_job(job: int, signal: Signal) -> Op:
    """Send a signal to a job -> 0; ESRCH if there is no such job. For the data of KILL see split_time().

    GO starts a spinner. STOP ends a job in an orderly way. RELEASE releases a held reader, at once or when it blocks.
    KILL sends SIGKILL and waits up to 30 s until the job is reaped. ETIMEDOUT if it is not, for example because it does
    not get its cpu; it dies later. Give such a batch a longer timeout.
    """
    return Op(Code.SIGNAL_JOB, job, signal)


def wait_job(job: int, milliseconds: int) -> Op:
    """Wait for a job's end -> its value; its data. The job is then gone.

    ETIMEDOUT, without data, while it runs; the job continues. EINTR if it was killed, with the data of the calls that
    had returned. ESRCH if there is no such job.
    """
    return Op(Code.WAIT_JOB, job, milliseconds)


def job_state(job: int) -> Op:
    """-> 0; text for failure reports. Its first character is the state of /proc/PID/stat, ``X`` for an ended job.

    The first line has ``pid=``, ``cpu=``, ``held=`` (1 once a held reader blocks) and ``wchan=``. The kernel stack
    follows, if it is readable.
    """
    return Op(Code.JOB_STATE, job)


def reset_jobs() -> Op:
    """Kill and forget all jobs -> how many there were; ETIMEDOUT if one still exists 30 s later."""
    return Op(Code.RESET_JOBS)


def split_reads(data: bytes) -> list[Read]:
    """Return the read(2)s of a reader's data, in order. ValueError if the data is truncated or too long."""
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
    """Return the system calls of a writer's or spinner's data, without text. ValueError if the data is malformed."""
    records, rest = _split_records(data)
    if rest:
        raise ValueError(f"{len(rest)} bytes after the records")
    return [Read(*record) for record in records]


def split_digest(data: bytes) -> Digest:
    """Return the data of a reader without ``keep``. ValueError if it is malformed."""
    records, rest = _split_records(data)
    if len(rest) != _DIGEST.size:
        raise ValueError(f"{len(rest)} bytes after the records, expected {_DIGEST.size}")
    return Digest(tuple(Read(*record) for record in records), *_DIGEST.unpack(rest))


def split_lateness(data: bytes) -> Lateness:
    """Return the data of a ticker. ValueError if it is malformed."""
    if len(data) != _LATENESS.size:
        raise ValueError(f"{len(data)} bytes, expected {_LATENESS.size}")
    return Lateness(*_LATENESS.unpack(data))


def split_time(data: bytes) -> int:
    """Return the nanoseconds from KILL until the job was reaped. ValueError if the data is malformed."""
    if len(data) != 8:
        raise ValueError(f"{len(data)} bytes, expected 8")
    return int.from_bytes(data, "little")


def _cpu(cpu: int | None) -> int:
    return _NO_CPU if cpu is None else cpu


def _split_records(data: bytes) -> tuple[list[tuple[int, int, int, int]], bytes]:
    count = int.from_bytes(data[:4], "little")
    end = 4 + count * _RECORD.size
    if len(data) < max(end, 4):
        raise ValueError(f"{len(data)} bytes for {count} records")
    return [_RECORD.unpack_from(data, at) for at in range(4, end, _RECORD.size)], data[end:]
