# SPDX-License-Identifier: GPL-2.0-only
"""What an IOMMU was told of each change: its queue of commands, compared with what changed in memory (TLB-4).

Commands are read back from memory: QEMU executes them while the kernel adds them, and they stay until the queue wraps
around. What a table lost is known from the scenario, how entries changed from memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.oracle.invalidation import missing

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.oracle.iommu import Cached, Iommu
    from pytest_iommu.scenario import Lost

SHOWN = 3
"""Maximum number of places to name."""


class Invalidations:
    """Watches one guest's IOMMU over a test: call ``before`` and ``after`` around the commands of a phase."""

    def __init__(self, machine: Machine, iommu: Iommu) -> None:
        self._machine = machine
        self._iommu = iommu
        self._queue = iommu.commands()
        self._sids = tuple(dict.fromkeys(sid for one in (*machine.devices, machine.agent) for sid in one.sids))
        self._then: dict[int, Cached] = {}
        self.now: dict[int, Cached] = {}

    def before(self) -> Sequence[Any]:
        """Remember how things are; return the commands since the phase before, none if some of them are lost."""
        commands = self._queue.new() or ()
        self._then = self._read()
        return commands

    def after(self) -> Sequence[Any] | None:
        """See how things are ``now``; return the commands of the phase, None if some of them are lost."""
        commands = self._queue.new()
        self.now = self._read()
        return commands

    def failures(self, lost: Iterable[Lost], commands: Sequence[Any]) -> list[CheckFailed]:
        """Compare what has changed in the phase with its commands."""
        texts = [*self._entries(commands), *self._tables(lost, commands)]
        return [CheckFailed(text, ("TLB-4",), verdict=Verdict.CACHE) for text in texts]

    def _read(self) -> dict[int, Cached]:
        """What may be cached of the requesters of the machine's devices that have entries now."""
        with self._iommu.at_one_time():
            found = [(sid, self._iommu.cached(sid)) for sid in self._sids]
        return {sid: cached for sid, cached in found if cached is not None}

    def _entries(self, commands: Sequence[Any]) -> Iterator[str]:
        for sid, new in self.now.items():
            if sid in self._then:
                yield from self._iommu.stale(sid, self._then[sid], new, commands)

    def _tables(self, lost: Iterable[Lost], commands: Sequence[Any]) -> Iterator[str]:
        for one in lost:
            cached = (self.now if one.ends else self._then).get(self._machine.device(one.device).sid)
            if cached is None or cached.tag is None:
                continue
            texts = list(missing(commands, cached.tag, one.gone, self._iommu.wait))
            if texts:
                more = f" (and {len(texts) - SHOWN} more)" if len(texts) > SHOWN else ""
                yield f"line {one.line}: domain {one.domain}: {'; '.join(texts[:SHOWN])}{more}"
