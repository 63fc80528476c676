# SPDX-License-Identifier: GPL-2.0-only
"""A machine that is reached by its agent, and whose console we have: all that is on it is of this guest's time."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pytest_iommu.core.outcomes import IommuError, KernelCrash, KernelHang
from pytest_iommu.core.process import Child
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.guest.channel import Channel
from pytest_iommu.guest.console import Console
from pytest_iommu.guest.virtual import CONSOLE_LIMIT
from pytest_iommu.targets.stdio import KEPT, TAIL, AgentGuest


class ConsoleChild(Child):
    """The process here that lives as long as the guest. ``console`` is the guest's."""

    console: Console


class ConsoleGuest(AgentGuest):
    """A machine with a console."""

    def __init__(self, name: str, child: ConsoleChild, agent: Channel) -> None:
        super().__init__(name, child, agent, lambda: child.console.tail(KEPT))
        self._console = child.console

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run a batch; the console has what a flood washes out of the kernel's log before the agent reads it."""
        __tracebackhide__ = True
        reply = super().run(ops, timeout)
        splat = self._console.scan_new()
        if splat is not None:
            raise self._crash(splat, "while it ran a batch")
        if self._console.size > CONSOLE_LIMIT:
            raise KernelHang(f"console flood: {self._console.size >> 20} MiB", self.evidence())
        return reply

    def evidence(self) -> Evidence:
        """What is known of it; after close() as it was then."""
        if self._closed:
            return self._last
        return evidence(self.child, self._splat.text if self._splat else "", self._agent.output)

    def _new(self, log: str) -> str:
        return log

    def _hang(self, what: str) -> IommuError:
        splat = self._console.scan_all()
        if splat is not None:
            return self._crash(splat, "and then hung")
        return self._silent(what)

    def _silent(self, what: str) -> IommuError:
        """It did not answer, and the console does not tell why."""
        return KernelHang(f"{what}; {self.name} {self.child.how_it_ended()}", self.evidence())


def evidence(child: Child, splat: str = "", output: bytes = b"") -> Evidence:
    """What the console tells; ``output`` is what a program has printed so far."""
    assert isinstance(child, ConsoleChild)
    files = {"console.txt": child.console.tail(KEPT).encode()}
    printed = output.decode("utf-8", "backslashreplace")
    return Evidence(shlex.join(child.argv), child.console.tail(TAIL), splat, printed, files)


def blamed(child: Child, otherwise: IommuError, when: str) -> IommuError:
    """A crash where the console has one, else ``otherwise``."""
    assert isinstance(child, ConsoleChild)
    splat = child.console.scan_all()
    if splat is None:
        return otherwise
    return KernelCrash(f"{splat.kind} {when}: {splat.title}", evidence(child, splat.text))
