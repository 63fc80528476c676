# SPDX-License-Identifier: GPL-2.0-only
"""IOMMUs that have one entry a requester, with the id of its domain in it: AMD's and RISC-V's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pytest_iommu.core.model import TableConfig
from pytest_iommu.formats.invalidations import DomainTag, Invalidation
from pytest_iommu.oracle.entry_changes import announced
from pytest_iommu.oracle.invalidation import not_told
from pytest_iommu.oracle.iommu import Cached
from pytest_iommu.oracle.registers import Registers


class SingleEntry(Registers, ABC):
    """``entry`` is its name, ``id_name`` that of the id in it, ``invalidates`` the command that names a requester."""

    entry: ClassVar[str]
    id_name: ClassVar[str]
    invalidates: ClassVar[str]
    wait: str

    @abstractmethod
    def places(self, requester: int) -> Mapping[str, range]:
        """See Iommu."""

    @abstractmethod
    def table(self, requester: int) -> tuple[TableConfig, int] | None:
        """See Iommu."""

    @abstractmethod
    def tag(self, requester: int) -> int | None:
        """See Iommu."""

    def words(self, requester: int) -> tuple[int, ...] | None:
        """Return a requester's entry, valid or not; None if there is no place for it."""
        place = self.places(requester).get(self.entry)
        return None if place is None else self._words(place.start, len(place) // 8)

    def cached(self, requester: int) -> Cached | None:
        """See Iommu."""
        words, tag = self.words(requester), self.tag(requester)
        if words is None:
            return None
        translated = tag is not None and self.table(requester) is not None
        return Cached({self.entry: words}, DomainTag(self.id_name, tag) if translated and tag is not None else None)

    def told(self, requester: int, commands: Sequence[Invalidation]) -> bool:
        """See Iommu."""
        return announced(commands, lambda one: one.of_entry(self.entry, requester))

    def _not_told(self, requester: int, commands: Sequence[Invalidation]) -> Iterator[str]:
        """Yield that no command says that the entry has changed."""
        what = f"the {self.entry} of requester 0x{requester:x}"
        yield from not_told(
            commands, lambda one: one.of_entry(self.entry, requester), what, self.invalidates, self.wait
        )
