# SPDX-License-Identifier: GPL-2.0-only
"""Directories of domains that do not belong to the test module: which exist, and whether their content is right."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.reading import Compared
from pytest_iommu.compare.comparison import compare
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, DomainRow, settled
from pytest_iommu.oracle import TableModel

DOMAINS = f"{DEBUGFS}/domains"


def directories(guest: GuestHandle) -> frozenset[str]:
    """Return the ids of all domains: the names in domains/, all of which must be directories."""
    _, listed = guest.run([settled(), ops.list_directory(DOMAINS)]).results
    if not listed.ok:
        raise CheckFailed(f"cannot list {DOMAINS}: {ops.errno_name(listed.value)}", ("LAY-1",))
    names = ops.text_of(listed).splitlines()
    if not all(name.endswith("/") for name in names):
        raise CheckFailed(f"{DOMAINS} contains more than directories: {names}", ("LAY-2",))
    return frozenset(name.rstrip("/") for name in names)


@dataclass(frozen=True, slots=True)
class Owned:
    """The directories of a guest, and checks of their content."""

    guest: GuestHandle
    compared: Compared
    #: domains that existed before the test
    before: frozenset[str]

    def new(self, *known: str) -> str:
        """Return the id of the only domain besides ``known`` and those that existed before."""
        found = directories(self.guest)
        more = sorted(found - self.before - set(known))
        if len(more) != 1 or not found >= self.before | set(known):
            raise CheckFailed(f"expected one new directory, found {more}: {sorted(found)}", ("LAY-2",))
        return more[0]

    def only(self, *known: str) -> None:
        """Check that exactly these exist besides those that existed before."""
        found = directories(self.guest)
        if missing := (self.before | set(known)) - found:
            raise CheckFailed(f"directories missing for live domains: {sorted(missing)}", ("LAY-2",))
        if left := found - self.before - set(known):
            raise CheckFailed(f"directories left after their domains were freed: {sorted(left)}", ("LAY-4",))

    def check(self, number: str, model: TableModel, device: str | None = None) -> None:
        """Compare a dump with the model and with memory; if ``device`` is attached, its stream leads to the table."""
        names = self.guest.dialect.files
        results = self.guest.run([ops.read_file(f"{DOMAINS}/{number}/{name}") for name in names]).results
        for name, result in zip(names, results, strict=True):
            if not result.ok:
                errno = ops.errno_name(result.value)
                raise CheckFailed(f"reading {name} of domain {number} failed: {errno}", ("LAY-2",))
        texts = {name: ops.text_of(result) for name, result in zip(names, results, strict=True)}
        memory = None
        if self.guest.in_ram is not None:
            info = self.guest.dialect.parse(texts).info
            # Without an attached device only the dump knows the top of the table.
            top, levels = (info.top, info.levels) if info is not None and device is None else (None, model.top + 1)
            row = DomainRow(number, number, () if device is None else (device,), top, levels)
            memory = self.guest.in_ram.texts(model.config, row)
        comparison = compare(model.snapshot(), texts, dialect=self.guest.dialect, memory=memory)
        self.compared(comparison)
        if not comparison.ok:
            files = {f"{number}.{name}.txt": text.encode() for name, text in texts.items()}
            raise comparison.failure(f"domain {number}:\n", (number,), files)
