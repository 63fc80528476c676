# SPDX-License-Identifier: GPL-2.0-only
"""Guests that could not be provided during a run, and why: one failure per reason, however many tests wanted them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pytest_iommu.report.rows import Row

NO_GUEST = "iommu_no_guest"
"""Attribute of a report: the guest, the reason, and the whole text; only on the first such test in each worker."""


@dataclass(slots=True)
class NoGuests:
    """Collects the workers' reports of guests that could not be provided."""

    _texts: dict[str, str] = field(default_factory=dict)
    _guests: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def add(self, report: pytest.TestReport) -> None:
        """Add what a report says; a guest that several workers could not provide for the same reason counts once."""
        told = getattr(report, NO_GUEST, None)
        if told is None:
            return
        guest, reason, text = told
        guests = self._guests.setdefault(reason, [])
        if guest not in guests:
            guests.append(guest)
        self._texts.setdefault(reason, text)

    def texts(self) -> list[str]:
        """Return one text per reason: that of the first guest, with the names of the others."""
        found = []
        for reason, text in self._texts.items():
            others = self._guests[reason][1:]
            head, _, rest = text.partition("\n")
            found.append(f"{head}\nas well: {', '.join(others)}\n{rest}" if others else text)
        return found

    def rows(self) -> list[Row]:
        """Return one failed row per reason."""
        names = [f"pytest-iommu::no-guest-{guests[0].replace('/', '-')}" for guests in self._guests.values()]
        return [
            Row(name, "failed", kind="setup-error", text=text, made=True)
            for name, text in zip(names, self.texts(), strict=True)
        ]
