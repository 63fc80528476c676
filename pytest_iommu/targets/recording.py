# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of guests' answers: the recorder, and the keys that identify a batch.

A recording is a directory:

index-<worker>.jsonl     one line per answer: {"guest": "smmuv3/plain", "test": <node id, from the file's name on>,
                         "told": <hash>, "asked": <hash>, "reply": <hash>}. A batch that ended badly has
                         "outcome": "kernel-crash", "message": ..., "evidence": {"command", "console", "splat"}
                         instead of the reply; a batch for a missing device has "outcome": "skipped", "message"
replies/<hash>           the replies, as packed by pack_reply(); equal ones are stored once

The reporting process owns the directory: it calls begin() once, right before the tests. A worker has a Recorder, which
writes its own index and adds replies. It removes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import IommuError, SetupError, SetupLost
from pytest_iommu.core.protocol import Evidence, Guest, Op, Reply, Result
from pytest_iommu.guest.ops import Code

_HEAD = struct.Struct("<II")
_RESULT = struct.Struct("<iI")
_OP = struct.Struct("<5I")
SKIPPED = "skipped"
_REPLY = re.compile(r"[0-9a-f]{32}(?:\.\d+)?")
"""Names in replies/: a hash, followed by a process id while the file is being written."""


def current_test() -> str:
    """The running test, by its node id without the directories before the file's name.

    pytest keeps it in the environment: ``some/where/test_x.py::test_y[z] (call)``. Empty between tests.
    """
    nodeid = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    file, colons, rest = nodeid.partition("::")
    return file.rpartition("/")[2] + colons + rest


class Plugged:
    """Records hotplug by QEMU, for a guest that needs no QEMU for it."""

    def __init__(self) -> None:
        self.done = ""

    def add(self, device: object) -> None:
        """A device was plugged in."""
        self.done += f"+{getattr(device, 'name', device)}"

    def remove(self, name: str) -> None:
        """A device was unplugged."""
        self.done += f"-{name}"


@dataclass(frozen=True, slots=True)
class Request:
    """The key of a batch: its guest and test; the hash of it and of the commands before; its hash alone."""

    test: str
    told: str
    asked: str


class Context:
    """The commands that the running test gave a guest since the last reset of the test module."""

    def __init__(self, plugged: Plugged) -> None:
        self._plugged = plugged
        self._test = ""
        self._told = ""

    def ask(self, test: str, ops: Sequence[Op]) -> Request:
        """Return the key for looking up this batch, and remember its commands."""
        written = [op.data for op in ops if op.code == Code.WRITE_FILE]
        if test != self._test or any(data.startswith(b"reset") for data in written):
            self._test, self._told = test, ""
            self._plugged.done = ""
        found = _hash(self._told + self._plugged.done, ops)
        if written:
            self._told, self._plugged.done = found, ""
        return Request(test, found, _hash("", ops))


def _hash(told: str, ops: Sequence[Op]) -> str:
    digest = hashlib.sha256(told.encode())
    for op in ops:
        path = op.path.encode()
        digest.update(_OP.pack(op.code, op.a & 0xFFFFFFFF, op.b & 0xFFFFFFFF, len(path), len(op.data)))
        digest.update(path + op.data)
    return digest.hexdigest()[:32]


def pack_reply(reply: Reply) -> bytes:
    """Encode a reply: taint, kmsg length, kmsg, then value, length and data of every result (little endian)."""
    kmsg = reply.kmsg.encode()
    parts = [_HEAD.pack(reply.taint, len(kmsg)), kmsg]
    for result in reply.results:
        parts += [_RESULT.pack(result.value, len(result.data)), result.data]
    return b"".join(parts)


def unpack_reply(data: bytes) -> Reply:
    """Decode pack_reply()'s output. ValueError if it is malformed."""
    try:
        taint, length = _HEAD.unpack_from(data)
        offset = _HEAD.size + length
        kmsg = data[_HEAD.size : offset].decode()
        results = []
        while offset < len(data):
            value, length = _RESULT.unpack_from(data, offset)
            offset += _RESULT.size + length
            results.append(Result(value, data[offset - length : offset]))
    except struct.error as error:
        raise ValueError(f"not a recorded reply: {error}") from error
    if offset != len(data):
        raise ValueError("a recorded reply is truncated")
    return Reply(tuple(results), taint, kmsg)


def begin(directory: Path) -> None:
    """Create the directory of a recording and remove an earlier recording from it. SetupError if that fails.

    The reporting process calls this once, before any Recorder exists. Another run had other workers, whose answers must
    not be mixed with these.
    """
    replies = directory / "replies"
    try:
        replies.mkdir(parents=True, exist_ok=True)
        old = [path for path in replies.iterdir() if _REPLY.fullmatch(path.name)]
        for path in (*directory.glob("index-*.jsonl"), *old):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SetupError(f"--iommu-record: cannot prepare the directory {directory}: {error}") from error


class Recorder:
    """Writes the part of a recording for the guests of one worker. begin() has prepared the directory.

    ``test`` returns the running test.
    """

    def __init__(self, directory: Path, worker: str, test: Callable[[], str] = current_test) -> None:
        self._replies = directory / "replies"
        self._test = test
        self._lost = False
        # Line buffered: a worker that is killed leaves what it had so far.
        self._index = (directory / f"index-{worker}.jsonl").open("w", encoding="utf-8", buffering=1)

    def watch(self, guest: Guest, key: Key) -> Guest:
        """Return the guest, with every answer recorded."""
        return _Recorded(guest, str(key), self, self._test)

    def answer(self, guest: str, request: Request, reply: Reply) -> None:
        """Record one answer. SetupLost if it cannot be written; what comes after that is not recorded."""
        data = pack_reply(reply)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self._replies / name
        with self._written():
            if not path.exists():
                # Write under another name first: two workers may get the same answer at the same time.
                half = path.with_name(f"{name}.{os.getpid()}")
                half.write_bytes(data)
                half.rename(path)
        self._line(guest, request, reply=name)

    def failure(self, guest: str, request: Request, error: IommuError) -> None:
        """Record that a batch ended badly."""
        evidence = error.evidence or Evidence()
        said = {"command": evidence.command, "console": evidence.console, "splat": evidence.splat}
        self._line(guest, request, outcome=error.kind, message=error.message, evidence=said)

    def skipped(self, guest: str, request: Request, reason: str) -> None:
        """Record that the guest cannot do this; without it, the test's recording would end with its earlier batches."""
        self._line(guest, request, outcome=SKIPPED, message=reason)

    def close(self) -> None:
        """Finish the index."""
        with self._written():
            self._index.close()

    def _line(self, guest: str, request: Request, **answer: Any) -> None:
        line = {"guest": guest, "test": request.test, "told": request.told, "asked": request.asked, **answer}
        with self._written():
            self._index.write(json.dumps(line) + "\n")

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            lost, self._lost = self._lost, True
            if not lost:
                raise SetupLost(f"--iommu-record: {self._replies.parent}: {error.strerror}") from error


class _Recorded:
    """A guest with recorded answers; otherwise it is the real guest, so that recording does not change a run."""

    def __init__(self, guest: Guest, key: str, recorder: Recorder, test: Callable[[], str]) -> None:
        self._guest = guest
        self._key = key
        self._recorder = recorder
        self._test = test
        self._plugged = Plugged()
        self._context = Context(self._plugged)
        if hasattr(guest, "devices"):
            self.devices = _RecordedDevices(guest.devices, self._plugged)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        request = self._context.ask(self._test(), ops)
        try:
            reply = self._guest.run(ops, timeout)
        except IommuError as error:
            self._recorder.failure(self._key, request, error)
            raise
        except pytest.skip.Exception as skip:
            self._recorder.skipped(self._key, request, str(skip))
            raise
        self._recorder.answer(self._key, request, reply)
        return reply


class _RecordedDevices:
    """Hotplug for real, remembered as a replayed guest remembers it."""

    def __init__(self, devices: Any, plugged: Plugged) -> None:
        self._devices = devices
        self._plugged = plugged

    def __getattr__(self, name: str) -> Any:
        return getattr(self._devices, name)

    def add(self, device: Any, *arguments: Any) -> None:
        self._devices.add(device, *arguments)
        self._plugged.add(device)

    def remove(self, name: str, *arguments: Any) -> None:
        self._devices.remove(name, *arguments)
        self._plugged.remove(name)
