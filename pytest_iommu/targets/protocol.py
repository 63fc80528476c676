# SPDX-License-Identifier: GPL-2.0-only
"""What a target is: something that starts guests, and a guest runs batches of operations.

The whole contract between the suite and qemu, replay (later local, ssh, vng): a batch goes in, results come out in
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


class Guest(Protocol):
    """One live guest. Raises the exceptions of pytest_iommu.outcomes, never a bare OSError."""

    name: str

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
    """What a failure report shows of a guest: its command line, the console's tail, the first splat."""

    command: str = ""
    console: str = ""
    splat: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


class Target(Protocol):
    """Starts guests."""

    name: str

    def start(self) -> Guest:
        """A freshly booted guest, its agent having said HELLO. Raises SetupError when it cannot boot."""
