# SPDX-License-Identifier: GPL-2.0-only
"""A stopped arm64 processor: its loads, where an interrupt saves its registers, its call chain. See processors.py."""

from __future__ import annotations

import re
from collections.abc import Callable

#: gdb's numbers of registers: after x0 to x30 come sp and pc
FRAME, LINK, STACK, COUNTER = 29, 30, 31, 32
EXACT = True
STOPS_BEFORE = True
SAVED = 8 * (COUNTER + 1)
"""Size of x0 to x30, sp and pc in bytes. struct user_pt_regs has them in gdb's order
(arch/arm64/include/uapi/asm/ptrace.h), so an interrupt saves exactly these bytes."""
FRAME_COUNTER = 8 * COUNTER
LENGTH = 4
ZERO = 31
DEPTH = 24
"""Maximum number of frames to walk; a read(2) of the dump has fewer."""
# "Arm Architecture Reference Manual", C6.2, BL: a 26-bit offset in instructions
BL, BL_MASK = 0x94000000, 0xFC000000

# "Arm Architecture Reference Manual", C6.2: 64-bit loads that change only their target register (bits 4 to 0)
_LOADS = (
    (0xF9400000, 0xFFC00000),  # LDR, unsigned offset
    (0xF8400000, 0xFFE00C00),  # LDUR
    (0xF8600800, 0xFFE00C00),  # LDR, register offset
    (0xC8DFFC00, 0xFFFFFC00),  # LDAR
    (0xF8BFC000, 0xFFFFFC00),  # LDAPR
)


def settle(run: object, deadline: object) -> bool:
    """See Processor: nothing stops all processors after boot."""
    return True


def loaded(code: bytes) -> tuple[int, int] | None:
    """See Processor; only of 64-bit loads that have no other effects."""
    instruction = int.from_bytes(code[:LENGTH], "little")
    if not any(instruction & mask == bits for bits, mask in _LOADS):
        return None
    return (instruction & 31, LENGTH) if instruction & 31 != ZERO else None


def frame(registers: bytes) -> re.Pattern[bytes]:
    """See Processor."""
    return re.compile(re.escape(registers[:SAVED]), re.DOTALL)


def chain(register: Callable[[int], int], word: Callable[[int], int | None]) -> list[int]:
    """See Processor.

    The second address is the link register, because a leaf function may have no frame. It may repeat a caller, or be
    the place where an earlier call returned.
    """
    found = [register(COUNTER), register(LINK)]
    record = register(FRAME)
    while record and len(found) < DEPTH:
        # Procedure Call Standard (aapcs64), 6.4.6: a frame record is the caller's frame pointer, then the link register
        above, back = word(record), word(record + 8)
        if above is None or back is None:
            break
        found.append(back)
        record = above if above > record else 0
    return found


def behind_calls(code: bytes, start: int, function: int) -> list[int]:
    """See Processor."""
    found = []
    for offset in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[offset : offset + 4], "little")
        if word & BL_MASK == BL:
            away = (word & ~BL_MASK) << 2
            if start + offset + (away - (1 << 28) if away >> 27 else away) == function:
                found.append(start + offset + 4)
    return found
