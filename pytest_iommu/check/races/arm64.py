# SPDX-License-Identifier: GPL-2.0-only
"""What an arm64 processor does with its registers: loads of them, and where an interrupt puts them.

QEMU throws away all code that it has translated whenever a guest stops at a point of execution or after one
instruction, not where memory is watched (gdbstub/system.c, gdb_vm_state_change()). All that the guest does next takes
ten times as long then. So what could be done by such a stop is done by watching memory.
"""

from __future__ import annotations

COUNTER = 32
"""The program counter's number in gdb's description, behind x0 to x30 and sp."""
SAVED = 8 * (COUNTER + 1)
"""Bytes of x0 to x30, sp and pc. struct user_pt_regs has them in gdb's order (arch/arm64/include/uapi/asm/ptrace.h): an
interrupt saves them as they are here."""
ZERO = 31
INTERRUPTED = 1 << 10
"""Bytes below the stack pointer in which an interrupt has saved the registers; the kernel's struct pt_regs has 350."""

# "Arm Architecture Reference Manual", C6.2: loads of 64 bits that change nothing but the one register, in bits 4 to 0
_LOADS = (
    (0xF9400000, 0xFFC00000),  # LDR, an unsigned offset
    (0xF8400000, 0xFFE00C00),  # LDUR
    (0xF8600800, 0xFFE00C00),  # LDR, a register as offset
    (0xC8DFFC00, 0xFFFFFC00),  # LDAR
    (0xF8BFC000, 0xFFFFFC00),  # LDAPR
)


def loaded(instruction: int) -> int | None:
    """The number of the register that this instruction loads 64 bits into; None where it is another, or does more."""
    if not any(instruction & mask == bits for bits, mask in _LOADS):
        return None
    return instruction & 31 if instruction & 31 != ZERO else None


def number(registers: bytes, which: int) -> int:
    """The value of a register, by its number."""
    return int.from_bytes(registers[8 * which : 8 * which + 8], "little")
