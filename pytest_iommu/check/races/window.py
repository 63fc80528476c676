# SPDX-License-Identifier: GPL-2.0-only
"""One window: a reader is held, operations go on, what they may and may not do is checked, the reader goes on.

Times are ordinals: 0 is before the hold, 1 the hold, then one for each operation, END the read's last moment. Nothing
is left to chance but what the rules leave open: the lines that the reader had loaded when it was held are of before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Protocol

from pytest_iommu import formats
from pytest_iommu.check.races.catch import READER, Catch, Place
from pytest_iommu.check.races.history import Change, History
from pytest_iommu.check.races.history import Window as Times
from pytest_iommu.check.races.kept import Kept, Touch
from pytest_iommu.check.races.lines import judge_text
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

    from pytest_iommu.check.races.catch import Run
    from pytest_iommu.core.protocol import Memory, Op, Reply, Result
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.images import Machine

WRITER, GRACE, BLOCKER = 2, 3, 4
HELD, END = 1, 1 << 20
LAST = (1 << 64) - 1
BLOCKED, DONE = 50, 5000
"""Milliseconds of the guest's time: who is to wait is watched for so long; who is not to wait is done within DONE."""
GRACE_PERIOD = f"{MODULE}/grace_period_expedited"
#: a software table of somebody else, and how many tables it gets with each command
OTHER, OTHERS = "window-other", 24


class Held(Protocol):
    """The guest that a window is opened on."""

    @property
    def memory(self) -> Memory | None: ...

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply: ...


class Window:
    """Open it, do something, close it. CheckFailed says what rule is broken; no reader is left behind then."""

    def __init__(self, guest: Held, gdb: Gdb | None, machine: Machine, dialect: Dialect, place: Place, hold: Hold):
        self._run: Run = guest.run
        self._memory = guest.memory
        self._dialect = dialect
        self._place = place
        self._hold = hold
        self._catch = Catch(self._run, gdb, guest.memory, machine, place, hold)
        self._history = History(place.config, place.start)
        self._time = HELD
        self._touches: list[Touch] = []
        self._kept: Kept | None = None
        #: all tables, for a reader that is in none of them but not done with the domain
        self._whole: Kept | None = None
        #: who waits for the reader, as far as is known with the test module's lock; and whether it is a command
        self._blocked: str | None = None
        self._command = False
        self._gone = False
        self._grace: bool | None = None
        #: when the grace period began that this window watches, in seconds of time.monotonic()
        self._began: float | None = None
        self._other: Root | None = None
        self._problems: list[CheckFailed] = []
        self._files: dict[str, bytes] = {}

    def open(self) -> None:
        """Start the reader and hold it. CheckFailed when it does not get there; skips where nobody can hold it."""
        if self._hold.inside and self._memory is not None:
            self._make_other()
        self._catch.hold()
        if self._hold.inside:
            assert self._memory is not None
            assert self._catch.root is not None
            assert self._catch.item is not None
            self._kept = Kept.of(self._memory, self._catch.root, self._catch.path, self._catch.item)
            # What follows is a part of the time for which it must not be over.
            self._begin_grace_period()
        elif self._memory is not None and self._catch.root is not None:
            self._whole = Kept(self._memory, self._place.config, self._catch.root.tables(self._memory))

    # What goes on meanwhile

    def command(self, line: str, after: tuple[Range, ...] | None = None, ends: bool = False) -> dict[str, str]:
        """A command of the test module that is done while the reader is held (CON-6); what it answers.

        ``after`` is what the domain has mapped then, None where that does not change.
        ``ends``: it frees the domain, and with it the read.
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
            self._abandon(f"`{line}` is not done {DONE} ms later: it waits for {self._hold}", "CON-6")
        return self._status(script).values

    def block(
        self,
        line: str,
        after: tuple[Range, ...] | None = None,
        must: bool = True,
        ends: bool = False,
    ) -> None:
        """A command that waits for the reader: not done while it is held, and soon after. Nothing can follow it.

        Without ``must`` it may be done at once.
        """
        self._next(line)
        self._gone |= ends
        self._note(line, after, END)
        self._write(BLOCKER, f"{MODULE}/control", f"{line}\n")
        self._blocked, self._command = line, True
        self._watch(must)

    def block_file(self, path: str, text: str, must: bool = True) -> None:
        """The same for what is written to a file of the guest in one write(2)."""
        what = f"writing {text.strip()} to {path}"
        self._next(what)
        self._write(BLOCKER, path, text)
        self._blocked, self._command = what, False
        self._watch(must)

    def other(self, do: Callable[[], object]) -> None:
        """Anything else; it is for ``do`` to see that it gets done while the reader is held."""
        self._time += 1
        do()

    def grace_period(self, inside: bool) -> None:
        """A grace period waits for a reader inside the walk (CON-1), and for no other (CON-7).

        With a reader inside the walk it has begun when that was held, else it begins now.
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
            what = f"a grace period begins and ends while there is {self._hold}"
            self._problem(f"{what}: what was freed before it began is given away under the reader", "CON-1")
        if not self._grace and not inside:
            self._problem(f"a grace period is not over {DONE} ms after it began: {self._hold} is in its way", "CON-7")

    def _begin_grace_period(self) -> float:
        if self._began is None:
            (started,) = self._ask([jobs.start_reader(GRACE, GRACE_PERIOD)])
            if not started.ok:
                raise SetupError(f"reading {GRACE_PERIOD}: {ops.errno_name(started.value)}")
            self._began = time.monotonic()
        return self._began

    def tables_kept(self) -> None:
        """CON-1: what the reader may still read is what it was, and nobody else has got it."""
        if self._kept is None or self._memory is None or self._catch.root is None:
            return
        try:
            # From the top of then: one that has grown since has that below it.
            linked = frozenset(table.address for table in self._catch.root.tables(self._memory))
            self._kept.check(self._touches, linked, str(self._hold))
            if self._other is not None:
                self._kept.check_not_given_out(self._other.tables(self._memory), str(self._hold))
        except CheckFailed as error:
            self._problems.append(error)

    def _whole_table_kept(self) -> None:
        """CON-1: who frees the domain and waits for the reader has not freed the table; a grace period has gone by."""
        if self._whole is None or not self._gone or self._unblocked(0):
            return
        try:
            self._whole.check((), self._whole.addresses, str(self._hold))
        except CheckFailed as error:
            self._problems.append(error)

    def _make_other(self) -> None:
        """A table of somebody else, which gets more tables with every command that may free some."""
        config = formats.configure("amdv1")
        made = f"domain {OTHER} {software_command(formats.get('amdv1'), config, {}, None)}\n"
        wrote, listed = self._ask([*command_ops(made)[:1], ops.read_file(f"{MODULE}/domains")])
        row = parse_domains(ops.text_of(listed)).get(OTHER)
        if not wrote.ok or row is None or row.top is None or row.levels is None:
            raise SetupError(f"{made.strip()}: {ops.errno_name(wrote.value)}")
        self._other = Root(config, row.top, row.levels)

    def _with_others(self, line: str) -> str:
        """The command, and in the same breath others: they get what it freed, if it has been freed already."""
        if self._other is None or Touch.of(line, self._place.name) is None:
            return line
        first = self._time * OTHERS << 21
        return f"{line}\nmap {OTHER} {first:#x} 0x100000000 4K rw count={OTHERS} istep=2M"

    # The end

    def close(self) -> None:
        """Check what must be so while the reader is held, let it go on, and judge what it has read.

        CheckFailed for all that is wrong.
        """
        self.tables_kept()
        self.grace_period(self._hold.inside)
        self._whole_table_kept()
        self._catch.let_go()
        if self._grace is False and not self._over(GRACE, DONE):
            self._problem(f"a grace period is not over {DONE} ms after the end of {self._hold}", "CON-1")
        if self._blocked is not None and not self._unblocked(DONE):
            self._abandon(f"`{self._blocked}` is not done {DONE} ms after the end of {self._hold}", "CON-6")
        self._judge()
        last = [ops.write_file(f"{MODULE}/control", f"destroy {OTHER}\n".encode())] if self._other is not None else []
        self._ask([jobs.reset_jobs(), *last])
        if self._problems:
            raise joined(self._problems, self._files)

    def abandon(self) -> None:
        """Let everything go, and check nothing: something went wrong already. Raises nothing."""
        self._catch.abandon()

    def _judge(self) -> None:
        (result,) = self._ask([jobs.wait_job(READER, DONE)])
        name = ops.errno_name(result.value)
        if name == "ETIMEDOUT":
            self._abandon(f"the reader is not done {DONE} ms after the end of {self._hold}", "CON-7")
        reads = jobs.split_reads(result.data)
        text = b"".join(read.data for read in reads)
        self._files[f"{self._place.name}.{self._place.file}.txt"] = text
        if self._gone and name in ("ok", "EIO"):
            text = text[: text.rfind(b"\n") + 1]
        elif name != "ok":
            self._problem(f"reading {self._place.path} fails with {name}", "CON-6")
            return
        span, item = Times(0, END), self._catch.item

        def when(row: Range) -> Times:
            if item is None or row.first < item.iova <= row.last:
                return span
            # What comes before the item that was waited for had been loaded when that was.
            return Times(0, HELD) if row.last < item.iova else Times(HELD if self._hold.inside else 0, END)

        shown = text.decode("utf-8", "backslashreplace")
        found = judge_text(self._place.file, shown, self._dialect, self._history, when, span)
        self._problems += [_told(problem, self._place, self._hold) for problem in found]

    # Small things

    def _note(self, line: str, after: tuple[Range, ...] | None, end: int) -> None:
        touch = Touch.of(line, self._place.name)
        if after is not None:
            self._history.add(Change(0, LAST, after, self._time, end, line))
        if touch is not None:
            self._touches.append(touch)

    def _ask(self, batch: Sequence[Op]) -> Sequence[Result]:
        return self._run(batch).results

    def _next(self, what: str) -> None:
        if self._blocked is not None:
            raise SetupError(f"{what}: there can be nothing after `{self._blocked}`")
        self._time += 1

    def _write(self, job: int, path: str, text: str) -> None:
        (result,) = self._ask([jobs.start_writer(job, path, text.encode())])
        if not result.ok:
            raise SetupError(f"writing to {path}: {ops.errno_name(result.value)}")

    def _over(self, job: int, milliseconds: int) -> bool:
        (result,) = self._ask([jobs.wait_job(job, milliseconds)])
        return ops.errno_name(result.value) != "ETIMEDOUT"

    def _status(self, script: str) -> Status:
        """What the last line of it gave; all must have passed."""
        (result,) = self._ask([ops.read_file(f"{MODULE}/status")])
        rows = parse_status(ops.text_of(result))
        last = Status(0)
        for number, line in enumerate(script.splitlines(), 1):
            last = rows.get(number, Status(number, "ENODATA", "was not executed"))
            if last.errno is not None:
                self._abandon(f"`{line}` gives {last.errno} ({last.message}), while there is {self._hold}")
        return last

    def _watch(self, must: bool) -> None:
        what = self._blocked
        if self._unblocked(BLOCKED) and must:
            self._problem(f"`{what}` is done while there is {self._hold}: it should wait for it", "CON-1")

    def _unblocked(self, milliseconds: int) -> bool:
        """Whether what was blocked is done by then, and as it should be."""
        (result,) = self._ask([jobs.wait_job(BLOCKER, milliseconds)])
        what = self._blocked
        if ops.errno_name(result.value) == "ETIMEDOUT" or what is None:
            return False
        self._blocked = None
        if self._command:
            self._status(what)
        elif not result.ok:
            self._abandon(f"{what} gives {ops.errno_name(result.value)}, with {self._hold}")
        return True

    def _problem(self, text: str, *rules: str) -> None:
        self._problems.append(CheckFailed(text, rules))

    def _abandon(self, text: str, *rules: str) -> NoReturn:
        self._problem(text, *rules)
        self._catch.abandon()
        raise joined(self._problems, self._files)


def _told(problem: CheckFailed, place: Place, hold: Hold) -> CheckFailed:
    text = f"{place.file} of {place.name}, read by {hold} (held at time 1, {END} is the end):\n{problem.message}"
    return problem.told(text)
