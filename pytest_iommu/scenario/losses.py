# SPDX-License-Identifier: GPL-2.0-only
"""What each phase takes out of tables that a device is using: the IOMMU must be told of all of it (TLB-4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_iommu.oracle import Expected
from pytest_iommu.oracle.invalidation import Gone, gone
from pytest_iommu.scenario.phases import Lost

Span = tuple[int, int]


class Losses:
    """Collects the losses of one phase. ``attached`` maps devices to domains, and changes meanwhile."""

    def __init__(self, attached: Mapping[str, str]) -> None:
        self._attached = attached
        self._before = dict(attached)
        self._found: list[tuple[str, str, Gone, int]] = []

    def using(self, domain: str) -> str | None:
        """Return a device that is attached to the domain now."""
        return next((device for device, name in self._attached.items() if name == domain), None)

    def add(self, domain: str, line: int, before: Expected, after: Expected, spans: Iterable[Span]) -> None:
        """A command has changed the domain's table: all of ``spans`` was mapped before, and is not any more."""
        device = self.using(domain)
        if device is None:
            return
        leaves = tuple(leaf for first, last in spans for leaf in gone(before, after, first, last).leaves)
        lost = Gone(leaves, gone(before, after, 1, 0).tables)
        if lost:
            self._found.append((domain, device, lost, line))

    def of_phase(self) -> tuple[Lost, ...]:
        """Return those whose domain has the device at the beginning or at the end of the phase: its tag is known."""
        return tuple(
            Lost(domain, device, ends, lost, line)
            for domain, device, lost, line in self._found
            for ends in (self._attached.get(device) == domain,)
            if ends or self._before.get(device) == domain
        )
