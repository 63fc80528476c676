# SPDX-License-Identifier: GPL-2.0-only
"""What a trap has to know of the processor that it stops; one small file an architecture: arm64.py and x86.py.

QEMU discards all translated code whenever a guest stops at a breakpoint or after a single step, but not at a watchpoint
(gdbstub/system.c, gdb_vm_state_change()). The guest then runs ten times slower. So this package uses watchpoints
wherever it could use a breakpoint or a single step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_iommu.check.races import arm64, x86

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.protocol import Op, Reply
    from pytest_iommu.core.waiting import Deadline

INTERRUPTED = 1 << 10
"""An interrupt saves the registers within this many bytes below the stack pointer; struct pt_regs has 350 at most."""


class Processor(Protocol):
    """An architecture. ``COUNTER`` and ``STACK`` are gdb's numbers of the program counter and the stack pointer.

    ``EXACT``: chain() has no calls that have returned. ``STOPS_BEFORE``: a watchpoint stops before the access, and
    otherwise right after its instruction. ``FRAME_COUNTER`` is where in what ``frame()`` finds the program counter is,
    which the processor loads when the interrupt returns.
    """

    @property
    def COUNTER(self) -> int: ...  # noqa: N802
    @property
    def STACK(self) -> int: ...  # noqa: N802
    @property
    def EXACT(self) -> bool: ...  # noqa: N802
    @property
    def STOPS_BEFORE(self) -> bool: ...  # noqa: N802
    @property
    def FRAME_COUNTER(self) -> int: ...  # noqa: N802

    def settle(self, run: Callable[[Sequence[Op]], Reply], deadline: Deadline) -> bool:
        """Wait until the kernel has done what it does for all processors after boot; whether it has.

        While one of them is held, that would never end.
        """

    def loaded(self, code: bytes) -> tuple[int, int] | None:
        """Return the register that the instruction at the beginning of ``code`` loads 64 bits into, and its length.

        None if it is not known, or if nothing is left to do.
        """

    def frame(self, registers: bytes) -> re.Pattern[bytes]:
        """Return what an interrupt saves of these registers, which are all general ones in gdb's order."""

    def chain(self, register: Callable[[int], int], word: Callable[[int], int | None]) -> list[int]:
        """Return the program counter and the return addresses, innermost first.

        ``register`` returns a register by its number. ``word`` returns the 64 bits at an address, None if it is not
        mapped.
        """

    def behind_calls(self, code: bytes, start: int, function: int) -> list[int]:
        """Return the addresses behind the calls of ``function`` in ``code``, which is located at ``start``.

        Only a processor that runs the calling function reaches a breakpoint there. The called function itself may be in
        use everywhere, as __rcu_read_unlock is. Stopping at every call of it takes longer than the timer's period.
        """


PROCESSORS: Mapping[str, Processor] = {"aarch64": arm64, "x86_64": x86}


def of(machine: Machine) -> Processor:
    """Return the processor of a machine. Skips where nobody knows how to hold one."""
    if machine.arch not in PROCESSORS:
        known = " and ".join(PROCESSORS)
        pytest.skip(f"processes are held on {known} alone, machine {machine.name} is {machine.arch}")
    return PROCESSORS[machine.arch]
