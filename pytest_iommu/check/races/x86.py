# SPDX-License-Identifier: GPL-2.0-only
"""A stopped x86-64 processor: where an interrupt saves its registers, and its call chain. See processors.py."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_iommu.guest import ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_iommu.core.protocol import Op, Reply
    from pytest_iommu.core.waiting import Deadline

#: gdb's numbers of registers: rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15, rip
STACK, COUNTER = 7, 16
EXACT = False
STOPS_BEFORE = False
#: struct pt_regs (arch/x86/include/asm/ptrace.h): r15 to rdi, orig_ax, ip
_ORDER = (15, 14, 13, 12, 6, 1, 11, 10, 9, 8, 0, 2, 3, 4, 5)
FRAME_COUNTER = 8 * (len(_ORDER) + 1)
DEPTH = 1 << 8
"""Words of the stack that are looked at; a read(2) of the dump has used fewer."""
CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
EARLY = b"tsc-early"
# "Intel 64 and IA-32 Architectures Software Developer's Manual", CALL: a 32-bit offset, or in a register or memory
CALL, CALL_LENGTH, INDIRECT = 0xE8, 5, (2, 3, 4, 6, 7)


def settle(run: Callable[[Sequence[Op]], Reply], deadline: Deadline) -> bool:
    """See Processor. A second after boot Linux replaces its first clock, by stop_machine(), which wants all of them."""
    while any(result.data.startswith(EARLY) for result in run([ops.read_file(CLOCK)]).results):
        if not deadline.left:
            return False
        time.sleep(deadline.piece)
    return True


def loaded(code: bytes) -> tuple[int, int] | None:
    """See Processor: nothing to complete."""
    return None


def frame(registers: bytes) -> re.Pattern[bytes]:
    """See Processor; orig_ax is the number of the interrupt."""
    words = [registers[8 * number : 8 * number + 8] for number in (*_ORDER, COUNTER)]
    return re.compile(re.escape(b"".join(words[:-1])) + b".{8}" + re.escape(words[-1]), re.DOTALL)


def chain(register: Callable[[int], int], word: Callable[[int], int | None]) -> list[int]:
    """See Processor.

    Linux keeps no frame pointers here (ORC), so these are all words of the stack that a call may have left there. Those
    of calls that have returned are among them.
    """
    found, top = [register(COUNTER)], register(STACK)
    for place in range(top, top + 8 * DEPTH, 8):
        back = word(place)
        if back is None:
            break
        if back >> 47 == (1 << 17) - 1 and _behind_a_call(back, word):
            found.append(back)
    return found


def behind_calls(code: bytes, start: int, function: int) -> list[int]:
    """See Processor. An offset that is none, and leads to the function by chance, is as good as impossible."""
    found = []
    for offset in range(len(code) - CALL_LENGTH + 1):
        behind = start + offset + CALL_LENGTH
        if (
            code[offset] == CALL
            and behind + int.from_bytes(code[offset + 1 : offset + 5], "little", signed=True) == function
        ):
            found.append(behind)
    return found


def _behind_a_call(back: int, word: Callable[[int], int | None]) -> bool:
    before = word(back - 8)
    if before is None:
        return False
    code = before.to_bytes(8, "little")
    # FF /2 is a call through a register or memory; the second byte has the 2 in its bits 5 to 3
    return code[-CALL_LENGTH] == CALL or any(code[-at] == 0xFF and code[1 - at] >> 3 & 7 == 2 for at in INDIRECT)
