# SPDX-License-Identifier: GPL-2.0-only
"""Readers of files that go, or whose subject moves, while one writer gives the test module a long batch of commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Read, Signal
from pytest_iommu.outcomes import CheckFailed, SetupError
from pytest_iommu.races.storm import PATIENCE, Send, read_job
from pytest_iommu.testmodule import MODULE, parse_status

if TYPE_CHECKING:
    from pytest_iommu.targets.protocol import Result


@dataclass(frozen=True, slots=True)
class Watch:
    """A file read again and again: ``judge`` says what is wrong with a text of it, whole or (False) cut by its end.

    ``ends`` are the errnos that may end the reader; without any it must not end before it is told to.
    """

    path: str
    judge: Callable[[str, bool], str | None]
    rules: tuple[str, ...]
    chunk: int = 65536
    cpu: int | None = None
    ends: tuple[str, ...] = ()


def run(send: Send, watches: Sequence[Watch], script: str) -> list[CheckFailed]:
    """Read all files while ``script`` is written to the module's control, on processor 0; then judge what was read.

    SetupError when a command fails; that no read(2) was made while the commands ran is a failure.
    """
    started = [
        jobs.start_reader(number, watch.path, watch.chunk, watch.cpu, rounds=0) for number, watch in enumerate(watches)
    ]
    writer = len(watches)
    batch = [*started, jobs.start_writer(writer, f"{MODULE}/control", script.encode(), cpu=0)]
    batch += [jobs.wait_job(writer, int(PATIENCE * 500)), ops.read_file(f"{MODULE}/status")]
    # One that must find its file gone is not told to stop: it might do so before it has found out.
    batch += [jobs.signal_job(number, Signal.STOP) for number, watch in enumerate(watches) if not watch.ends]
    try:
        results = send(batch, PATIENCE).results
        written = results[len(started) + 1]
        _all_passed(script, [*results[: len(started) + 1], written], results[len(started) + 2])
        read = [read_job(send, number) for number in range(len(watches))]
    finally:
        send([jobs.reset_jobs()], PATIENCE)
    (wrote,) = jobs.split_calls(written.data)
    failures = [
        failure for watch, (value, reads) in zip(watches, read, strict=True) for failure in _judged(watch, value, reads)
    ]
    during = sum(one.begin <= wrote.end and one.end >= wrote.begin for _, reads in read for one in reads)
    if not failures and not during:
        failures.append(CheckFailed("nothing raced: no read(2) was made while the commands ran"))
    return failures


def _all_passed(script: str, jobs_done: Sequence[Result], status: Result) -> None:
    for number, row in parse_status(ops.text_of(status)).items():
        if row.errno is not None:
            line = script.splitlines()[number - 1]
            raise SetupError(f"{line}: {row.errno} {row.message}")
    for result in jobs_done:
        if not result.ok:
            raise SetupError(f"a job fails with {ops.errno_name(result.value)}")


def _judged(watch: Watch, value: int, reads: Sequence[Read]) -> Iterator[CheckFailed]:
    name = ops.errno_name(value)
    if (value < 0 or watch.ends) and name not in watch.ends:
        wanted = " or ".join(watch.ends) or "that it can be read"
        yield CheckFailed(f"{watch.path}: the reader ends with {name}, should be {wanted}", ("CON-9", *watch.rules))
        return
    for number, group in groupby(reads, key=lambda read: read.round):
        pieces = list(group)
        text = b"".join(piece.data for piece in pieces)
        problem = watch.judge(text.decode("utf-8", "backslashreplace"), pieces[-1].value == 0)
        if problem is not None:
            what = f"{watch.path}, {watch.chunk} bytes a read(2), round {number}: {problem}"
            yield CheckFailed(what, watch.rules, files={"read.txt": text})
            return


def same(want: str) -> Callable[[str, bool], str | None]:
    """Judges a file whose text does not change: a read that was cut short has the beginning of it."""

    def judge(text: str, whole: bool) -> str | None:
        if text == want or (not whole and want.startswith(text)):
            return None
        at = next((i for i, (a, b) in enumerate(zip(text, want, strict=False)) if a != b), min(len(text), len(want)))
        line = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]
        return f"differs from byte {at} on, where it has {line!r}"

    return judge
