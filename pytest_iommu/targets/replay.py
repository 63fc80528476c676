# SPDX-License-Identifier: GPL-2.0-only
"""The replay target: the answers of a recorded run, without QEMU or kernel. It reads the files of recording.py.

An answer is found by test, batch, and the commands since the last reset (a debugfs id is meaningless without them).
Several matches are used in the order of the recording, the last one repeatedly. So tests may be selected, reordered and
distributed differently from the recording. A test may send a batch that it did not send during the recording, because
another test had sent it and the answer was cached. Then the answer to other tests is used, if all got the same one. A
test that is not in the recording is skipped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.core import outcomes
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.targets.recording import SKIPPED, Context, Plugged, Recorder, Request, current_test, unpack_reply

__all__ = ["Recorder", "ReplayGuest", "ReplayTarget"]

KINDS = {
    error.kind: error for error in (outcomes.SetupError, outcomes.KernelCrash, outcomes.KernelHang, outcomes.GuestLost)
}

Line = dict[str, Any]


def recorded_machines(directory: Path) -> tuple[str, ...]:
    """The machines that a recording has guests of; none where there is no recording, or a malformed one."""
    found: dict[str, None] = {}
    for index in sorted(directory.glob("index-*.jsonl")):
        for line in index.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                found[json.loads(line)["guest"].partition("/")[0]] = None
    return tuple(found)


class ReplayTarget:
    """Guests that answer from a recording. The recording's order is kept across the guests of one target.

    ``test`` returns the running test.
    """

    name = "replay"

    def __init__(self, directory: Path, key: Key, test: Callable[[], str] = current_test) -> None:
        self.directory = directory
        self.test = test
        self._key = key
        self._tests: set[str] = set()
        self._kernels: set[str] = set()
        self._in_test: dict[tuple[str, str], list[Line]] = {}
        self._used: dict[tuple[str, str], int] = {}
        self._told: dict[str, list[Line]] = {}
        self._asked: dict[str, list[Line]] = {}
        self._now = ""
        indexes = sorted(directory.glob("index-*.jsonl"))
        if not indexes:
            raise SetupError(f"{directory} is not a recording: it has no index-*.jsonl")
        for index in indexes:
            for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
                self._add(f"{index}:{number}", line)
        if str(key.kernel) not in self._kernels:
            has = ", ".join(sorted(self._kernels))
            raise SetupError(f"{directory} has no recording of a guest {key}, but of {has}")

    def start(self) -> ReplayGuest:
        """Return a guest; its only state is the position in the recording, which belongs to the target."""
        return ReplayGuest(str(self._key), self)

    def answer(self, request: Request, ops: Sequence[Op]) -> Reply:
        """Return the next answer to this batch. Skips a test that is not in the recording."""
        if request.test not in self._tests and "" not in self._tests:
            pytest.skip(f"{self.directory} has no recording of this test: it was skipped or not run then")
        if request.test != self._now:  # a second run gets the same answers
            self._now = request.test
            self._used.clear()
        line = self._next(request.test, request.told) or self._next("", request.told)
        line = line or _unanimous(self._told.get(request.told)) or _unanimous(self._asked.get(request.asked))
        if line is None:
            asked = "; ".join(f"op {op.code} {op.path}" for op in ops)
            raise SetupError(f"{self.directory} has no answer to this batch, record it again: {asked}")
        if line.get("outcome") == SKIPPED:
            pytest.skip(line["message"])
        if "outcome" in line:
            raise KINDS[line["outcome"]](line["message"], Evidence(**line["evidence"]))
        path = self.directory / "replies" / line["reply"]
        try:
            return unpack_reply(path.read_bytes())
        except (OSError, ValueError) as error:
            raise SetupError(f"{path}: {error}") from error

    def _next(self, test: str, told: str) -> Line | None:
        lines = self._in_test.get((test, told))
        if lines is None:
            return None
        at = self._used.get((test, told), 0)
        self._used[test, told] = at + 1
        return lines[min(at, len(lines) - 1)]

    def _add(self, where: str, text: str) -> None:
        try:
            line = json.loads(text)
            guest, test = line["guest"], line["test"]
            self._kernels.add("/".join(guest.split("/")[:2]))
            if guest != str(self._key):
                return
            if "outcome" in line and line["outcome"] not in (SKIPPED, *KINDS):
                raise ValueError(f"unknown outcome {line['outcome']!r}")
            self._tests.add(test)
            self._in_test.setdefault((test, line["told"]), []).append(line)
            self._told.setdefault(line["told"], []).append(line)
            self._asked.setdefault(line["asked"], []).append(line)
        except (ValueError, KeyError, AttributeError) as error:
            raise SetupError(f"{where}: malformed line in the recording: {error}") from error


def _unanimous(lines: Sequence[Line] | None) -> Line | None:
    """Return the answer that all of them have, or None."""
    replies = {line.get("reply") for line in lines or ()}
    return lines[0] if lines and len(replies) == 1 and None not in replies else None


class ReplayGuest:
    """A guest that answers from a recording. Its RAM is not recorded."""

    memory = None

    def __init__(self, name: str, target: ReplayTarget) -> None:
        self.name = f"{name} (replay)"
        self.devices = Plugged()
        self._target = target
        self._context = Context(self.devices)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Return the recorded answer; ``timeout`` is ignored."""
        return self._target.answer(self._context.ask(self._target.test(), ops), ops)

    def pause(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""

    def evidence(self) -> Evidence:
        """A recorded failure has its own evidence."""
        return Evidence(command=f"replay of {self._target.directory}")
