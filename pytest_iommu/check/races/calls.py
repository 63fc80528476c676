# SPDX-License-Identifier: GPL-2.0-only
"""The call chain of a processor that stands in an arm64 kernel, and where its functions call another one.

A point at such a place is met by nobody but who runs that function. The called one itself may be everybody's, as
__rcu_read_unlock is: a stop at each of its calls takes longer than the time from one timer interrupt to the next.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_iommu.check.races.arm64 import COUNTER

#: numbers of arm64's registers in gdb's description
FRAME, LINK = 29, 30
DEPTH = 24
"""Frames that are looked at: a read(2) of the dump has less."""
# "Arm Architecture Reference Manual", C6.2, BL: a 26-bit offset in instructions
BL, BL_MASK = 0x94000000, 0xFC000000


def chain(register: Callable[[int], int], word: Callable[[int], int | None]) -> list[int]:
    """Where the processor stands, and the addresses that it returns to, the next first.

    ``register`` gives a register by its number, ``word`` the 64 bits at an address, None where nothing is mapped. The
    second one is what the link register has, as a function that calls none may have no frame: it may be a caller twice,
    or where the function came back from a call.
    """
    found = [register(COUNTER), register(LINK)]
    frame = register(FRAME)
    while frame and len(found) < DEPTH:
        # Procedure Call Standard (aapcs64), 6.4.6: a frame record is the caller's frame pointer, then the link register
        above, back = word(frame), word(frame + 8)
        if above is None or back is None:
            break
        found.append(back)
        frame = above if above > frame else 0
    return found


def behind_calls(code: bytes, start: int, function: int) -> list[int]:
    """The instructions behind those that call ``function``, in the code of another one that lies at ``start``."""
    found = []
    for offset in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[offset : offset + 4], "little")
        if word & BL_MASK == BL:
            away = (word & ~BL_MASK) << 2
            if start + offset + (away - (1 << 28) if away >> 27 else away) == function:
                found.append(start + offset + 4)
    return found
