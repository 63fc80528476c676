# SPDX-License-Identifier: GPL-2.0-only
"""Run a reader to one point of a dump, hold it there, and release it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check import platform
from pytest_iommu.check.races import processors, symbols
from pytest_iommu.check.races.trap import CPU, NotReached, Trap
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
"""Job numbers of the agent."""
UNLOCK = "__rcu_read_unlock"

Run = Callable[["Sequence[Op]"], "Reply"]


@dataclass(frozen=True, slots=True)
class DumpFile:
    """What to read: ``file`` of the domain ``name`` at ``path``, ``chunk`` bytes per read(2) (0: 64 KiB).

    ``start`` holds the mappings of the domain when the reader starts. With ``slot`` the reader reads the file that
    ops.open_file() has opened there: one that has to be written first.
    """

    name: str
    path: str
    file: str
    config: TableConfig
    start: tuple[Range, ...]
    chunk: int = 0
    slot: int | None = None


class HeldReader:
    """One held reader, from its start to its release.

    ``root`` is the page table. ``item`` is the item whose load stopped the reader, ``path`` the items from the top down
    to it. All of them are as of the hold. While a copy is held they are None or empty.
    """

    def __init__(self, run: Run, gdb: Gdb | None, memory: Memory | None, machine: Machine, place: DumpFile, hold: Hold):
        self.root: Root | None = None
        self.path: list[Item] = []
        self.item: Item | None = None
        self._run = run
        self._gdb = gdb
        self._memory = memory
        self._machine = machine
        self._place = place
        self._hold = hold
        self._trap: Trap | None = None

    def hold(self) -> None:
        """Start the reader and hold it.

        CheckFailed if the reader does not reach its point; that is not a skip. Skips if the target cannot hold readers.
        """
        if self._gdb is None or self._memory is None:
            pytest.skip("cannot hold a reader: this target has no QEMU gdbstub")
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
        """Release the reader. CheckFailed if it was not held all the time."""
        if self._hold.at == COPY:
            self._done("RELEASE", [jobs.signal_job(READER, Signal.RELEASE)])
            return
        assert self._trap is not None
        try:
            self._trap.wake([jobs.signal_job(SPINNER, Signal.STOP)])
        except NotReached as error:
            raise self._ended(CheckFailed(f"window lost: {self._hold} of {self._place.path}: {error}")) from None
        except GdbError as error:
            raise self._ended(GuestLost(f"{self._hold}: {error}")) from error
        self._trap.close()
        self._trap = None

    def abandon(self) -> BaseException | None:
        """Let everything run and end all jobs; raises nothing.

        Returns the guest's failure, if any. The kernel may have crashed while a reader was held, and that may be why
        the reader did not reach its point or did not continue.
        """
        trap, self._trap = self._trap, None
        failure = trap.close() if trap is not None else None
        try:
            self._run([jobs.reset_jobs()])
        except IommuError as error:
            failure = failure or error
        return failure

    def _ended(self, otherwise: IommuError) -> BaseException:
        """Return why the window ended: the guest's failure if there is one, else ``otherwise``."""
        return self.abandon() or otherwise

    def _done(self, what: str, batch: Sequence[Op]) -> None:
        """Run a batch that must succeed. SetupError when it does not."""
        for result in self._run(batch).results:
            if not result.ok:
                raise SetupError(f"{self._hold}: {what} failed: {ops.errno_name(result.value)}")

    def find(self) -> Root:
        """Return the page table that the test module would give to the hardware now."""
        (listed,) = self._run([ops.read_file(f"{MODULE}/domains")]).results
        row = parse_domains(ops.text_of(listed)).get(self._place.name)
        if row is None or row.top is None:
            raise SetupError(f"the test module does not report the table address of {self._place.name}")
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
                raise NotReached(f"the reader's state is {ops.text_of(state).strip()}")

    def _stop(self, gdb: Gdb, memory: Memory) -> None:
        processor = processors.of(self._machine)
        self._aim(memory)
        # While the gdbstub is attached the guest answers nothing.
        linear = platform.linear_map(self._run)
        if linear is None:
            pytest.skip("the test module does not tell where the kernel's linear map is")
        known = symbols.of(self._run, memory) if self._hold.at == BATCH else None
        unlock = known.address(UNLOCK) if known is not None else None
        if known is not None and unlock is None:
            pytest.skip(
                f"kernel symbol {UNLOCK} not found: RCU readers are not preemptible, or kallsyms hides addresses"
            )
        place = self._place
        if place.slot is None:
            reader = jobs.start_reader(READER, place.path, chunk=place.chunk, cpu=CPU)
        else:
            reader = jobs.start_sharing_reader(READER, place.slot, chunk=place.chunk, cpu=CPU)
        if self._hold.how != FROZEN:
            self._done("start_spinner", [jobs.start_spinner(SPINNER, CPU, OCCUPY)])
        self._trap = trap = Trap(gdb, self._run, processor)
        trap.attach()
        trap.catch(self._virtual(trap, linear), [reader], self._hold.timeout)
        if known is not None and unlock is not None:
            trap.leave(unlock, known, self._hold.timeout)
        if self._hold.how == FROZEN:
            trap.freeze()
        else:
            trap.preempt([jobs.signal_job(SPINNER, Signal.GO)])

    def _aim(self, memory: Memory) -> None:
        """Find the item whose load to wait for, and the path to it."""
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
            raise SetupError(f"{hold}: found {what} at level {self.item.table.level}, expected a {wanted.value}")

    def _virtual(self, trap: Trap, linear: Callable[[int], int]) -> int:
        """Return the item's address in the kernel's linear map, after checking that the kernel reads the item there."""
        machine = self._machine
        assert self.item is not None
        where = linear(self.item.address)
        seen = [word for word in (trap.word(where), trap.word(where, 0)) if word is not None]
        # Both processors may be in user mode. A wrong address then shows in that the watchpoint is never hit.
        if seen and self.item.raw not in seen:
            what = f"the kernel does not map 0x{self.item.address:x} at 0x{where:x}"
            raise SetupError(f"machine {machine.name}: {what}: read 0x{seen[0]:x}, expected 0x{self.item.raw:x}")
        return where
