# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of what guests answer: the recorder, and how a question is told from another.

A recording is a directory:

    index-<worker>.jsonl     one line an answer: {"guest": "smmuv3/plain", "test": <node id, from the file's name on>,
                             "told": <hash>, "asked": <hash>, "reply": <hash>}. For a batch that ended badly, in place
                             of reply: "outcome": "kernel-crash", "message": ..., "evidence": {"command", "console",
                             "splat"}; for one that is about a device that was not there: "outcome": "skipped",
                             "message"
    replies/<hash>           the replies, as pack_reply() makes them; equal ones are stored once

The process that reports owns the directory: it calls begin() once, right before the tests. A worker has a Recorder,
which writes its own index and adds replies. It removes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import IommuError, SetupError
from pytest_iommu.core.protocol import Evidence, Guest, Op, Reply, Result
from pytest_iommu.guest.ops import Code

_HEAD = struct.Struct("<II")
_RESULT = struct.Struct("<iI")
_OP = struct.Struct("<5I")
SKIPPED = "skipped"
_REPLY = re.compile(r"[0-9a-f]{32}(?:\.\d+)?")
"""Names in replies/: a hash, followed by a process id while the file is being written."""


def current_test() -> str:
    """The test that pytest is running, by its node id; the directories before the file's name are left out.

    pytest keeps it in the environment: ``some/where/test_x.py::test_y[z] (call)``. Empty between tests.
    """
    nodeid = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    file, colons, rest = nodeid.partition("::")
    return file.rpartition("/")[2] + colons + rest


class Plugged:
    """What was plugged in and out by QEMU's hand, for a guest that needs no QEMU for it: it is only remembered."""

    def __init__(self) -> None:
        self.done = ""

    def add(self, device: object) -> None:
        """Plugged in."""
        self.done += f"+{getattr(device, 'name', device)}"

    def remove(self, name: str) -> None:
        """Taken out."""
        self.done += f"-{name}"


@dataclass(frozen=True, slots=True)
class Request:
    """A batch: whose it is; the hash of it and of the commands before; its hash alone."""

    test: str
    told: str
    asked: str


class Context:
    """What a guest was told by the test that is running, since the last reset of the test module."""

    def __init__(self, plugged: Plugged) -> None:
        self._plugged = plugged
        self._test = ""
        self._told = ""

    def ask(self, test: str, ops: Sequence[Op]) -> Request:
        """What this batch is looked up by; remembers the commands in it."""
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
    """A reply as bytes: taint, kmsg length, kmsg, then value, length and data of every result (little endian)."""
    kmsg = reply.kmsg.encode()
    parts = [_HEAD.pack(reply.taint, len(kmsg)), kmsg]
    for result in reply.results:
        parts += [_RESULT.pack(result.value, len(result.data)), result.data]
    return b"".join(parts)


def unpack_reply(data: bytes) -> Reply:
    """What pack_reply() packed. ValueError when it is something else."""
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
        raise ValueError("a recorded reply is cut off")
    return Reply(tuple(results), taint, kmsg)


def begin(directory: Path) -> None:
    """Make the directory of a recording and clear an earlier one out of it. SetupError when that is not possible.

    For the process that reports, once and before any Recorder: another run had other workers, and their answers must
    not be mixed with ours.
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
    """Writes the part of a recording that one worker's guests answer. begin() has prepared the directory.

    ``test`` gives the test that is running.
    """

    def __init__(self, directory: Path, worker: str, test: Callable[[], str] = current_test) -> None:
        self._replies = directory / "replies"
        self._test = test
        # By lines: a worker that is killed leaves what it had so far.
        self._index = (directory / f"index-{worker}.jsonl").open("w", encoding="utf-8", buffering=1)

    def watch(self, guest: Guest, key: Key) -> Guest:
        """The guest, with every answer of it recorded."""
        return _Recorded(guest, str(key), self, self._test)

    def answer(self, guest: str, request: Request, reply: Reply) -> None:
        """Record one answer."""
        data = pack_reply(reply)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self._replies / name
        if not path.exists():
            # By way of another name: two workers may get the same answer at the same time.
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
        """Record that the guest cannot do this: what the test asked before would else be all that there is of it."""
        self._line(guest, request, outcome=SKIPPED, message=reason)

    def close(self) -> None:
        """Finish the index."""
        self._index.close()

    def _line(self, guest: str, request: Request, **answer: Any) -> None:
        line = {"guest": guest, "test": request.test, "told": request.told, "asked": request.asked, **answer}
        self._index.write(json.dumps(line) + "\n")


class _Recorded:
    """A guest whose answers are recorded; all else it has is its own, so that a recorded run is as any other."""

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
    """What is plugged, for real, and remembered as a replayed guest remembers it."""

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
