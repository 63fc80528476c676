# SPDX-License-Identifier: GPL-2.0-only
"""Domains that the test module does not own: which directories they have, and whether what is in them is right."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.check.handles import GuestHandle
from pytest_iommu.check.reading import Compared
from pytest_iommu.compare.comparison import compare
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, DomainRow
from pytest_iommu.oracle import TableModel

DOMAINS = f"{DEBUGFS}/domains"


def directories(guest: GuestHandle) -> frozenset[str]:
    """The ids of all domains: the names in domains/, all of which are directories."""
    (listed,) = guest.run([ops.list_directory(DOMAINS)]).results
    if not listed.ok:
        raise CheckFailed(f"{DOMAINS} cannot be listed: {ops.errno_name(listed.value)}", ("LAY-1",))
    names = ops.text_of(listed).splitlines()
    if not all(name.endswith("/") for name in names):
        raise CheckFailed(f"{DOMAINS} has not only directories: {names}", ("LAY-2",))
    return frozenset(name.rstrip("/") for name in names)


@dataclass(frozen=True, slots=True)
class Owned:
    """The directories of a guest, and whether what is in them is right."""

    guest: GuestHandle
    compared: Compared
    #: those of nobody here
    before: frozenset[str]

    def new(self, *known: str) -> str:
        """The id of the one domain that is there beside ``known`` and those of nobody here."""
        found = directories(self.guest)
        more = sorted(found - self.before - set(known))
        if len(more) != 1 or not found >= self.before | set(known):
            raise CheckFailed(f"one directory must be new, there are {more}: {sorted(found)}", ("LAY-2",))
        return more[0]

    def only(self, *known: str) -> None:
        """Fails unless exactly these are there, beside those of nobody here."""
        found = directories(self.guest)
        if missing := (self.before | set(known)) - found:
            raise CheckFailed(f"no directory any more of domains that are alive: {sorted(missing)}", ("LAY-2",))
        if left := found - self.before - set(known):
            raise CheckFailed(f"still there after the domain was freed: {sorted(left)}", ("LAY-4",))

    def check(self, number: str, model: TableModel, device: str | None = None) -> None:
        """Compare a dump with the model and memory, found by way of the stream of ``device`` where that is attached."""
        names = self.guest.dialect.files
        results = self.guest.run([ops.read_file(f"{DOMAINS}/{number}/{name}") for name in names]).results
        for name, result in zip(names, results, strict=True):
            if not result.ok:
                errno = ops.errno_name(result.value)
                raise CheckFailed(f"reading {name} of domain {number} fails with {errno}", ("LAY-2",))
        texts = {name: ops.text_of(result) for name, result in zip(names, results, strict=True)}
        memory = None
        if self.guest.in_ram is not None:
            info = self.guest.dialect.parse(texts).info
            # Nobody but the dump knows the top of a table that no device is attached to.
            top, levels = (info.top, info.levels) if info is not None and device is None else (None, None)
            row = DomainRow(number, number, () if device is None else (device,), top, levels)
            memory = self.guest.in_ram.texts(model.config, row)
        comparison = compare(model.snapshot(), texts, dialect=self.guest.dialect, memory=memory)
        self.compared(comparison)
        if not comparison.ok:
            files = {f"{number}.{name}.txt": text.encode() for name, text in texts.items()}
            raise comparison.failure(f"domain {number}:\n", (number,), files)
