# SPDX-License-Identifier: GPL-2.0-only
"""The agent's operations, one constructor each; guest/agent/ops*.c implements them.

A result's ``value`` is what follows ``->`` in each docstring, or -errno; its ``data`` follows the semicolon. Slots are
the agent's open files, 0 to 63; they outlive a batch. The constructors of jobs are in guest/jobs.py.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from enum import IntEnum

from pytest_iommu.core.protocol import Op, Result

# Two names for one number, as in the kernel.
_NAMES: dict[int, str] = {
    **errno.errorcode,
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
}


class Code(IntEnum):
    """Operation codes; the order of the table in agent/ops.c."""

    READ_FILE = 1
    WRITE_FILE = 2
    LIST = 3
    STAT = 4
    READLINK = 5
    OPEN = 6
    READ = 7
    PREAD = 8
    LSEEK = 9
    WRITE = 10
    CLOSE = 11
    IOCTL = 12
    PARALLEL_READ = 13
    INSMOD = 14
    RMMOD = 15
    POWEROFF = 16
    PWRITE = 17
    RUN = 18
    SLEEP = 19
    MKDIR = 20
    MOUNT = 21
    START_READER = 22
    START_WRITER = 23
    START_SPINNER = 24
    START_TICKER = 25
    SIGNAL_JOB = 26
    WAIT_JOB = 27
    JOB_STATE = 28
    RESET_JOBS = 29
    AWAIT_ROUNDS = 30
    CLOSE_ALL = 31


def read_file(path: str, chunk: int = 0, limit: int = 0) -> Op:
    """Read to the end, ``chunk`` bytes per read(2) (0: 64 KiB), ``limit`` at most (0: 64 MiB) -> bytes; the bytes.

    The data includes what was read before an error.
    """
    return Op(Code.READ_FILE, chunk, limit, path)


def write_file(path: str, data: bytes) -> Op:
    """Write everything in one write(2); does not create the file -> bytes written."""
    return Op(Code.WRITE_FILE, path=path, data=data)


def list_directory(path: str) -> Op:
    """-> count; sorted names, one per line, with ``/`` after a directory's and ``@`` after a symlink's."""
    return Op(Code.LIST, path=path)


def stat(path: str) -> Op:
    """lstat(2) -> st_mode; ``uid gid size nlink`` in decimal."""
    return Op(Code.STAT, path=path)


def readlink(path: str) -> Op:
    """-> length; the target."""
    return Op(Code.READLINK, path=path)


def open_file(slot: int, path: str, flags: int = os.O_RDONLY) -> Op:
    """Open into a free slot (else EBUSY) with Linux's O_* flags -> 0."""
    return Op(Code.OPEN, slot, flags, path)


def read(slot: int, size: int) -> Op:
    """One read(2) of ``size`` bytes -> bytes; the bytes."""
    return Op(Code.READ, slot, size)


def pread(slot: int, size: int, offset: int) -> Op:
    """One pread(2) -> bytes; the bytes."""
    return Op(Code.PREAD, slot, size, data=struct.pack("<q", offset))


def lseek(slot: int, offset: int, whence: int = os.SEEK_SET) -> Op:
    """-> 0; the new offset, see split_offset()."""
    return Op(Code.LSEEK, slot, whence, data=struct.pack("<q", offset))


def write(slot: int, data: bytes) -> Op:
    """One write(2) -> bytes written."""
    return Op(Code.WRITE, slot, data=data)


def pwrite(slot: int, data: bytes, offset: int) -> Op:
    """One pwrite(2) -> bytes written."""
    return Op(Code.PWRITE, slot, data=struct.pack("<q", offset) + data)


def close(slot: int) -> Op:
    """-> 0, EBADF for an empty slot."""
    return Op(Code.CLOSE, slot)


def close_all() -> Op:
    """Close all slots -> how many were open."""
    return Op(Code.CLOSE_ALL)


def ioctl(slot: int, command: int, argument: bytes = b"") -> Op:
    """ioctl(2) with a copy of ``argument`` (4 KiB at most) -> its value; the copy afterwards."""
    return Op(Code.IOCTL, slot, command, data=argument)


def parallel_read(path: str, chunk: int = 0, threads: int = 2) -> Op:
    """Read the whole file in ``threads`` threads (1 to 64) that start together -> threads; see split_parallel()."""
    return Op(Code.PARALLEL_READ, chunk, threads, path)


def insmod(path: str, params: str = "") -> Op:
    """Load a module file -> 0."""
    return Op(Code.INSMOD, path=path, data=params.encode())


def rmmod(name: str) -> Op:
    """Unload a module by name, without waiting for its users -> 0."""
    return Op(Code.RMMOD, path=name)


def poweroff() -> Op:
    """Power off the guest: there is no reply. EPERM if the agent is not the guest's init."""
    return Op(Code.POWEROFF)


def run(program: str, *arguments: str, timeout: int = 10, stream: bool = False) -> Op:
    """Run a program, ``timeout`` in seconds of guest time -> exit status (128 + signal); stdout and stderr together.

    ETIMEDOUT if it was killed by the timeout, 127 if it could not be started. With ``stream`` the host gets output as
    soon as it is written, even if the kernel then breaks: the evidence of a guest that ends includes it.
    """
    return Op(Code.RUN, timeout, int(stream), path=program, data="\0".join(arguments).encode())


def sleep(milliseconds: int) -> Op:
    """-> 0, later."""
    return Op(Code.SLEEP, milliseconds)


def mkdir(path: str, mode: int = 0o755) -> Op:
    """-> 0."""
    return Op(Code.MKDIR, mode, path=path)


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> Op:
    """mount(2) -> 0."""
    return Op(Code.MOUNT, b=flags, path=target, data=f"{source}\0{kind}\0{options}".encode())


def split_parallel(data: bytes) -> list[bytes]:
    """Return what each thread of parallel_read() read. ValueError if the data is truncated."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        part = data[at + 4 : at + 4 + size]
        if len(part) != size or at + 4 > len(data):
            raise ValueError(f"part {len(parts)} ends after {len(part)} of {size} bytes")
        parts.append(part)
        at += 4 + size
    return parts


def split_offset(data: bytes) -> int:
    """Return the new offset from lseek()."""
    return int.from_bytes(data, "little")


def errno_name(value: int) -> str:
    """Return the errno's name for a value, ``ENOENT`` for -2; ``ok`` for a value that is not an error."""
    if value >= 0:
        return "ok"
    return _NAMES.get(-value, f"errno {-value}")


def streams(op: Op) -> bool:
    """Whether the operation is a run() with its output before the reply."""
    return op.code == Code.RUN and bool(op.b)


def encode(ops: Sequence[Op], marker: bytes = b"") -> bytes:
    """Encode a batch: count, then each op's code, a, b, lengths of path and data, path, data.

    The agent ends streamed output with ``marker``.
    """
    parts = [struct.pack("<I", len(ops))]
    for op in ops:
        path = op.path.encode()
        data = b"\0".join([marker, op.data]) if streams(op) else op.data
        parts += [struct.pack("<5I", op.code, op.a, op.b, len(path), len(data)), path, data]
    return b"".join(parts)


def text_of(result: Result) -> str:
    """Return the data of a result as text; invalid UTF-8 is escaped."""
    return result.data.decode("utf-8", "backslashreplace")


def described(op: Op) -> str:
    """An operation in a few words, for the log: its name, its path and the beginning of its data."""
    words = [Code(op.code).name.lower().replace("_", "-"), op.path]
    if op.code == Code.WRITE_FILE:
        words.append(repr(op.data[:80]))
    return " ".join(filter(None, words))
