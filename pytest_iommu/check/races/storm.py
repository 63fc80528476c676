# SPDX-License-Identifier: GPL-2.0-only
"""A storm: mapper threads in the kernel change cells of a table, readers read its files, every line is judged.

run(send, dialect, table, storm).failures is what is wrong; the rest of an Outcome says what there was to find it by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING

from pytest_iommu.check.races.counts import judge_stats
from pytest_iommu.check.races.history import CHANGING, History, Window
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

#: takes a batch to the guest; the second argument is how long it may take, in seconds
Send = Callable[["Sequence[Op]", float], "Reply"]

PATIENCE = 120.0
ROUNDS = 2
"""How often each reader reads its file while the storm goes on."""
SLOT = 63
_FAILURES = 4


@dataclass(frozen=True, slots=True)
class Table:
    """What the storm is over: the domain's name in the test module, its directory, what is mapped beside the cells."""

    name: str
    directory: str
    config: TableConfig
    sentinels: tuple[Range, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What is wrong, and what there was to find it by.

    ``raced`` counts the changes that began during a read, once for each read; ``races`` those reads.
    """

    failures: list[CheckFailed] = field(default_factory=list)
    changes: int = 0
    raced: int = 0
    races: int = 0
    rounds: int = 0
    lines: int = 0
    seconds: float = 0.0
    judging: float = 0.0


def run(send: Send, dialect: Dialect, table: Table, storm: Storm) -> Outcome:
    """Let it happen, then judge every line of every read. The cells are unmapped before and afterwards.

    The storm begins when every reader has read its file once, and goes on until each has read it ROUNDS times more.
    SetupError when the storm itself goes wrong.
    """
    outcome, text = _once(send, dialect, table, storm)
    if not outcome.raced and not outcome.failures:
        what = f"nothing raced: {outcome.rounds} reads and {outcome.changes} changes, none of them at the same time"
        outcome.failures.append(CheckFailed(what))
    again = f"storm: {storm.command(table.name)}"
    outcome.failures = [_told(failure, "", again, {"storm.txt": text}) for failure in outcome.failures]
    return outcome


def _once(send: Send, dialect: Dialect, table: Table, storm: Storm) -> tuple[Outcome, bytes]:
    """One storm judged, and its log."""
    text, read = _happen(send, table, storm)
    log = parse_storm(text.decode())
    if log.error:
        raise SetupError(f"the storm ended with {ops.errno_name(-log.error)}: {storm.command(table.name)}")
    outcome = Outcome(changes=len(log.done))
    if log.done:
        outcome.seconds = (log.done[-1].end - log.done[0].begin) / 1e9
    began = time.monotonic()
    judge = Judge(dialect, table, log)
    for reader, (value, reads) in zip(storm.readers, read, strict=True):
        judge.reader(reader, value, reads, outcome)
    outcome.judging = time.monotonic() - began
    return outcome, text


def _told(failure: CheckFailed, before: str, after: str, files: dict[str, bytes]) -> CheckFailed:
    """The failure with more text around it, and more files."""
    message = f"{before}\n{failure.message}\n{after}".strip()
    return failure.told(message, files)


def _happen(send: Send, table: Table, storm: Storm) -> tuple[bytes, list[tuple[int, list[Read]]]]:
    """The storm with its readers: its log, and of every reader its value and what it read."""
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
        # One that does not come this far is met by read_job().
        ("", None, [jobs.await_rounds(range(count), 0, patience)]),
        (commands[0], _passed, command_ops(f"{commands[0]}\n")),
        ("", None, [jobs.await_rounds(range(count), ROUNDS, patience)]),
        (commands[1], _passed, command_ops(f"{commands[1]}\n")),
        # The first byte of the log comes when the storm is over; all of it would keep the readers going for nothing.
        ("the storm", _ok, [ops.open_file(SLOT, log), ops.read(SLOT, 1), ops.close(SLOT)]),
        ("stopping a reader", _ok, [jobs.signal_job(number, Signal.STOP) for number in range(count)]),
        ("the log of the storm", _ok, [ops.read_file(log)]),
    ]
    # All in one go: what is between two batches takes the host's time, and the storm goes on meanwhile.
    try:
        reply = send([op for _, _, batch in steps for op in batch], PATIENCE)
        results = iter(reply.results)
        for what, check, batch in steps:
            part = list(islice(results, len(batch)))
            if check is not None:
                check(what, part)
        # one by one: what a reader has read may be many megabytes
        read = [read_job(send, number) for number in range(count)]
    finally:
        send([jobs.reset_jobs()], PATIENCE)
    calm = f"calm {table.name}"
    _passed(calm, send(command_ops(f"{calm}\n"), PATIENCE).results)
    return reply.results[-1].data, read


def read_job(send: Send, number: int) -> tuple[int, list[Read]]:
    """The value of a reader that was told to stop, and what it read. CheckFailed when it does not come back."""
    (result,) = send([jobs.wait_job(number, int(PATIENCE * 500))], PATIENCE).results
    if ops.errno_name(result.value) in ("ETIMEDOUT", "ESRCH"):
        (state,) = send([jobs.job_state(number)], PATIENCE).results
        what = f"reader {number} does not come back: {ops.errno_name(result.value)}\n{ops.text_of(state)}"
        raise CheckFailed(what, ("CON-7",))
    return result.value, jobs.split_reads(result.data)


def _ok(what: str, results: Sequence[Result]) -> None:
    for result in results:
        if not result.ok:
            raise SetupError(f"{what} fails with {ops.errno_name(result.value)}")


def _passed(command: str, results: Sequence[Result]) -> None:
    status = parse_status(status_text(results)).get(1)
    if status is None or status.errno is not None:
        raise SetupError(f"{command}: {status.errno} {status.message}" if status else f"{command}: no answer")


class Judge:
    """Judges what readers have read of a table while a storm went over it."""

    def __init__(self, dialect: Dialect, table: Table, log: StormLog) -> None:
        self._dialect = dialect
        self._table = table
        self._log = log
        self._history: History = log.history(table.config, table.sentinels)
        self._first_info: Info | None = None

    def reader(self, reader: Reader, value: int, reads: Sequence[Read], outcome: Outcome) -> None:
        """All rounds of one reader; ``value`` is the reader's. Stops looking after some failures."""
        who = f"{reader.file} of {self._table.name}, {reader.chunk} bytes a read(2)"
        if ops.errno_name(value) == "EMSGSIZE":
            # it has read more than there is room for: its last round has no end
            reads = [read for read in reads if read.round != reads[-1].round]
        elif value < 0:
            what = f"{who}: reading fails with {ops.errno_name(value)}"
            outcome.failures.append(CheckFailed(what, ("CON-6", "CON-9")))
            return
        for number, group in groupby(reads, key=lambda read: read.round):
            pieces = list(group)
            text = b"".join(piece.data for piece in pieces)
            span = Window(pieces[0].begin, pieces[-1].end)
            outcome.rounds += 1
            raced = self._log.during(span)
            outcome.raced += raced
            outcome.races += raced > 0
            outcome.lines += text.count(b"\n")
            for failure in self.round(reader.file, pieces):
                where = f"{who}, round {number}:"
                outcome.failures.append(_told(failure, where, "", {f"{reader.file}.{number}.txt": text}))
            if len(outcome.failures) >= _FAILURES:
                return

    def round(self, file: str, pieces: Sequence[Read]) -> list[CheckFailed]:
        """One whole read of a file, from open to end.

        A line may have been loaded at any time from the begin of the first read(2) on, however late it came: an open
        file has a batch of entries in hand, which may be older than the read(2) that returns them, and a table that it
        has entered may have been replaced meanwhile. It was loaded before the read(2) that returned its last byte
        ended.
        """
        text = b"".join(piece.data for piece in pieces).decode("utf-8", "backslashreplace")
        span = Window(pieces[0].begin, pieces[-1].end)
        if file == "info":
            return self._info(text)
        if file == "stats":
            return judge_stats(text, self._dialect, self._history, span)
        when = dict(_windows(file, pieces))
        return judge_text(file, text, self._dialect, self._history, lambda row: when.get(row.first, span), span)

    def _info(self, text: str) -> list[CheckFailed]:
        """All of it stays as it is while cells change: no cell makes the top grow."""
        dump, errors = self._dialect.read({"info": text})
        if errors or dump.info is None:
            return [unreadable("info", error) for error in errors]
        if self._first_info in (None, dump.info):
            self._first_info = dump.info
            return []
        what = f"info changes:\n  {self._first_info}\n  {dump.info}"
        return [CheckFailed(what, ("INF-3", "CON-4"), verdict=Verdict.UNDECIDED, because=CHANGING)]


def _windows(file: str, pieces: Sequence[Read]) -> Iterator[tuple[int, Window]]:
    """For every line its address, and its window; a line over several read(2)s belongs to the last of them."""
    begin, rest = pieces[0].begin, b""
    skip = 0 if file == "page_table" else 1
    for piece in pieces:
        *lines, rest = (rest + piece.data).split(b"\n")
        window = Window(begin, piece.end)
        for line in lines:
            try:
                # of a table and a leaf at the same address the leaf comes later
                yield int(line.split(maxsplit=skip + 1)[skip][:18], 16), window
            except (ValueError, IndexError):
                continue  # judge_text() will say it
