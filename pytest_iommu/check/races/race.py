# SPDX-License-Identifier: GPL-2.0-only
"""A race window on a domain of a test: operations change the domain and its model together."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pytest_iommu.check.races.held import DumpFile
from pytest_iommu.check.races.window import Window
from pytest_iommu.scenario.race_words import COPY, Hold

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.check.iommu_handle import Domain, Iommu, Task


class Race:
    """Context manager: holds a reader on entry, releases it on exit and checks what it read.

    Use ``window`` for operations on other domains and for operations that block. Sizes are bytes or words such as
    ``16K``.
    """

    def __init__(self, guest: GuestHandle, iommu: Iommu, domain: Domain, hold: Hold, file: str, chunk: int) -> None:
        self.domain = domain
        self.machine = guest.machine
        self.hold = hold
        ranges = domain.model.snapshot().ranges
        place = DumpFile(domain.name, domain.path(file), file, domain.config, ranges, chunk)
        self.window = Window(guest, guest.gdb, guest.machine, guest.dialect, place, hold)
        self._iommu = iommu
        self._alive = True

    def __enter__(self) -> Race:
        self.window.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        __tracebackhide__ = True
        if kind is not None:
            self.window.abandon()
            return
        self.window.close()
        if self._alive:
            self._iommu.check(self.domain)

    def map(self, iova: int, oa: int, size: int | str, prot: str = "rw", leaf: int | str | None = None) -> None:
        """Map while the reader is held."""
        __tracebackhide__ = True
        self._do(self.domain.to_map(iova, oa, size, prot, leaf))

    def unmap(self, iova: int, size: int | str, leaf: int | str | None = None) -> None:
        """Unmap while the reader is held."""
        __tracebackhide__ = True
        self._do(self.domain.to_unmap(iova, size, leaf))

    def destroy(self) -> None:
        """Free the domain, which ends the read.

        The command must wait for a reader inside the walk, but not for one that copies.
        """
        __tracebackhide__ = True
        self._alive = False
        line = f"destroy {self.domain.name}"
        if self.hold.at == COPY:
            self.window.command(line, (), ends=True)
        else:
            self.window.block(line, (), must=self.hold.inside, ends=True)

    def _do(self, task: Task) -> None:
        """Update the model first: the reader may already see the new mappings."""
        __tracebackhide__ = True
        line, change = task
        change()
        self.window.command(line, self.domain.model.snapshot().ranges)
