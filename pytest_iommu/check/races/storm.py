# SPDX-License-Identifier: GPL-2.0-only
"""Storms: mapper threads in the kernel change the cells of a table, readers read its files, every line is judged.

run(send, dialect, table, storm).failures lists what is wrong. The rest of an Outcome says how much raced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_iommu.check.races.counts import judge_stats
from pytest_iommu.check.races.end_state import ended_early, judge_end
from pytest_iommu.check.races.history import CHANGING, History, Interval
from pytest_iommu.check.races.lines import judge_text, unreadable
from pytest_iommu.check.races.storm_log import StormLog, parse_storm
from pytest_iommu.core.model import Info, Range, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Read, Signal
from pytest_iommu.guest.testmodule import MODULE, command_ops, parse_status, status_text
from pytest_iommu.scenario.race_words import Reader, Storm

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Op, Reply, Result
    from pytest_iommu.dialects import Dialect

#: sends a batch to the guest; the second argument is its time limit in seconds
Send = Callable[["Sequence[Op]", float], "Reply"]

#: the lines of page_table that follow from the guest's memory; None if unknown
InMemory = Callable[[], "Sequence[Range] | None"]

PATIENCE = 120.0
PAUSE = 100
"""Microseconds between the changes of a storm without readers."""
TRIES = 3
"""How often a storm is tried until a change is made during a read or, without readers, during another change.

The host may keep a reader's processor off its cores, between two reads, for as long as all changes take.
"""
ROUNDS = 2
"""How often each reader must read its file during the storm; four times as often each time that it is tried again."""
SLOT = 63
_FAILURES = 4


@dataclass(frozen=True, slots=True)
class StormTable:
    """The table of a storm: the domain's name in the test module, its directory, and its mappings besides the cells."""

    name: str
    directory: str
    config: TableConfig
    sentinels: tuple[Range, ...] = ()


@dataclass(slots=True)
class Outcome:
    """The failures of a storm, and how much raced.

    ``raced`` counts the changes that began during a read, once per read; ``races`` counts those reads.
    """

    failures: list[CheckFailed] = field(default_factory=list)
    changes: int = 0
    raced: int = 0
    races: int = 0
    rounds: int = 0
    lines: int = 0
    seconds: float = 0.0
    judging: float = 0.0


def run(send: Send, dialect: Dialect, table: StormTable, storm: Storm, in_memory: InMemory | None = None) -> Outcome:
    """Run a storm, then judge every line of every read. The cells are unmapped before and after.

    The storm begins when every reader has read its file once, and lasts until each has read it ROUNDS times more.
    ``in_memory`` finds the table in the guest's memory, which must be what the changes leave (TAB-8). SetupError if the
    storm itself fails; the test is skipped if nothing raced.
    """
    if not storm.readers and storm.mappers > 1:
        # Mappers that sleep now and then meet also where the guest's processors share one of the host.
        storm = replace(storm, pause=max(storm.pause, PAUSE))
    for number in range(TRIES):
        storm = replace(storm, seed=storm.seed + number)
        outcome, text = _once(send, dialect, table, storm, in_memory, ROUNDS << 2 * number)
        if outcome.raced or outcome.failures:
            break
    else:
        during = f"one of {outcome.rounds} reads" if storm.readers else "a change by another thread"
        nothing_raced(f"none of {outcome.changes} changes began during {during}, {TRIES} times")
    again = f"storm: {storm.command(table.name)}"
    outcome.failures = [_described(failure, "", again, {"storm.txt": text}) for failure in outcome.failures]
    return outcome


def nothing_raced(why: str) -> NoReturn:
    """Skip the test: it says nothing of a kernel when this machine made nothing happen at the same time."""
    pytest.skip(f"the host runs one processor of the guest after the other: {why}")


def _once(
    send: Send, dialect: Dialect, table: StormTable, storm: Storm, in_memory: InMemory | None, rounds: int
) -> tuple[Outcome, bytes]:
    """Judge one storm by its log."""
    text, read, left = _happen(send, table, storm, in_memory, rounds)
    log = parse_storm(text.decode())
    outcome = Outcome(changes=len(log.done))
    if log.error:
        outcome.failures.append(ended_early(log))
        return outcome, text
    if left is not None:
        outcome.failures += judge_end(log, table.config, table.sentinels, left)
    if not storm.readers:
        outcome.raced = log.overlaps
    if log.done:
        outcome.seconds = (log.done[-1].end - log.done[0].begin) / 1e9
    began = time.monotonic()
    judge = Judge(dialect, table, log)
    for reader, (value, reads) in zip(storm.readers, read, strict=True):
        judge.reader(reader, value, reads, outcome)
    outcome.judging = time.monotonic() - began
    return outcome, text


def _described(failure: CheckFailed, before: str, after: str, files: dict[str, bytes]) -> CheckFailed:
    """Return the failure with more text around it and more files attached."""
    message = f"{before}\n{failure.message}\n{after}".strip()
    return failure.told(message, files)


def _happen(
    send: Send, table: StormTable, storm: Storm, in_memory: InMemory | None, rounds: int
) -> tuple[bytes, list[tuple[int, list[Read]]], Sequence[Range] | None]:
    """Run the storm with its readers.

    Returns its log, the return value and the reads of every reader, and the lines of the table in memory afterwards.
    """
    count = len(storm.readers)
    patience = int(PATIENCE * 500)
    log = f"{MODULE}/storm"
    commands = [storm.command(table.name), f"enough {table.name}"]
    started = [
        jobs.start_reader(number, f"{table.directory}/{reader.file}", reader.chunk, reader.cpu, rounds=0)
        for number, reader in enumerate(storm.readers)
    ]
    steps = [
        ("starting a reader", _ok, started),
        # read_job() reports a reader that does not get this far.
        ("", None, [jobs.await_rounds(range(count), 0, patience)]),
        (commands[0], _passed, command_ops(f"{commands[0]}\n")),
        ("", None, [jobs.await_rounds(range(count), rounds, patience)]),
        (commands[1], _passed, command_ops(f"{commands[1]}\n")),
        # The log's first byte arrives when the storm is over. Reading all of it would keep the readers running
        # needlessly.
        ("the storm", _ok, [ops.open_file(SLOT, log), ops.read(SLOT, 1), ops.close(SLOT)]),
        ("stopping a reader", _ok, [jobs.signal_job(number, Signal.STOP) for number in range(count)]),
        ("reading the storm log", _ok, [ops.read_file(log)]),
    ]
    # One batch for all: between two batches the host takes its time, and the storm goes on.
    try:
        reply = send([op for _, _, batch in steps for op in batch], PATIENCE)
        results = iter(reply.results)
        for what, check, batch in steps:
            part = list(islice(results, len(batch)))
            if check is not None:
                check(what, part)
        # one by one: a reader may have read many megabytes
        read = [read_job(send, number) for number in range(count)]
    finally:
        send([jobs.reset_jobs()], PATIENCE)
    left = in_memory() if in_memory is not None else None
    calm = f"calm {table.name}"
    _passed(calm, send(command_ops(f"{calm}\n"), PATIENCE).results)
    return reply.results[-1].data, read, left


def read_job(send: Send, number: int) -> tuple[int, list[Read]]:
    """Return the value and the reads of a reader that was told to stop. CheckFailed if it does not end."""
    (result,) = send([jobs.wait_job(number, int(PATIENCE * 500))], PATIENCE).results
    if ops.errno_name(result.value) in ("ETIMEDOUT", "ESRCH"):
        (state,) = send([jobs.job_state(number)], PATIENCE).results
        what = f"reader {number} does not stop: {ops.errno_name(result.value)}\n{ops.text_of(state)}"
        raise CheckFailed(what, ("CON-7",))
    return result.value, jobs.split_reads(result.data)


def _ok(what: str, results: Sequence[Result]) -> None:
    for result in results:
        if not result.ok:
            raise SetupError(f"{what} failed: {ops.errno_name(result.value)}")


def _passed(command: str, results: Sequence[Result]) -> None:
    status = parse_status(status_text(results)).get(1)
    if status is None or status.errno is not None:
        raise SetupError(f"{command}: {status.errno} {status.message}" if status else f"{command}: no answer")


class Judge:
    """Judges what readers read of a table during a storm."""

    def __init__(self, dialect: Dialect, table: StormTable, log: StormLog) -> None:
        self._dialect = dialect
        self._table = table
        self._log = log
        self._history: History = log.history(table.config, table.sentinels)
        self._first_info: Info | None = None

    def reader(self, reader: Reader, value: int, reads: Sequence[Read], outcome: Outcome) -> None:
        """Judge all rounds of one reader; ``value`` is the reader's return value. Stops after some failures."""
        who = f"{reader.file} of {self._table.name}, {reader.chunk} bytes per read(2)"
        if ops.errno_name(value) == "EMSGSIZE":
            # the reader ran out of buffer: its last round is truncated
            reads = [read for read in reads if read.round != reads[-1].round]
        elif value < 0:
            what = f"{who}: read failed: {ops.errno_name(value)}"
            outcome.failures.append(CheckFailed(what, ("CON-6", "CON-9")))
            return
        for number, group in groupby(reads, key=lambda read: read.round):
            pieces = list(group)
            text = b"".join(piece.data for piece in pieces)
            span = Interval(pieces[0].begin, pieces[-1].end)
            outcome.rounds += 1
            raced = self._log.during(span)
            outcome.raced += raced
            outcome.races += raced > 0
            outcome.lines += text.count(b"\n")
            for failure in self.round(reader.file, pieces):
                where = f"{who}, round {number}:"
                outcome.failures.append(_described(failure, where, "", {f"{reader.file}.{number}.txt": text}))
            if len(outcome.failures) >= _FAILURES:
                return

    def round(self, file: str, pieces: Sequence[Read]) -> list[CheckFailed]:
        """Judge one whole read of a file, from open to end.

        A line may have been loaded at any time after the begin of the first read(2). An open file keeps a batch of
        entries, which may be older than the read(2) that returns them, and a table that the reader entered may have
        been replaced meanwhile. The latest possible load is before the end of the read(2) that returned the line's last
        byte.
        """
        text = b"".join(piece.data for piece in pieces).decode("utf-8", "backslashreplace")
        span = Interval(pieces[0].begin, pieces[-1].end)
        if file == "info":
            return self._info(text)
        if file == "stats":
            return judge_stats(text, self._dialect, self._history, span)
        when = dict(_windows(file, pieces))
        return judge_text(file, text, self._dialect, self._history, lambda row: when.get(row.first, span), span)

    def _info(self, text: str) -> list[CheckFailed]:
        """Check that info stays constant while cells change: no cell makes the top level grow."""
        dump, errors = self._dialect.read({"info": text})
        if errors or dump.info is None:
            return [unreadable("info", error) for error in errors]
        if self._first_info in (None, dump.info):
            self._first_info = dump.info
            return []
        what = f"info changed:\n  {self._first_info}\n  {dump.info}"
        return [CheckFailed(what, ("INF-3", "CON-4"), verdict=Verdict.UNDECIDED, because=CHANGING)]


def _windows(file: str, pieces: Sequence[Read]) -> Iterator[tuple[int, Interval]]:
    """Yield the address and the window of every line; a line split over several read(2)s belongs to the last."""
    begin, rest = pieces[0].begin, b""
    skip = 0 if file == "page_table" else 1
    for piece in pieces:
        *lines, rest = (rest + piece.data).split(b"\n")
        window = Interval(begin, piece.end)
        for line in lines:
            try:
                # a leaf sorts after a table at the same address
                yield int(line.split(maxsplit=skip + 1)[skip][:18], 16), window
            except (ValueError, IndexError):
                continue  # judge_text() reports it
