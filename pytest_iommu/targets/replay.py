# SPDX-License-Identifier: GPL-2.0-only
"""The replay target: the answers of a recorded run, without QEMU or kernel. recording.py makes what it reads.

An answer is looked up by the test that asks, what it asks, and the commands it gave since the last reset (a debugfs id
means nothing without them); in the order of the recording, the last one again when all are used up. So tests may be
selected, reordered and distributed otherwise than when they were recorded. What a test asks here and did not ask then,
because another one had asked before and the answer was kept, is taken from the others where all of them were told the
same. A test that is not in the recording is skipped.
"""

from __future__ import annotations

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


class ReplayTarget:
    """Guests that answer from a recording. The recording's order is kept across the guests of one target.

    ``test`` gives the test that is running.
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
            raise SetupError(f"{directory} is no recording: it has no index-*.jsonl")
        for index in indexes:
            for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
                self._add(f"{index}:{number}", line)
        if str(key.kernel) not in self._kernels:
            raise SetupError(f"{directory} has no recording of a guest {key}")

    def start(self) -> ReplayGuest:
        """A guest; it has no state but the place in the recording, which is the target's."""
        return ReplayGuest(str(self._key), self)

    def answer(self, request: Request, ops: Sequence[Op]) -> Reply:
        """The next answer to this batch. Skips a test that is not in the recording."""
        if request.test not in self._tests and "" not in self._tests:
            pytest.skip(f"{self.directory} has no recording of this test: it was skipped then, or not run")
        if request.test != self._now:  # run twice, it is told the same twice
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
                raise ValueError(f"no outcome {line['outcome']!r}")
            self._tests.add(test)
            self._in_test.setdefault((test, line["told"]), []).append(line)
            self._told.setdefault(line["told"], []).append(line)
            self._asked.setdefault(line["asked"], []).append(line)
        except (ValueError, KeyError, AttributeError) as error:
            raise SetupError(f"{where}: not a line of a recording: {error}") from error


def _unanimous(lines: Sequence[Line] | None) -> Line | None:
    """The answer that all of them are, or None."""
    replies = {line.get("reply") for line in lines or ()}
    return lines[0] if lines and len(replies) == 1 and None not in replies else None


class ReplayGuest:
    """A guest that answers from a recording. What was in its RAM is not recorded."""

    memory = None

    def __init__(self, name: str, target: ReplayTarget) -> None:
        self.name = f"{name} (replay)"
        self.devices = Plugged()
        self._target = target
        self._context = Context(self.devices)

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """The recorded answer; ``timeout`` means nothing here."""
        return self._target.answer(self._context.ask(self._target.test(), ops), ops)

    def pause(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing runs."""

    def evidence(self) -> Evidence:
        """A recorded failure carries its own."""
        return Evidence(command=f"replay of {self._target.directory}")
