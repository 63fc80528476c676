# SPDX-License-Identifier: GPL-2.0-only
"""What a target is: something that starts guests, and a guest runs batches of operations.

The whole contract between the suite and qemu, vng, replay, local and ssh: a batch goes in, results come out in
order, one round trip. Targets know nothing of page-table formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of the agent; build them with the functions of pytest_iommu.guest.ops."""

    code: int
    a: int = 0
    b: int = 0
    path: str = ""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Result:
    """``value`` is the system call's return value, or -errno; ``data`` what it read."""

    value: int
    data: bytes = b""

    @property
    def ok(self) -> bool:
        return self.value >= 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one batch: a result an operation, and what the kernel said meanwhile."""

    results: tuple[Result, ...]
    taint: int = 0
    kmsg: str = ""


class OutsideMemory(ValueError):
    """Not all of the asked addresses are RAM of the guest."""


class Memory(Protocol):
    """What the host sees of a guest without asking it: RAM and device registers, by guest-physical address."""

    def read(self, address: int, size: int) -> memoryview:
        """RAM as it is now and as it changes, ``size`` bytes. OutsideMemory when not all of it is RAM."""

    def write(self, address: int, data: bytes) -> None:
        """Change RAM behind the guest's back. OutsideMemory when not all of it is RAM."""

    def register(self, address: int, size: int = 4) -> int:
        """A device register of 1, 2, 4 or 8 bytes; a read's side effects happen. What is not there reads 0 or -1."""

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        """Write a device register; the device has acted on it when this returns."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One access that an IOMMU refused: whose it was, the architecture's number of the reason, the address.

    Reason and direction are None where nobody says them.
    """

    requester: int
    reason: int | None
    address: int
    write: bool | None


class Faults(Protocol):
    """What an IOMMU has refused, where its registers hold only the last report."""

    def new(self) -> Sequence[Fault]:
        """Those since the last call, oldest first."""


class Guest(Protocol):
    """One live guest. Raises the exceptions of pytest_iommu.core.outcomes, never a bare OSError.

    ``memory`` is None where the host cannot see the guest's RAM: a recording, real hardware.
    """

    name: str

    @property
    def memory(self) -> Memory | None: ...

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run the operations in order and return their results; seconds of host time."""

    def pause(self) -> None:
        """Stop burning host CPU until the next run(); a no-op where that means nothing."""

    def close(self) -> None:
        """End it, leaving no process, file or lock; never raises."""

    def evidence(self) -> Evidence:
        """What is known of it for a failure report."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a failure report shows of a guest: its command line, the console's tail, the first splat.

    ``output`` is what the program had printed that ran last with ``stream``.
    """

    command: str = ""
    console: str = ""
    splat: str = ""
    output: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


class Target(Protocol):
    """Starts guests."""

    name: str

    def start(self) -> Guest:
        """A freshly booted guest, its agent having said HELLO. Raises SetupError when it cannot boot."""
