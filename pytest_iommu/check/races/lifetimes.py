# SPDX-License-Identifier: GPL-2.0-only
"""Read files of domains that are created, changed and destroyed by a long command script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pytest_iommu.check.races.storm import PATIENCE, Send, nothing_raced, read_job
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Read, Signal
from pytest_iommu.guest.testmodule import MODULE, parse_status

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Result

ROUNDS = 3
"""How often each reader must read its file while the commands run."""


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file to read repeatedly. ``judge(text, whole)`` returns what is wrong with a text, or None.

    ``whole`` is False if the text is truncated. ``ends`` are the errnos that may end the reader. If there are none, the
    reader must run until it is told to stop.
    """

    path: str
    judge: Callable[[str, bool], str | None]
    rules: tuple[str, ...]
    chunk: int = 65536
    cpu: int | None = None
    ends: tuple[str, ...] = ()


def run(send: Send, watches: Sequence[WatchedFile], script: str, last: str = "") -> list[CheckFailed]:
    """Read all files while ``script`` is written to the module's control file, on processor 0; then judge the texts.

    The script starts when every reader has read its file once. It repeats until each has read it ROUNDS times more,
    between two runs of the script: so reads overlap the commands, however the host runs the guest's processors. Then
    ``last`` is written once, with the readers still running. SetupError if a command fails.
    """
    writer = len(watches)
    readers = range(writer)
    control, patience = f"{MODULE}/control", int(PATIENCE * 500)
    started = [
        *(jobs.start_reader(number, one.path, one.chunk, one.cpu, rounds=0) for number, one in enumerate(watches)),
        jobs.await_rounds(readers, 0, patience),
        jobs.start_writer(writer, control, script.encode(), cpu=0, rounds=0),
        jobs.await_rounds([writer], 0, patience),
        jobs.await_rounds(readers, ROUNDS, patience),
        jobs.await_rounds([writer], 0, patience),
        jobs.signal_job(writer, Signal.STOP),
    ]
    written = [jobs.wait_job(writer, patience), ops.read_file(f"{MODULE}/status")]
    ending = [jobs.start_writer(writer, control, last.encode(), cpu=0), *written] if last else []
    # A reader whose file must disappear is not told to stop: it could stop before it has noticed.
    stopped = [jobs.signal_job(number, Signal.STOP) for number, watch in enumerate(watches) if not watch.ends]
    try:
        results = list(send([*started, *written, *ending, *stopped], PATIENCE).results)
        _all_ok(results[: len(started)])
        del results[: len(started)]
        _all_passed(script, *results[:2])
        if last:
            _all_ok(results[2:3])
            _all_passed(last, *results[3:5])
        read = [read_job(send, number) for number in readers]
    finally:
        send([jobs.reset_jobs()], PATIENCE)
    failures = [
        failure for watch, (value, reads) in zip(watches, read, strict=True) for failure in _judged(watch, value, reads)
    ]
    if not failures and not _raced(results[0], read):
        nothing_raced("no read(2) overlapped the commands")
    return failures


def _raced(written: Result, read: Sequence[tuple[int, Sequence[Read]]]) -> bool:
    """Whether a read(2) overlapped the commands."""
    calls = jobs.split_calls(written.data)
    begin, end = calls[0].begin, calls[-1].end
    return any(one.begin <= end and one.end >= begin for _, reads in read for one in reads)


def _all_ok(results: Sequence[Result]) -> None:
    for result in results:
        if not result.ok:
            raise SetupError(f"a job failed: {ops.errno_name(result.value)}")


def _all_passed(script: str, written: Result, status: Result) -> None:
    """SetupError if a command of ``script``, the last one written, failed."""
    for number, row in parse_status(ops.text_of(status)).items():
        if row.errno is not None:
            line = script.splitlines()[number - 1]
            raise SetupError(f"{line}: {row.errno} {row.message}")
    _all_ok([written])


def _judged(watch: WatchedFile, value: int, reads: Sequence[Read]) -> Iterator[CheckFailed]:
    name = ops.errno_name(value)
    if name == "EMSGSIZE":
        # The reader ran out of buffer: its last round is truncated.
        value, reads = 0, [read for read in reads if read.round != reads[-1].round]
    if (value < 0 or watch.ends) and name not in watch.ends:
        wanted = " or ".join(watch.ends) or "success"
        yield CheckFailed(f"{watch.path}: the reader ended with {name}, expected {wanted}", ("CON-9", *watch.rules))
        return
    for number, group in groupby(reads, key=lambda read: read.round):
        pieces = list(group)
        text = b"".join(piece.data for piece in pieces)
        problem = watch.judge(text.decode("utf-8", "backslashreplace"), pieces[-1].value == 0)
        if problem is not None:
            what = f"{watch.path}, {watch.chunk} bytes per read(2), round {number}: {problem}"
            yield CheckFailed(what, watch.rules, files={"read.txt": text})
            return


def same(want: str) -> Callable[[str, bool], str | None]:
    """Return a judge for a file whose text never changes: a truncated read must be a prefix of it."""

    def judge(text: str, whole: bool) -> str | None:
        if text == want or (not whole and want.startswith(text)):
            return None
        at = next((i for i, (a, b) in enumerate(zip(text, want, strict=False)) if a != b), min(len(text), len(want)))
        line = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]
        return f"first difference at byte {at}, in line {line!r}"

    return judge
