# SPDX-License-Identifier: GPL-2.0-only
"""A reader is stopped, held and released, on a scripted gdbstub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from types import SimpleNamespace

import pytest

from pytest_iommu.check.races import arm64, x86
from pytest_iommu.check.races.arm64 import COUNTER, FRAME, LINK, behind_calls, loaded
from pytest_iommu.check.races.symbols import Symbols
from pytest_iommu.check.races.trap import NotReached, Trap
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest.gdb import Point, Stop

STACK, TOP = 31, 0x6000


class FakeGdb:
    """A gdbstub whose guest stops as it is told."""

    def __init__(self, stops: Sequence[Stop | None]) -> None:
        self.stops = list(stops)
        self.said: list[str] = []
        #: what the guest does then
        self.on_go: Callable[[], object] = lambda: None
        self.numbered = {COUNTER: 0x1000, STACK: TOP}
        self.memory = bytearray(0x10000)

    def attach(self) -> None:
        self.said.append("attach")

    def detach(self) -> None:
        self.said.append("detach")

    def set(self, point: Point, address: int, size: int = 8) -> None:
        self.said.append(f"set {point.name} {address:x}")

    def clear(self) -> None:
        self.said.append("clear")

    def go(self, cpus: Sequence[int] = ()) -> None:
        self.said.append(f"go {list(cpus)}" if cpus else "go")
        self.on_go()

    def step(self, cpu: int) -> None:
        self.said.append(f"step {cpu}")

    def halt(self) -> None:
        self.said.append("halt")

    def wait(self, timeout: float) -> Stop | None:
        return self.stops.pop(0)

    def register(self, cpu: int, number: int) -> int:
        return self.numbered.get(number, 0)

    def registers(self, cpu: int) -> bytes:
        return b"".join(self.numbered.get(number, 0).to_bytes(8, "little") for number in range(COUNTER + 1)) + bytes(4)

    def set_register(self, cpu: int, number: int, value: int) -> None:
        self.said.append(f"x{number} = {value:x}")
        self.numbered[number] = value

    def interrupt(self) -> int:
        """An interrupt saves them, and 16 bytes more; where it has put the program counter."""
        frame = TOP - 16 - len(self.registers(1))
        self.memory[frame : TOP - 16] = self.registers(1)
        return frame + 8 * COUNTER

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])


def trapped(stops: Sequence[Stop | None]) -> tuple[Trap, FakeGdb]:
    gdb = FakeGdb(stops)
    made = Trap(gdb, lambda batch: Reply(()), arm64)  # type: ignore[arg-type]
    made.attach()
    return made, gdb


def test_a_reader_is_caught_preempted_and_let_go() -> None:
    """Processor 0 loads the item first, for a map: that does not count."""
    made, gdb = trapped([Stop(0, 0x100), Stop(1, 0x100), Stop(1)])
    made.catch(0x100, [Op(1)], 1.0)
    made.preempt([Op(2)])
    saved = gdb.interrupt()
    made.wake([Op(3)])
    made.close()
    assert gdb.said == [
        *("attach", "set READ 100", "go", "go", "clear", "step 1"),
        *("clear", "go [0]", "halt", "go"),
        *("halt", f"set READ {saved:x}", "go", "detach"),
    ]


def test_the_guest_stops_before_each_store_and_at_the_end() -> None:
    made, gdb = trapped([Stop(0, 0x100), Stop(1, 0x108)])
    gdb.wait = lambda timeout: gdb.stops.pop(0) if gdb.stops else None  # type: ignore[method-assign]
    looks: list[int] = []
    made.each_store([range(0x100, 0x140)], [Op(1)], 60.0, lambda: looks.append(len(gdb.said)))
    first = ["set WRITE 100", "go"]
    assert gdb.said == ["attach", *first, "clear", "step 0", *first, "clear", "step 1", *first, "halt", "clear"]
    assert looks == [3, 7, len(gdb.said)]
    assert made.answer() == Reply(())


def test_commands_that_are_never_done() -> None:
    hanging = Event()

    def run(batch: Sequence[Op]) -> Reply:
        hanging.wait()
        return Reply(())

    gdb = FakeGdb([])
    gdb.wait = lambda timeout: None  # type: ignore[method-assign]
    made = Trap(gdb, run, arm64)  # type: ignore[arg-type]
    made.attach()
    with pytest.raises(NotReached, match=r"the commands are not done after 0\.1 s"):
        made.each_store([range(0x100, 0x140)], [Op(1)], 0.1, lambda: None)
    hanging.set()


#: from "Arm Architecture Reference Manual", C6.2, as an assembler writes them
LOADS = {
    "ldr x0, [x1]": (0xF9400020, 0),
    "ldr x19, [x20, #8]": (0xF9400693, 19),
    "ldur x3, [x4, #-8]": (0xF85F8083, 3),
    "ldr x2, [x1, x0, lsl #3]": (0xF8607822, 2),
    "ldr x2, [x1, w0, uxtw #3]": (0xF8605822, 2),
    "ldar x5, [x6]": (0xC8DFFCC5, 5),
    "ldapr x5, [x6]": (0xF8BFC0C5, 5),
    "ldr w0, [x1]": (0xB9400020, None),
    "ldr x0, [x1], #8": (0xF8408420, None),
    "ldr x0, [x1, #8]!": (0xF8408C20, None),
    "ldr xzr, [x1]": (0xF940003F, None),
    "ldp x0, x1, [x2]": (0xA9400440, None),
    "ldraa x0, [x1]": (0xF8200420, None),
    "swp x0, x1, [x2]": (0xF8208041, None),
    "str x0, [x1]": (0xF9000020, None),
}


@pytest.mark.parametrize("text", LOADS)
def test_loads_are_done_without_a_stop(text: str) -> None:
    """Where there is a register to be loaded, it and the program counter are set; a stop after it costs more."""
    code, register = LOADS[text]
    assert loaded(code.to_bytes(4, "little")) == (None if register is None else (register, 4))
    made, gdb = trapped([Stop(1, 0x100)])
    gdb.memory[0x1000:0x1004] = code.to_bytes(4, "little")
    gdb.memory[0x100:0x108] = (0x123456789ABCDEF0).to_bytes(8, "little")
    made.catch(0x100, [Op(1)], 1.0)
    done = ["step 1"] if register is None else [f"x{register} = 123456789abcdef0", "x32 = 1004"]
    assert gdb.said == ["attach", "set READ 100", "go", "clear", *done]


def test_a_reader_that_went_on_is_noticed() -> None:
    made, gdb = trapped([Stop(1, 0x100)])
    made.catch(0x100, [Op(1)], 1.0)
    made.preempt([Op(2)])
    gdb.numbered[0] = 7
    gdb.interrupt()
    with pytest.raises(NotReached, match="no interrupt has saved the registers it was held with"):
        made.wake([Op(3)])
    for stops, said in (([None], "did not return to 0x1000"), ([Stop(1, 0x100)], "continued at another place")):
        made, gdb = trapped([Stop(1, 0x100), *stops])
        made.catch(0x100, [Op(1)], 1.0)
        made.preempt([Op(2)])
        saved = gdb.interrupt()
        gdb.on_go = lambda saved=saved, memory=gdb.memory: memory.__setitem__(saved, 7)
        with pytest.raises(NotReached, match=f"after its release it {said}"):
            made.wake([Op(3)])


#: a walk at 0x1000 that calls nothing, its caller with two ways out of its RCU section, who calls that one, who unlocks
WALK, SECTION, ABOVE, UNLOCK, AFTER = 0x1000, 0x1100, 0x1200, 0x9000, 0x9100
SYMBOLS = Symbols.parse(
    "0000000000009000 T __rcu_read_unlock\n0000000000001000 t walk\n0000000000001200 t read\n"
    "0000000000001100 t section\n0000000000009100 W last\n0000000000001104 d data\n"
)


def inside_a_section(stops: Sequence[Stop | None]) -> tuple[Trap, FakeGdb]:
    made, gdb = trapped([Stop(1, 0x100), *stops])
    made.catch(0x100, [Op(1)], 1.0)
    gdb.said.clear()
    gdb.numbered = {COUNTER: WALK + 8, LINK: WALK + 0x20, FRAME: 0x7000}
    for address, word in {0x7000: 0x7040, 0x7008: SECTION + 0x10, 0x7040: 0, 0x7048: ABOVE + 0x10}.items():
        gdb.memory[address : address + 8] = word.to_bytes(8, "little")
    for caller in (SECTION + 0x14, SECTION + 0x40, ABOVE + 0x30):
        gdb.memory[caller : caller + 4] = (0x94000000 | (UNLOCK - caller) >> 2).to_bytes(4, "little")
    return made, gdb


def test_the_way_out_of_a_section_is_the_readers_own() -> None:
    """The innermost function with a call is the one, and nobody else is stopped by a point in it."""
    made, gdb = inside_a_section([Stop(1)])
    made.leave(UNLOCK, SYMBOLS, 1.0)
    assert gdb.said == ["set EXECUTE 1118", "set EXECUTE 1144", "go", "clear"]


def test_where_calls_that_have_returned_are_in_the_chain_the_first_one_counts() -> None:
    made, gdb = inside_a_section([Stop(1)])
    made._processor = SimpleNamespace(**{**vars(arm64), "EXACT": False})  # type: ignore[assignment]
    made.leave(UNLOCK, SYMBOLS, 1.0)
    assert gdb.said == ["set EXECUTE 1118", "set EXECUTE 1144", "set EXECUTE 1234", "go", "clear"]


def test_a_section_that_is_not_left() -> None:
    made, _ = inside_a_section([None])
    with pytest.raises(NotReached, match="the call of 0x9000 did not return to 0x1118 or 0x1144"):
        made.leave(UNLOCK, SYMBOLS, 1.0)
    made, _ = inside_a_section([])
    with pytest.raises(NotReached, match="no function in the reader's call chain calls 0x9100"):
        made.leave(AFTER, SYMBOLS, 1.0)


def test_calls_are_found_both_ways() -> None:
    back = (0x94000000 | (WALK - SECTION >> 2) & 0x3FFFFFF).to_bytes(4, "little")
    jump = (0x14000000 | (UNLOCK - SECTION - 4) >> 2).to_bytes(4, "little")
    assert behind_calls(back + jump, SECTION, WALK) == [SECTION + 4]
    assert behind_calls(back + jump, SECTION, UNLOCK) == []


def test_symbols() -> None:
    assert SYMBOLS.address("section") == SECTION
    assert SYMBOLS.address("data") is None
    assert SYMBOLS.around(SECTION + 0xFC) == range(SECTION, ABOVE)
    assert not SYMBOLS.around(WALK - 4)
    assert not SYMBOLS.around(AFTER)
    assert not Symbols.parse("0000000000000000 t walk\n0000000000000000 t read\n").starts


def test_a_point_that_is_not_met() -> None:
    made, gdb = trapped([None])
    with pytest.raises(NotReached, match="no load from the address was seen"):
        made.catch(0x100, [Op(1)], 0.1)
    made.close()
    assert gdb.said[-1] == "detach"


def on_x86(stops: Sequence[Stop | None]) -> tuple[Trap, FakeGdb]:
    """The guest has 16 general registers there, then the program counter."""
    gdb = FakeGdb(stops)
    gdb.numbered = {number: 0x100 + number for number in range(16)} | {x86.COUNTER: KERNEL, x86.STACK: TOP}
    gdb.registers = lambda cpu: b"".join(  # type: ignore[method-assign]
        gdb.numbered[number].to_bytes(8, "little") for number in range(x86.COUNTER + 1)
    )
    made = Trap(gdb, lambda batch: Reply(()), x86)  # type: ignore[arg-type]
    made.attach()
    return made, gdb


#: an address of the kernel's code, which the memory of FakeGdb has at 0x1000
KERNEL = 0xFFFFFFFF81001000


def test_x86_stops_after_the_access() -> None:
    made, gdb = on_x86([Stop(1, 0x100), Stop(1)])
    made.catch(0x100, [Op(1)], 1.0)
    made.preempt([Op(2)])
    frame = TOP - 0xA8
    order = [15, 14, 13, 12, 6, 1, 11, 10, 9, 8, 0, 2, 3, 4, 5]  # r15 to rdi as struct pt_regs has them
    words = [*(0x100 + number for number in order), 0xFFFFFFFFFFFFFF13, KERNEL, 0x10, 0x246, TOP, 0x18]
    gdb.memory[frame:TOP] = b"".join(word.to_bytes(8, "little") for word in words)
    made.wake([Op(3)])
    made.close()
    assert gdb.said == [
        *("attach", "set READ 100", "go", "clear"),
        *("clear", "go [0]", "halt", "go"),
        *("halt", f"set READ {frame + 0x80:x}", "go", "detach"),
    ]


def test_x86_is_held_once_its_clock_has_been_replaced() -> None:
    clocks = [b"tsc-early\n", b"tsc-early\n", b"tsc\n"]
    gdb = FakeGdb([])
    asked: list[int] = []

    def run(batch: Sequence[Op]) -> Reply:
        assert gdb.said == []
        asked.append(len(batch))
        return Reply((Result(0, clocks.pop(0)),))

    for _ in range(2):
        gdb.said.clear()
        Trap(gdb, run, x86).attach()  # type: ignore[arg-type]
    assert (asked, clocks, gdb.said) == ([1, 1, 1], [], ["attach"])
    clocks.append(b"tsc-early\n")
    gdb.said.clear()
    assert not x86.settle(run, SimpleNamespace(left=0.0, piece=0.0))  # type: ignore[arg-type]


def test_x86_waits_for_the_load_of_what_is_replaced() -> None:
    made, gdb = on_x86([Stop(1, 0x100)])
    made.catch_before_store(0x100, [Op(1)], 1.0)
    assert gdb.said == ["attach", "set READ 100", "go"]


def test_the_calls_of_x86() -> None:
    text = {
        KERNEL: b"\x90\xe8" + (0x3A).to_bytes(4, "little") + b"\xff\xd0\xff\x14\xc5\x00\x00\x00\x00\xc3\x90\x90",
        KERNEL + 0x10: bytes(0x30),
    }
    code = b"".join(text.values())
    assert x86.behind_calls(code, KERNEL, KERNEL + 0x40) == [KERNEL + 6]
    assert x86.behind_calls(code, KERNEL, KERNEL + 0x41) == []
    # behind each of the calls, then behind what is none, a number, and where nothing is mapped
    stack = [KERNEL + 6, KERNEL + 8, 7, KERNEL + 15, KERNEL + 16, KERNEL + 0x20]

    def word(address: int) -> int | None:
        at = (address - TOP) // 8
        if 0 <= at < len(stack):
            return stack[at]
        offset = address - KERNEL + 8
        return int.from_bytes((bytes(8) + code)[offset : offset + 8], "little") if 0 <= offset < len(code) else None

    registers = {x86.COUNTER: KERNEL + 0x20, x86.STACK: TOP}
    assert x86.chain(registers.__getitem__, word) == [KERNEL + 0x20, KERNEL + 6, KERNEL + 8, KERNEL + 15]
