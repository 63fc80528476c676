# SPDX-License-Identifier: GPL-2.0-only
"""One window: hold a reader, run operations, check what they may and may not do, release the reader.

Times are ordinals: 0 is before the hold, 1 the hold, then one per operation; END is the end of the read. Only what
the rules leave open is tolerated: lines that the reader had loaded when it was held must show the state before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Protocol

from pytest_iommu import formats
from pytest_iommu.check.races.held import READER, DumpFile, HeldReader
from pytest_iommu.check.races.history import Change, History, Interval
from pytest_iommu.check.races.lines import judge_text
from pytest_iommu.check.races.snapshots import Snapshot, TableUpdate
from pytest_iommu.check.reading import joined
from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, Status, command_ops, parse_domains, parse_status
from pytest_iommu.oracle.items import Root
from pytest_iommu.scenario.race_words import Hold
from pytest_iommu.scenario.variants import software_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_iommu.check.races.held import Run
    from pytest_iommu.core.protocol import Memory, Op, Reply, Result
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.images import Machine

WRITER, GRACE, BLOCKER = 2, 3, 4
HELD, END = 1, 1 << 20
LAST = (1 << 64) - 1
BLOCKED, DONE = 50, 5000
"""Milliseconds of guest time. BLOCKED: how long to watch an operation that must block. DONE: how soon one that must not
block has to finish."""
GRACE_PERIOD = f"{MODULE}/grace_period_expedited"
#: a software table of another domain, and how many tables each command adds to it
OTHER, OTHERS = "window-other", 24


class WindowGuest(Protocol):
    """The guest in which a window is opened."""

    @property
    def memory(self) -> Memory | None: ...

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply: ...


class Window:
    """Open it, do something, close it. CheckFailed names the broken rules; no reader is left behind then."""

    def __init__(
        self, guest: WindowGuest, gdb: Gdb | None, machine: Machine, dialect: Dialect, place: DumpFile, hold: Hold
    ):
        self._run: Run = guest.run
        self._memory = guest.memory
        self._dialect = dialect
        self._place = place
        self._hold = hold
        self._reader = HeldReader(self._run, gdb, guest.memory, machine, place, hold)
        self._history = History(place.config, place.start)
        self._time = HELD
        self._updates: list[TableUpdate] = []
        self._snapshot: Snapshot | None = None
        #: all tables, for a reader that is in none of them but still uses the domain
        self._whole: Snapshot | None = None
        #: the operation that waits for the reader, as far as the test module's lock shows; and whether it is a command
        self._blocked: str | None = None
        self._command = False
        self._gone = False
        self._grace: bool | None = None
        #: when the grace period of this window began, by time.monotonic()
        self._began: float | None = None
        self._other: Root | None = None
        self._problems: list[CheckFailed] = []
        self._files: dict[str, bytes] = {}

    def open(self) -> None:
        """Start the reader and hold it. CheckFailed if it misses its point; skips if the target cannot hold readers."""
        if self._hold.inside and self._memory is not None:
            self._make_other()
        self._reader.hold()
        if self._hold.inside:
            assert self._memory is not None
            assert self._reader.root is not None
            assert self._reader.item is not None
            self._snapshot = Snapshot.of(self._memory, self._reader.root, self._reader.path, self._reader.item)
            # The operations that follow are part of the time in which the grace period must not end.
            self._begin_grace_period()
        elif self._memory is not None and self._reader.root is not None:
            self._whole = Snapshot(self._memory, self._place.config, self._reader.root.tables(self._memory))

    # Operations while the reader is held

    def command(self, line: str, after: tuple[Range, ...] | None = None, ends: bool = False) -> dict[str, str]:
        """Run a command of the test module that must finish while the reader is held (CON-6). Returns its values.

        ``after`` lists the mappings of the domain after the command, None if they do not change. ``ends``: the command
        frees the domain, which ends the read.
        """
        self._next(line)
        self._gone |= ends
        self._note(line, after, self._time)
        script = self._with_others(line)
        written, done = self._ask(
            [
                jobs.start_writer(WRITER, f"{MODULE}/control", f"{script}\n".encode()),
                jobs.wait_job(WRITER, DONE),
            ]
        )
        if not written.ok:
            raise SetupError(f"{line}: {ops.errno_name(written.value)}")
        if ops.errno_name(done.value) == "ETIMEDOUT":
            self._abandon(f"`{line}` has not finished after {DONE} ms: it waits for {self._hold}", "CON-6")
        return self._status(script).values

    def block(
        self,
        line: str,
        after: tuple[Range, ...] | None = None,
        must: bool = True,
        ends: bool = False,
    ) -> None:
        """Start a command that must wait for the reader, and finish soon after its release. No operation can follow it.

        ``must=False``: the command may also finish at once.
        """
        self._next(line)
        self._gone |= ends
        self._note(line, after, END)
        self._write(BLOCKER, f"{MODULE}/control", f"{line}\n")
        self._blocked, self._command = line, True
        self._watch(must)

    def block_file(self, path: str, text: str, must: bool = True) -> None:
        """The same for one write(2) to a file of the guest."""
        what = f"writing {text.strip()} to {path}"
        self._next(what)
        self._write(BLOCKER, path, text)
        self._blocked, self._command = what, False
        self._watch(must)

    def other(self, do: Callable[[], object]) -> None:
        """Run any other operation; ``do`` must make sure that it finishes while the reader is held."""
        self._time += 1
        do()

    def grace_period(self, inside: bool) -> None:
        """Check that a grace period waits for a reader inside the walk (CON-1), and for no other (CON-7).

        For a reader inside the walk the grace period began at the hold, otherwise it begins now.
        """
        if self._grace is not None:
            return
        began = self._begin_grace_period()
        passed = round(1000 * (time.monotonic() - began))
        (over,) = self._ask([jobs.wait_job(GRACE, max(0, BLOCKED - passed) if inside else DONE)])
        self._grace = ops.errno_name(over.value) != "ETIMEDOUT"
        if self._grace and not over.ok:
            raise SetupError(f"reading {GRACE_PERIOD}: {ops.errno_name(over.value)}")
        if self._grace and inside:
            what = f"a grace period began and ended during {self._hold}"
            self._problem(f"{what}: memory freed before it can be reused while the reader still uses it", "CON-1")
        if not self._grace and not inside:
            self._problem(f"a grace period has not ended after {DONE} ms: {self._hold} blocks it", "CON-7")

    def _begin_grace_period(self) -> float:
        if self._began is None:
            (started,) = self._ask([jobs.start_reader(GRACE, GRACE_PERIOD)])
            if not started.ok:
                raise SetupError(f"reading {GRACE_PERIOD}: {ops.errno_name(started.value)}")
            self._began = time.monotonic()
        return self._began

    def tables_kept(self) -> None:
        """Check CON-1: tables that the reader may still read are unchanged, and no other domain owns them."""
        if self._snapshot is None or self._memory is None or self._reader.root is None:
            return
        try:
            # Start from the top table at the hold: if the table has grown since, the new top has that one below it.
            linked = frozenset(table.address for table in self._reader.root.tables(self._memory))
            self._snapshot.check(self._updates, linked, str(self._hold))
            if self._other is not None:
                self._snapshot.check_not_given_out(self._other.tables(self._memory), str(self._hold))
        except CheckFailed as error:
            self._problems.append(error)

    def _whole_table_kept(self) -> None:
        """Check CON-1: a command that frees the domain and waits for the reader must not have freed the table yet.

        A grace period has passed by then.
        """
        if self._whole is None or not self._gone or self._unblocked(0):
            return
        try:
            self._whole.check((), self._whole.addresses, str(self._hold))
        except CheckFailed as error:
            self._problems.append(error)

    def _make_other(self) -> None:
        """Create a table of another domain, which allocates more tables with every command that may free some."""
        config = formats.configure("amdv1")
        made = f"domain {OTHER} {software_command(formats.get('amdv1'), config, {}, None)}\n"
        wrote, listed = self._ask([*command_ops(made)[:1], ops.read_file(f"{MODULE}/domains")])
        row = parse_domains(ops.text_of(listed)).get(OTHER)
        if not wrote.ok or row is None or row.top is None or row.levels is None:
            raise SetupError(f"{made.strip()}: {ops.errno_name(wrote.value)}")
        self._other = Root(config, row.top, row.levels)

    def _with_others(self, line: str) -> str:
        """Return the command and, for the same write, mappings of the other domain, which reuse pages it freed."""
        if self._other is None or TableUpdate.of(line, self._place.name) is None:
            return line
        first = self._time * OTHERS << 21
        return f"{line}\nmap {OTHER} {first:#x} 0x100000000 4K rw count={OTHERS} istep=2M"

    # Release

    def close(self) -> None:
        """Check the rules that hold while the reader is held, release it, and judge what it read.

        CheckFailed lists everything that is wrong.
        """
        self.tables_kept()
        self.grace_period(self._hold.inside)
        self._whole_table_kept()
        self._reader.let_go()
        if self._grace is False and not self._over(GRACE, DONE):
            self._problem(f"a grace period has not ended {DONE} ms after the end of {self._hold}", "CON-1")
        if self._blocked is not None and not self._unblocked(DONE):
            self._abandon(f"`{self._blocked}` has not finished {DONE} ms after the end of {self._hold}", "CON-6")
        self._judge()
        last = [ops.write_file(f"{MODULE}/control", f"destroy {OTHER}\n".encode())] if self._other is not None else []
        self._ask([jobs.reset_jobs(), *last])
        if self._problems:
            raise joined(self._problems, self._files)

    def abandon(self) -> None:
        """Release everything and check nothing, after a failure. Raises nothing."""
        self._reader.abandon()

    def _judge(self) -> None:
        (result,) = self._ask([jobs.wait_job(READER, DONE)])
        name = ops.errno_name(result.value)
        if name == "ETIMEDOUT":
            self._abandon(f"the reader has not finished {DONE} ms after the end of {self._hold}", "CON-7")
        reads = jobs.split_reads(result.data)
        text = b"".join(read.data for read in reads)
        self._files[f"{self._place.name}.{self._place.file}.txt"] = text
        if self._gone and name in ("ok", "EIO"):
            text = text[: text.rfind(b"\n") + 1]
        elif name != "ok":
            self._problem(f"reading {self._place.path} failed: {name}", "CON-6")
            return
        span, item = Interval(0, END), self._reader.item

        def when(row: Range) -> Interval:
            if item is None or row.first < item.iova <= row.last:
                return span
            # Items before the one that the reader was stopped at were loaded before the hold.
            return Interval(0, HELD) if row.last < item.iova else Interval(HELD if self._hold.inside else 0, END)

        shown = text.decode("utf-8", "backslashreplace")
        found = judge_text(self._place.file, shown, self._dialect, self._history, when, span)
        self._problems += [_described(problem, self._place, self._hold) for problem in found]

    # Helpers

    def _note(self, line: str, after: tuple[Range, ...] | None, end: int) -> None:
        update = TableUpdate.of(line, self._place.name)
        if after is not None:
            self._history.add(Change(0, LAST, after, self._time, end, line))
        if update is not None:
            self._updates.append(update)

    def _ask(self, batch: Sequence[Op]) -> Sequence[Result]:
        return self._run(batch).results

    def _next(self, what: str) -> None:
        if self._blocked is not None:
            raise SetupError(f"{what}: no operation can follow the blocked `{self._blocked}`")
        self._time += 1

    def _write(self, job: int, path: str, text: str) -> None:
        (result,) = self._ask([jobs.start_writer(job, path, text.encode())])
        if not result.ok:
            raise SetupError(f"writing to {path}: {ops.errno_name(result.value)}")

    def _over(self, job: int, milliseconds: int) -> bool:
        (result,) = self._ask([jobs.wait_job(job, milliseconds)])
        return ops.errno_name(result.value) != "ETIMEDOUT"

    def _status(self, script: str) -> Status:
        """Return the status of the last line; all lines must have succeeded."""
        (result,) = self._ask([ops.read_file(f"{MODULE}/status")])
        rows = parse_status(ops.text_of(result))
        last = Status(0)
        for number, line in enumerate(script.splitlines(), 1):
            last = rows.get(number, Status(number, "ENODATA", "was not executed"))
            if last.errno is not None:
                self._abandon(f"`{line}` failed: {last.errno} ({last.message}), during {self._hold}")
        return last

    def _watch(self, must: bool) -> None:
        what = self._blocked
        if self._unblocked(BLOCKED) and must:
            self._problem(f"`{what}` finished during {self._hold}, but should wait for it", "CON-1")

    def _unblocked(self, milliseconds: int) -> bool:
        """Whether the blocked operation finishes within that time; abandons the window if it failed."""
        (result,) = self._ask([jobs.wait_job(BLOCKER, milliseconds)])
        what = self._blocked
        if ops.errno_name(result.value) == "ETIMEDOUT" or what is None:
            return False
        self._blocked = None
        if self._command:
            self._status(what)
        elif not result.ok:
            self._abandon(f"{what} failed: {ops.errno_name(result.value)}, during {self._hold}")
        return True

    def _problem(self, text: str, *rules: str) -> None:
        self._problems.append(CheckFailed(text, rules))

    def _abandon(self, text: str, *rules: str) -> NoReturn:
        self._problem(text, *rules)
        self._reader.abandon()
        raise joined(self._problems, self._files)


def _described(problem: CheckFailed, place: DumpFile, hold: Hold) -> CheckFailed:
    text = f"{place.file} of {place.name}, read by {hold} (held at time 1, ended at {END}):\n{problem.message}"
    return problem.told(text)
