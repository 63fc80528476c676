# SPDX-License-Identifier: GPL-2.0-only
"""The kernel crashes while a reader is stopped, held or released: the outcome must be the crash."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_iommu.check.races import arm64
from pytest_iommu.check.races.held import DumpFile, HeldReader
from pytest_iommu.check.races.trap import Trap
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import CheckFailed, GuestLost, IommuError, KernelCrash
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.guest import jobs
from pytest_iommu.guest.gdb import Gdb, GdbError, Stop
from pytest_iommu.guest.ops import Code
from pytest_iommu.guest.testmodule import HARDWARE
from pytest_iommu.scenario.race_words import Hold

CRASH = KernelCrash("kasan while it ran a batch: BUG: KASAN: use-after-free", Evidence(splat="BUG: KASAN"))
STOP = Stop(1, 0x1234)
#: x0 to x30, sp and pc, and how they lie below the stack of a reader that was interrupted
TOP = 0x4000
REGISTERS = bytes(31 * 8) + TOP.to_bytes(8, "little") + (0x1000).to_bytes(8, "little")
MEMORY = REGISTERS.rjust(TOP, b"\0")
LINEAR = b"kernel page=4096 va_bits=48 linear=0x0\n"


class Gdbstub:
    """One whose QEMU is gone from the call named ``dies`` on; stops as it is told until then."""

    def __init__(self, dies: str = "", stops: Sequence[Stop | None] = (STOP,)) -> None:
        self.dies = dies
        self.stops = list(stops)
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> object:
            self.dead |= name == self.dies
            if self.dead:
                raise GdbError("QEMU closed the connection")
            if name == "wait":
                return self.stops.pop(0) if self.stops else None
            if name == "read":
                return MEMORY[_[0] : _[0] + _[1]].ljust(_[1], b"\0")
            return {"register": 0x1000, "registers": REGISTERS}.get(name)

        return call


class Guest:
    """Its agent answers until a batch has an operation of ``breaks``; every batch then ends as ``error`` says."""

    def __init__(self, breaks: Code | None, error: IommuError = CRASH) -> None:
        self.breaks = breaks
        self.error = error
        self.broken = False

    def run(self, batch: Sequence[Op]) -> Reply:
        self.broken |= any(op.code == self.breaks for op in batch)
        if self.broken:
            raise self.error
        return Reply(tuple(Result(len(LINEAR), LINEAR) if op.path == HARDWARE else Result(0) for op in batch))


def catch(gdb: Gdbstub, guest: Guest) -> HeldReader:
    """A reader whose item is known already."""
    place = DumpFile("d", "/f", "page_table", None, ())  # type: ignore[arg-type]
    made = HeldReader(guest.run, gdb, object(), machines.get("smmuv3"), place, Hold("leaf-loaded"))  # type: ignore[arg-type]
    made._aim = lambda memory: None  # type: ignore[method-assign]
    made._virtual = lambda trap, linear: linear(0x1234)  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("dies", ["wait", "clear", "step", "register", "halt"])
def test_a_crash_on_the_way_to_the_point(dies: str) -> None:
    """The batch that started the reader has the crash; the gdbstub only knows that QEMU is gone."""
    with pytest.raises(KernelCrash, match="KASAN"):
        catch(Gdbstub(dies), Guest(Code.START_READER)).hold()


def test_a_report_of_a_reader_that_does_not_come() -> None:
    """QEMU lives on: the report is what there is to say, not that the window was not reached."""
    with pytest.raises(KernelCrash, match="KASAN"):
        catch(Gdbstub(stops=[None]), Guest(Code.START_READER)).hold()
    with pytest.raises(KernelCrash, match="KASAN"):
        catch(Gdbstub(stops=[None]), Guest(Code.RESET_JOBS)).hold()


def test_a_reader_that_does_not_come_to_a_kernel_that_is_well() -> None:
    with pytest.raises(CheckFailed, match="window not reached"):
        catch(Gdbstub(stops=[None]), Guest(None)).hold()


@pytest.mark.parametrize("dies", ["attach", "wait", "step"])
def test_a_qemu_that_goes_without_a_word(dies: str) -> None:
    with pytest.raises(GuestLost):
        catch(Gdbstub(dies), Guest(None)).hold()
    lost = GuestLost("QEMU was killed by SIGKILL while it ran a batch", Evidence(command="qemu"))
    with pytest.raises(GuestLost, match="SIGKILL") as caught:
        catch(Gdbstub(dies), Guest(Code.RESET_JOBS, lost)).hold()
    assert caught.value.evidence is not None


@pytest.mark.parametrize("dies", ["halt", "set", "go", "detach"])
def test_a_crash_of_a_reader_that_goes_on(dies: str) -> None:
    gdb, guest = Gdbstub(stops=[STOP, STOP]), Guest(Code.SIGNAL_JOB)
    held = catch(gdb, Guest(None))
    held.hold()
    held._run = guest.run
    held._trap._run = guest.run  # type: ignore[union-attr]
    gdb.dies, gdb.dead = dies, False
    with pytest.raises((KernelCrash, GuestLost)) as caught:
        held.let_go()
    # Nothing was sent yet when QEMU was gone before the reader was told to go on.
    assert isinstance(caught.value, KernelCrash) == guest.broken


def test_nothing_is_asked_of_a_guest_that_stands_still() -> None:
    """Attaching the gdbstub stops it: what is to be known is asked for before."""
    order: list[str] = []

    class Recorded(Gdbstub):
        def __getattr__(self, name: str) -> Any:
            order.append(name)
            return super().__getattr__(name)

    class Answering(Guest):
        def run(self, batch: Sequence[Op]) -> Reply:
            order.extend(op.path for op in batch if op.path)
            return super().run(batch)

    catch(Recorded(), Answering(None)).hold()  # type: ignore[arg-type]
    assert order.index(HARDWARE) < order.index("attach")


def test_a_stand_that_is_left_by_an_error() -> None:
    crashed = Trap(Gdbstub("wait"), Guest(Code.START_READER).run, arm64)  # type: ignore[arg-type]
    with pytest.raises(KernelCrash, match="KASAN"), crashed as trap:
        trap.attach()
        trap.catch(0x1234, [jobs.start_reader(0, "/f")], 1.0)
    with (
        pytest.raises(CheckFailed, match="window not reached"),
        Trap(Gdbstub(stops=[None]), Guest(None).run, arm64) as trap,
    ):  # type: ignore[arg-type]
        trap.attach()
        trap.catch(0x1234, [jobs.start_reader(0, "/f")], 1.0)


def test_a_gdbstub_that_is_gone_is_one_error() -> None:
    """Whatever is said to it: also the interrupt and the acknowledgement, which are no packets."""
    ours, theirs = socket.socketpair()
    gdb = Gdb(ours, object(), timeout=0.1)  # type: ignore[arg-type]
    theirs.sendall(b"$T05thread:p1.2;#00")
    theirs.close()
    for call in (gdb.halt, lambda: gdb.wait(0.1), lambda: gdb.step(0), lambda: gdb.read(0, 8), gdb.go):
        with pytest.raises(GdbError):
            call()
    ours.close()
