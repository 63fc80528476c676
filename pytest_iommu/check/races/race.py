# SPDX-License-Identifier: GPL-2.0-only
"""A window on a domain that a test has made: what is done to the domain is done to its model, too."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pytest_iommu.check.races.catch import Place
from pytest_iommu.check.races.window import Window
from pytest_iommu.scenario.race_words import COPY, Hold

if TYPE_CHECKING:
    from pytest_iommu.check.handles import Domain, GuestHandle, Iommu, Task


class Race:
    """``with`` it: a reader is held at the beginning and let go at the end, when what it has read is judged.

    ``window`` is for what has to do with other domains, and for what waits. Sizes in bytes or as ``16K``.
    """

    def __init__(self, guest: GuestHandle, iommu: Iommu, domain: Domain, hold: Hold, file: str, chunk: int) -> None:
        self.domain = domain
        self.hold = hold
        ranges = domain.model.snapshot().ranges
        place = Place(domain.name, domain.path(file), file, domain.config, ranges, chunk)
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
        """Map, while the reader is held."""
        __tracebackhide__ = True
        self._do(self.domain.to_map(iova, oa, size, prot, leaf))

    def unmap(self, iova: int, size: int | str, leaf: int | str | None = None) -> None:
        """Unmap, while the reader is held."""
        __tracebackhide__ = True
        self._do(self.domain.to_unmap(iova, size, leaf))

    def destroy(self) -> None:
        """Free the domain, which ends the read: it waits for a reader inside the walk, and for none that copies."""
        __tracebackhide__ = True
        self._alive = False
        line = f"destroy {self.domain.name}"
        if self.hold.at == COPY:
            self.window.command(line, (), ends=True)
        else:
            self.window.block(line, (), must=self.hold.inside, ends=True)

    def _do(self, task: Task) -> None:
        """The model first: what is mapped then is what the reader may see."""
        __tracebackhide__ = True
        line, change = task
        change()
        self.window.command(line, self.domain.model.snapshot().ranges)
