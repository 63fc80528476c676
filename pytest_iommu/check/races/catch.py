# SPDX-License-Identifier: GPL-2.0-only
"""Brings a reader to one point of a dump, holds it there, and lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check.races import symbols
from pytest_iommu.check.races.stand import CPU, NotReached, Stand
from pytest_iommu.core.model import Kind, Range, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, GuestLost, IommuError, SetupError
from pytest_iommu.core.protocol import Memory, Op, Reply
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.gdb import GdbError
from pytest_iommu.guest.jobs import Signal
from pytest_iommu.guest.testmodule import MODULE, OCCUPY, parse_domains
from pytest_iommu.oracle.items import Item, Root, item_address
from pytest_iommu.scenario.race_words import BATCH, COPY, FROZEN, TABLE, Hold

if TYPE_CHECKING:
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.images import Machine

READER, SPINNER = 0, 1
"""Jobs of the agent."""
UNLOCK = "__rcu_read_unlock"

Run = Callable[["Sequence[Op]"], "Reply"]


@dataclass(frozen=True, slots=True)
class Place:
    """What is read: a ``file`` of the domain ``name`` at ``path``, ``chunk`` bytes at a time (0: 64 KiB).

    ``start`` is what it has mapped when the reader comes.
    """

    name: str
    path: str
    file: str
    config: TableConfig
    start: tuple[Range, ...]
    chunk: int = 0


class Catch:
    """One reader of a place, from its start to the moment it goes on.

    ``root`` is the page table, ``path`` the items on the way to ``item``, whose load it was caught at; all as they were
    then, and all None or empty while a copy is held.
    """

    def __init__(self, run: Run, gdb: Gdb | None, memory: Memory | None, machine: Machine, place: Place, hold: Hold):
        self.root: Root | None = None
        self.path: list[Item] = []
        self.item: Item | None = None
        self._run = run
        self._gdb = gdb
        self._memory = memory
        self._machine = machine
        self._place = place
        self._hold = hold
        self._stand: Stand | None = None

    def hold(self) -> None:
        """Start the reader and hold it.

        CheckFailed when it does not come to its point: that is no skip. Skips where nobody can hold it at all.
        """
        if self._gdb is None or self._memory is None:
            pytest.skip("a reader is held by QEMU's gdbstub, which is not there")
        try:
            self._done("reset_jobs", [jobs.reset_jobs()])
            if self._hold.at == COPY:
                self._wait_for_copy()
            else:
                self._stop(self._gdb, self._memory)
        except NotReached as error:
            raise self._ended(CheckFailed(f"window not reached: {self._hold} of {self._place.path}: {error}")) from None
        except GdbError as error:
            raise self._ended(GuestLost(f"{self._hold}: {error}")) from error
        except BaseException:
            self.abandon()
            raise

    def let_go(self) -> None:
        """The reader goes on. CheckFailed when it has not been where it was held all the time."""
        if self._hold.at == COPY:
            self._done("RELEASE", [jobs.signal_job(READER, Signal.RELEASE)])
            return
        assert self._stand is not None
        try:
            self._stand.wake([jobs.signal_job(SPINNER, Signal.STOP)])
        except NotReached as error:
            raise self._ended(CheckFailed(f"window lost: {self._hold} of {self._place.path}: {error}")) from None
        except GdbError as error:
            raise self._ended(GuestLost(f"{self._hold}: {error}")) from error
        self._stand.close()
        self._stand = None

    def abandon(self) -> BaseException | None:
        """Let everything run, and end what was started; raises nothing.

        Returns what has become of the guest when it is not well: its kernel may have broken while a reader was held,
        and that is why the reader did not come, or does not go on.
        """
        stand, self._stand = self._stand, None
        failure = stand.close() if stand is not None else None
        try:
            self._run([jobs.reset_jobs()])
        except IommuError as error:
            failure = failure or error
        return failure

    def _ended(self, otherwise: IommuError) -> BaseException:
        """Why the window ended: what has become of the guest, or, when it is well, ``otherwise``."""
        return self.abandon() or otherwise

    def _done(self, what: str, batch: Sequence[Op]) -> None:
        """Run a batch that must succeed. SetupError when it does not."""
        for result in self._run(batch).results:
            if not result.ok:
                raise SetupError(f"{self._hold}: {what} gives {ops.errno_name(result.value)}")

    def find(self) -> Root:
        """The page table as the test module would give it to the hardware now."""
        (listed,) = self._run([ops.read_file(f"{MODULE}/domains")]).results
        row = parse_domains(ops.text_of(listed)).get(self._place.name)
        if row is None or row.top is None:
            raise SetupError(f"the test module does not know where the table of {self._place.name} is")
        return Root(self._place.config, row.top, row.levels or self._place.config.levels)

    def _wait_for_copy(self) -> None:
        place = self._place
        self._done("start_reader", [jobs.start_reader(READER, place.path, chunk=place.chunk, held=True)])
        deadline = Deadline(self._hold.timeout)
        while True:
            (state,) = self._run([jobs.job_state(READER)]).results
            if b" held=1 " in state.data:
                return
            if deadline.over:
                raise NotReached(f"it is in {ops.text_of(state).strip()}")

    def _stop(self, gdb: Gdb, memory: Memory) -> None:
        self._aim(memory)
        known = symbols.of(self._run, memory) if self._hold.at == BATCH else None
        unlock = known.address(UNLOCK) if known is not None else None
        if known is not None and unlock is None:
            pytest.skip(f"this kernel has no {UNLOCK}: its RCU readers are not preempted, or it hides addresses")
        reader = jobs.start_reader(READER, self._place.path, chunk=self._place.chunk, cpu=CPU)
        if self._hold.how != FROZEN:
            self._done("start_spinner", [jobs.start_spinner(SPINNER, CPU, OCCUPY)])
        self._stand = stand = Stand(gdb, self._run)
        stand.attach()
        stand.catch(self._virtual(stand), [reader], self._hold.timeout)
        if known is not None and unlock is not None:
            stand.leave(unlock, known, self._hold.timeout)
        if self._hold.how == FROZEN:
            stand.freeze()
        else:
            stand.preempt([jobs.signal_job(SPINNER, Signal.GO)])

    def _aim(self, memory: Memory) -> None:
        """The item whose load is waited for, and all on the way to it."""
        hold = self._hold
        self.root = self.find()
        self.path = self.root.path(memory, hold.iova)
        if hold.at == TABLE:
            try:
                self.item = item_address(memory, self.root, hold.iova, 1 if hold.level is None else hold.level)
            except LookupError as error:
                raise SetupError(f"{hold}: {error}") from None
            wanted = Kind.TABLE
        else:
            self.item, wanted = self.path[-1], Kind.LEAF
        if self.item.kind is not wanted:
            what = "nothing" if self.item.kind is None else f"a {self.item.kind.value}"
            raise SetupError(f"{hold}: at level {self.item.table.level} there is {what}, not a {wanted.value}")

    def _virtual(self, stand: Stand) -> int:
        """The item's address in the kernel's linear map, where the kernel must see what memory has."""
        machine = self._machine
        assert self.item is not None
        if machine.linear is None or machine.arch != "aarch64":
            pytest.skip(f"nobody knows where the kernel of machine {machine.name} has its linear map")
        where = machine.linear + self.item.address - machine.ram
        seen = [word for word in (stand.word(where), stand.word(where, 0)) if word is not None]
        # Both may be in user mode; then the watchpoint is not met where the address is wrong.
        if seen and self.item.raw not in seen:
            what = f"0x{where:x} is not where the kernel sees 0x{self.item.address:x}"
            raise SetupError(f"machine {machine.name}: linear: {what}: 0x{seen[0]:x} instead of 0x{self.item.raw:x}")
        return where
