# SPDX-License-Identifier: GPL-2.0-only
"""Stops the processor of a reader inside the kernel with QEMU's gdbstub, keeps it there and releases it.

The guest's agent runs on processor 0 while the reader is held on processor 1. A breakpoint stops all processors, so a
thread sends the batch that starts the reader: the answer arrives once processor 0 runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

from pytest_iommu.check.races.processors import INTERRUPTED
from pytest_iommu.core.outcomes import CheckFailed, GuestLost
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest.gdb import GdbError, Point, Stop
from pytest_iommu.scenario.race_words import TIMEOUT

if TYPE_CHECKING:
    from pytest_iommu.check.races.processors import Processor
    from pytest_iommu.check.races.symbols import Symbols
    from pytest_iommu.core.protocol import Op, Reply
    from pytest_iommu.guest.gdb import Gdb

CPU = 1
"""The reader's processor; in boot mode `races` nothing else runs there."""

PIECE = 1 << 10
"""Bytes of memory per packet."""

Run = Callable[["Sequence[Op]"], "Reply"]
_SETTLED: WeakSet[Gdb] = WeakSet()
"""The stubs of guests that have come to rest after their boot."""


class NotReached(Exception):
    """The breakpoint or watchpoint was not hit; the message says what happened instead."""


class Trap:
    """Context manager that stops one processor and releases it. ``run`` runs a batch of the agent."""

    def __init__(self, gdb: Gdb, run: Run, processor: Processor) -> None:
        self._gdb = gdb
        self._processor = processor
        self._run = run
        self._pool = ThreadPoolExecutor(1, "agent")
        self._sent: Future[Reply] | None = None
        self._attached = False
        self._running = True
        self._registers = b""

    def __enter__(self) -> Trap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Let the guest run. CheckFailed if the point was not reached; GuestLost or the guest's failure if it broke."""
        failure = self.close()
        if isinstance(error, NotReached):
            raise failure or CheckFailed(f"window not reached: {error}") from error
        if isinstance(error, GdbError):
            raise failure or GuestLost(str(error)) from error

    def attach(self) -> None:
        """Attach to the gdbstub; this stops the whole guest. NotReached if it does not come to rest after its boot."""
        if self._gdb not in _SETTLED:
            if not self._processor.settle(self._run, Deadline(TIMEOUT)):
                raise NotReached(f"the kernel has not settled in {TIMEOUT} s")
            _SETTLED.add(self._gdb)
        self._gdb.attach()
        self._attached, self._running = True, False

    def word(self, address: int, cpu: int = CPU) -> int | None:
        """Return the 64-bit word at a kernel virtual address; None if ``cpu`` is in user mode and cannot read it."""
        try:
            return int.from_bytes(self._read(range(address, address + 8), cpu), "little")
        except GdbError:
            return None

    def catch(self, address: int, start: Sequence[Op], timeout: float, times: int = 1) -> None:
        """Run ``start`` and stop when CPU has loaded from this address, the ``times``-th time.

        NotReached after ``timeout`` seconds.
        """
        for number in range(times):
            self._gdb.set(Point.READ, address)
            if number:
                self._go()
                caught = self._meet(lambda stop: stop.cpu == CPU and stop.address is not None, timeout) is not None
            else:
                caught = self._caught(start, lambda stop: stop.address is not None, timeout)
            if not caught:
                raise NotReached("no load from the address was seen" if not number else f"it was loaded {number} times")
            self._load(address)

    def loads(self, address: int, start: Sequence[Op], timeout: float) -> int:
        """Run ``start`` and return how often any processor has loaded from this address meanwhile.

        NotReached if the batch is not done after ``timeout`` seconds.
        """
        seen: list[None] = []
        self._each(Point.READ, [range(address, address + 8)], start, timeout, lambda: seen.append(None))
        return len(seen) - 1

    def catch_store(self, address: int, start: Sequence[Op], timeout: float) -> None:
        """Run ``start`` and stop when CPU has stored to this address. NotReached after ``timeout`` seconds."""
        self._gdb.set(Point.WRITE, address)
        if not self._caught(start, lambda stop: stop.address is not None, timeout):
            raise NotReached("no store to the address was seen")
        self._step()

    def catch_before_store(self, address: int, start: Sequence[Op], timeout: float) -> None:
        """Run ``start`` and stop when CPU is about to store to this address, for which it has prepared everything.

        Where a processor stops after its stores, when it has loaded what it is going to replace. NotReached after
        ``timeout`` seconds, or if another processor is first: it has to be tried again.
        """
        self._gdb.set(Point.WRITE if self._processor.STOPS_BEFORE else Point.READ, address)
        self._go()
        self._sent = self._pool.submit(self._run, start)
        stop = self._meet(lambda stop: True, timeout)
        if stop is None or stop.cpu != CPU or stop.address is None:
            raise NotReached("no store to the address was seen" if stop is None else "another processor was first")

    def each_store(
        self, places: Sequence[range], start: Sequence[Op], timeout: float, look: Callable[[], None]
    ) -> None:
        """Run ``start``; call ``look`` at each store to these addresses, with the guest stopped, and at the end.

        It is called before the store, or behind it where the processor stops there. NotReached if the batch is not done
        after ``timeout`` seconds. The stores may be any processor's.
        """
        self._each(Point.WRITE, places, start, timeout, look)

    def _each(
        self, point: Point, places: Sequence[range], start: Sequence[Op], timeout: float, look: Callable[[], None]
    ) -> None:
        deadline = Deadline(timeout)
        while True:
            for place in places:
                self._gdb.set(point, place.start, len(place))
            self._go()
            if self._sent is None:
                self._sent = self._pool.submit(self._run, start)
            stop = self._gdb.wait(deadline.piece)
            while stop is None and not self._sent.done() and not deadline.over:
                stop = self._gdb.wait(deadline.piece)
            if stop is None:
                self._halt()
                break
            self._running = False
            look()
            self._gdb.clear()
            if self._processor.STOPS_BEFORE:
                self._gdb.step(stop.cpu)
        self._gdb.clear()
        if not self._sent.done():
            raise NotReached(f"the commands are not done after {timeout:g} s")
        look()

    def catch_call(self, function: int, start: Sequence[Op], timeout: float) -> None:
        """Run ``start`` and stop when CPU enters this function. NotReached after ``timeout`` seconds.

        No other processor may call the function: it would stop there forever.
        """
        self._gdb.set(Point.EXECUTE, function, 4)
        if not self._caught(start, lambda stop: True, timeout):
            raise NotReached("no call of the function was seen")

    def _load(self, address: int) -> None:
        """Complete a load as _step() does; known loads need no single step (races/processors.py)."""
        counter = self._gdb.register(CPU, self._processor.COUNTER)
        code, value = self.word(counter), self.word(address)
        known = self._processor.loaded(code.to_bytes(8, "little")) if code is not None else None
        if known is None or value is None:
            self._step()
            return
        register, length = known
        self._gdb.clear()
        self._gdb.set_register(CPU, register, value)
        self._gdb.set_register(CPU, self._processor.COUNTER, counter + length)

    def _step(self) -> None:
        """Complete the access where the processor stops before it, and would meet the watchpoint again."""
        self._gdb.clear()
        if self._processor.STOPS_BEFORE:
            self._gdb.step(CPU)

    def _caught(self, start: Sequence[Op], wanted: Callable[[Stop], bool], timeout: float) -> bool:
        self._go()
        self._sent = self._pool.submit(self._run, start)
        return self._meet(lambda stop: stop.cpu == CPU and wanted(stop), timeout) is not None

    def leave(self, function: int, symbols: Symbols, timeout: float) -> None:
        """After catch(): continue to the instruction behind the reader's next call of ``function``.

        The innermost function of the call chain that contains such a call counts; where the chain has calls that have
        returned, whichever is reached first. NotReached if none does, or if the call does not return within ``timeout``
        seconds.
        """
        chain = self._processor.chain(lambda number: self._gdb.register(CPU, number), self.word)
        behind: list[int] = []
        for body in dict.fromkeys(map(symbols.around, chain)):
            behind += self._processor.behind_calls(self._read(body), body.start, function)
            if behind and self._processor.EXACT:
                break
        if not behind:
            raise NotReached(f"no function in the reader's call chain calls 0x{function:x}")
        for back in behind:
            self._gdb.set(Point.EXECUTE, back, 4)
        self._go()
        if self._meet(lambda stop: stop.cpu == CPU, timeout) is None:
            raise NotReached(f"the call of 0x{function:x} did not return to {' or '.join(map(hex, behind))}")
        self._gdb.clear()

    def _read(self, where: range, cpu: int = CPU) -> bytes:
        # The stub reads memory as the processor that was accessed last.
        self._gdb.register(cpu, self._processor.COUNTER)
        pieces = range(where.start, where.stop, PIECE)
        return b"".join(self._gdb.read(start, min(PIECE, where.stop - start)) for start in pieces)

    def freeze(self) -> None:
        """Let all processors except CPU run, and wait for the answer to the batch of catch()."""
        self._gdb.clear()
        self._go([0])
        self.answer()

    def preempt(self, wake: Sequence[Op]) -> None:
        """Let all run once the batch ``wake`` has sent CPU an interrupt, which it takes before its next instruction."""
        self._registers = self._gdb.registers(CPU)
        self.freeze()
        self._run(wake)
        self._halt()
        self._go()

    def wake(self, release: Sequence[Op]) -> None:
        """After freeze() or preempt(): release the reader and let the guest run.

        ``release`` is the batch that gives the processor back to the preempted reader. The reader must continue with
        unchanged registers at the instruction where it was held. A watchpoint on the saved program counter shows when
        it does. NotReached means that it was not held all the time.
        """
        self._halt()
        if not self._registers:
            self._detach()
            return
        processor, frame = self._processor, self._processor.frame(self._registers)
        counter, top = (self._number(which) for which in (processor.COUNTER, processor.STACK))
        where = range(top - INTERRUPTED, top)
        saved = frame.search(self._read(where))
        if saved is None:
            raise NotReached(
                "the reader was not held all the time: no interrupt has saved the registers it was held with"
            )
        kept = range(where.start + saved.start(), where.start + saved.end())
        self._gdb.set(Point.READ, kept.start + processor.FRAME_COUNTER)
        self._go()
        self._sent = self._pool.submit(self._run, release)
        stop = self._meet(lambda stop: stop.cpu == CPU, TIMEOUT)
        now = self._read(kept) if stop is not None else b""
        self._detach()
        self.answer()
        if not frame.fullmatch(now):
            what = "continued at another place" if now else f"did not return to 0x{counter:x}"
            raise NotReached(f"the reader was not held all the time: after its release it {what}")

    def _number(self, which: int) -> int:
        """The value of a register of 64 bits when the reader was held, by its number."""
        return int.from_bytes(self._registers[8 * which : 8 * which + 8], "little")

    def close(self) -> BaseException | None:
        """Let the guest run, in whatever state it is; raises nothing.

        Returns the failure of the pending batch, if it failed. If the kernel breaks while the guest is held, only this
        batch reports it.
        """
        try:
            if self._attached:
                if self._running:
                    self._halt()
                self._detach()
        except GdbError:
            pass  # QEMU is gone; the batch reports how
        sent, self._sent = self._sent, None
        failure = sent.exception() if sent is not None else None
        self._pool.shutdown(wait=False)
        return failure

    def _meet(self, wanted: Callable[[Stop], bool], timeout: float) -> Stop | None:
        """Wait for a stop that ``wanted`` accepts; continue after all others."""
        deadline = Deadline(timeout)
        while True:
            stop = self._gdb.wait(deadline.left)
            if stop is None:
                self._halt()
                return None
            self._running = False
            if wanted(stop):
                return stop
            self._go()

    def answer(self) -> Reply:
        """Wait for the answer to the batch that was run last."""
        assert self._sent is not None
        sent, self._sent = self._sent, None
        return sent.result()

    def _go(self, cpus: Sequence[int] = ()) -> None:
        self._gdb.go(cpus)
        self._running = True

    def _halt(self) -> None:
        self._gdb.halt()
        self._running = False

    def _detach(self) -> None:
        self._gdb.detach()
        self._attached, self._running = False, True
