# SPDX-License-Identifier: GPL-2.0-only
"""The call chain of a stopped arm64 processor, and the call sites in its functions.

Only a processor that runs the calling function reaches a breakpoint behind a call site. The called function itself may
be in use everywhere, as __rcu_read_unlock is. Stopping at every call of it takes longer than the timer's period.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_iommu.check.races.arm64 import COUNTER

#: gdb's numbers of arm64 registers
FRAME, LINK = 29, 30
DEPTH = 24
"""Maximum number of frames to walk; a read(2) of the dump has fewer."""
# "Arm Architecture Reference Manual", C6.2, BL: a 26-bit offset in instructions
BL, BL_MASK = 0x94000000, 0xFC000000


def chain(register: Callable[[int], int], word: Callable[[int], int | None]) -> list[int]:
    """Return the program counter and the return addresses, innermost first.

    ``register`` returns a register by its number. ``word`` returns the 64 bits at an address, None if it is not mapped.
    The second address is the link register, because a leaf function may have no frame. It may repeat a caller, or be
    the place where an earlier call returned.
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
    """Return the addresses behind the calls of ``function`` in ``code``, which is located at ``start``."""
    found = []
    for offset in range(0, len(code) - 3, 4):
        word = int.from_bytes(code[offset : offset + 4], "little")
        if word & BL_MASK == BL:
            away = (word & ~BL_MASK) << 2
            if start + offset + (away - (1 << 28) if away >> 27 else away) == function:
                found.append(start + offset + 4)
    return found
