# SPDX-License-Identifier: GPL-2.0-only
"""arm64 register details: decoding 64-bit loads, and where an interrupt saves the registers.

QEMU discards all translated code whenever a guest stops at a breakpoint or after a single step, but not at a watchpoint
(gdbstub/system.c, gdb_vm_state_change()). The guest then runs ten times slower. So this package uses watchpoints
wherever it could use a breakpoint or a single step.
"""

from __future__ import annotations

COUNTER = 32
"""Number of the program counter in gdb's register description, after x0 to x30 and sp."""
SAVED = 8 * (COUNTER + 1)
"""Size of x0 to x30, sp and pc in bytes. struct user_pt_regs has them in gdb's order
(arch/arm64/include/uapi/asm/ptrace.h), so an interrupt saves exactly these bytes."""
ZERO = 31
INTERRUPTED = 1 << 10
"""An interrupt saves the registers within this many bytes below the stack pointer; struct pt_regs has 350."""

# "Arm Architecture Reference Manual", C6.2: 64-bit loads that change only their target register (bits 4 to 0)
_LOADS = (
    (0xF9400000, 0xFFC00000),  # LDR, unsigned offset
    (0xF8400000, 0xFFE00C00),  # LDUR
    (0xF8600800, 0xFFE00C00),  # LDR, register offset
    (0xC8DFFC00, 0xFFFFFC00),  # LDAR
    (0xF8BFC000, 0xFFFFFC00),  # LDAPR
)


def loaded(instruction: int) -> int | None:
    """Return the number of the register that this instruction loads 64 bits into.

    None if the instruction is not a 64-bit load, or if it has other effects.
    """
    if not any(instruction & mask == bits for bits, mask in _LOADS):
        return None
    return instruction & 31 if instruction & 31 != ZERO else None


def number(registers: bytes, which: int) -> int:
    """Return the value of a register, by its number."""
    return int.from_bytes(registers[8 * which : 8 * which + 8], "little")
