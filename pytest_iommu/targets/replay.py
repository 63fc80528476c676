# SPDX-License-Identifier: GPL-2.0-only
"""The replay target: the answers of a recorded run, without QEMU or kernel; and the recorder that makes one.

A recording is a directory:

    index-<worker>.jsonl     one line an answer: {"guest": "smmuv3/plain", "request": <hash>, "reply": <hash>} or, for
                             a batch that ended badly, {"guest": ..., "request": ..., "outcome": "kernel-crash",
                             "message": ..., "evidence": {"command", "console", "splat"}}
    replies/<hash>           the replies, as pack_reply() makes them; equal ones are stored once

An answer is found by what was asked and by the commands given since the last reset (a debugfs id means nothing without
them), in the order of the recording; when all answers to a question are used up, the last one is given again. So tests
may be selected, reordered and distributed otherwise than when they were recorded.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_iommu import outcomes
from pytest_iommu.guest.ops import Code
from pytest_iommu.outcomes import IommuError, SetupError
from pytest_iommu.pool import Key
from pytest_iommu.targets.protocol import Evidence, Guest, Op, Reply, Result

_HEAD = struct.Struct("<II")
_RESULT = struct.Struct("<iI")
_OP = struct.Struct("<5I")
KINDS = {
    error.kind: error for error in (outcomes.SetupError, outcomes.KernelCrash, outcomes.KernelHang, outcomes.GuestLost)
}


class Context:
    """What a guest was told since the last reset of the test module."""

    def __init__(self) -> None:
        self._told = ""

    def ask(self, ops: Sequence[Op]) -> str:
        """What this batch is looked up by; remembers the commands in it."""
        written = [op.data for op in ops if op.code == Code.WRITE_FILE]
        if any(data.startswith(b"reset") for data in written):
            self._told = ""
        found = _hash(self._told, ops)
        if written:
            self._told = found
        return found


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


class Recorder:
    """Writes a recording of what the guests it watches answer."""

    def __init__(self, directory: Path, worker: str) -> None:
        (directory / "replies").mkdir(parents=True, exist_ok=True)
        self._replies = directory / "replies"
        self._index = (directory / f"index-{worker}.jsonl").open("w", encoding="utf-8")

    def watch(self, guest: Guest, key: Key) -> Guest:
        """The guest, with every answer of it recorded."""
        return _Recorded(guest, key, self)

    def answer(self, key: Key, request: str, reply: Reply) -> None:
        """Record one answer."""
        data = pack_reply(reply)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self._replies / name
        if not path.exists():
            path.write_bytes(data)
        self._write(guest=str(key), request=request, reply=name)

    def failure(self, key: Key, request: str, error: IommuError) -> None:
        """Record that a batch ended badly."""
        evidence = error.evidence or Evidence()
        self._write(
            guest=str(key),
            request=request,
            outcome=error.kind,
            message=error.message,
            evidence={"command": evidence.command, "console": evidence.console, "splat": evidence.splat},
        )

    def close(self) -> None:
        """Finish the index."""
        self._index.close()

    def _write(self, **line: Any) -> None:
        self._index.write(json.dumps(line) + "\n")


class _Recorded:
    """A guest whose answers are recorded."""

    def __init__(self, guest: Guest, key: Key, recorder: Recorder) -> None:
        self.name = guest.name
        self.memory = guest.memory
        self.pause = guest.pause
        self.close = guest.close
        self.evidence = guest.evidence
        self._guest = guest
        self._key = key
        self._recorder = recorder
        self._context = Context()

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        request = self._context.ask(ops)
        try:
            reply = self._guest.run(ops, timeout)
        except IommuError as error:
            self._recorder.failure(self._key, request, error)
            raise
        self._recorder.answer(self._key, request, reply)
        return reply


class ReplayTarget:
    """Guests that answer from a recording. The recording's order is kept across the guests of one target."""

    name = "replay"

    def __init__(self, directory: Path, key: Key) -> None:
        self.directory = directory
        self._key = str(key)
        self._answers: dict[str, list[dict[str, Any]]] = {}
        indexes = sorted(directory.glob("index-*.jsonl"))
        if not indexes:
            raise SetupError(f"{directory} is no recording: it has no index-*.jsonl")
        for index in indexes:
            for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
                self._add(f"{index}:{number}", line)
        if not self._answers:
            raise SetupError(f"{directory} has no recording of a guest {key}")

    def start(self) -> ReplayGuest:
        """A guest; it has no state but the place in the recording, which is the target's."""
        return ReplayGuest(self._key, self)

    def answer(self, request: str, ops: Sequence[Op]) -> Reply:
        """The next answer to this batch."""
        answers = self._answers.get(request)
        if not answers:
            asked = "; ".join(f"op {op.code} {op.path}" for op in ops)
            raise SetupError(f"{self.directory} has no answer to this batch, record it again: {asked}")
        line = answers.pop(0) if len(answers) > 1 else answers[0]
        if "outcome" in line:
            raise KINDS[line["outcome"]](line["message"], Evidence(**line["evidence"]))
        path = self.directory / "replies" / line["reply"]
        try:
            return unpack_reply(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SetupError(f"{path}: {error}") from error

    def _add(self, where: str, text: str) -> None:
        try:
            line = json.loads(text)
            if line["guest"] != self._key:
                return
            if "outcome" in line and line["outcome"] not in KINDS:
                raise ValueError(f"no outcome {line['outcome']!r}")
            self._answers.setdefault(line["request"], []).append(line)
        except (ValueError, KeyError) as error:
            raise SetupError(f"{where}: not a line of a recording: {error}") from error


class ReplayGuest:
    """A guest that answers from a recording. What was in its RAM is not recorded."""

    memory = None

    def __init__(self, name: str, target: ReplayTarget) -> None:
        self.name = f"{name} (replay)"
        self._target = target
        self._context = Context()

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """The recorded answer; ``timeout`` means nothing here."""
        return self._target.answer(self._context.ask(ops), ops)

    def pause(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""

    def evidence(self) -> Evidence:
        """A recorded failure carries its own."""
        return Evidence(command=f"replay of {self._target.directory}")
