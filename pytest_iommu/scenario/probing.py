# SPDX-License-Identifier: GPL-2.0-only
"""Compile `probe` steps: what each transfer must do now, and where the same IOVA led before.

A device that still reaches a place of before has met something that should have been invalidated. Which change was
the last one says which rule that breaks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.core.model import Range
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.iommu import BLOCKED
from pytest_iommu.scenario.phases import Dma, Place
from pytest_iommu.scenario.schema import DomainSpec, PlugStep, ProbeStep, Step


@dataclass(frozen=True, slots=True)
class _Led:
    """An IOVA led to ``oa`` when ``table`` was attached."""

    table: TableModel
    oa: int


class Probes:
    """The probes of one scenario, in order."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._led: dict[int, list[_Led]] = {}
        self._probed = {device: None for step in steps if isinstance(step, ProbeStep) for device in step.devices}
        plugs = {step.device: step.add for step in reversed(steps) if isinstance(step, PlugStep)}
        self._late = {device for device, add in plugs.items() if add}

    def loads(self) -> list[str]:
        """Return the commands that fill the devices' buffers. They move groups, so they precede everything else."""
        return [_load(device) for device in self._probed if device not in self._late]

    def plugged(self, step: PlugStep) -> list[str]:
        """Return the command that fills the buffer of a device that has just been plugged in."""
        return [_load(step.device)] if step.add and step.device in self._probed else []

    def transfers(
        self,
        step: ProbeStep,
        attached: Mapping[str, str],
        tables: Mapping[str, TableModel],
        domains: Mapping[str, DomainSpec],
    ) -> list[Dma]:
        """Return the transfers of a step. ``attached`` maps devices to names of domains.

        ValueError if the step contradicts the tables.
        """
        found = []
        for device in step.devices:
            name = attached.get(device)
            if (name is None) is not (step.event == BLOCKED):
                raise ValueError(f"{device} is {'not attached to a domain' if name is None else 'not blocked'} here")
            table = None if name is None else tables[name]
            spec = domains[name] if name else next(iter(domains.values()))
            end = formats.get(spec.config.format).aperture(spec.config)[1] + 1
            to = None
            if step.to is not None:
                to = _window(step.to.value(spec.config, end), step.size, table)
            for iova in step.iovas:
                where = iova.value(spec.config, end)
                found.append(self._one(step, device, where, table, to, tables.values()))
        return found

    def _one(
        self,
        step: ProbeStep,
        device: str,
        iova: int,
        table: TableModel | None,
        to: Place | None,
        live: Collection[TableModel],
    ) -> Dma:
        row = _row(table, iova)
        if step.event is None and (row is None or iova + step.size - 1 > row.last):
            raise ValueError(f"0x{iova:x} is not mapped, so the transfer cannot succeed")
        oa = None if row is None else row.oa + iova - row.first
        before = self._led.setdefault(iova, [])
        if step.event == BLOCKED and not before:
            raise ValueError(f"0x{iova:x} has led nowhere before, so nothing shows that {device} is blocked")
        stale = tuple(dict.fromkeys(one.oa for one in before if one.oa != oa))
        blame = _rule(before, table, row, live)
        if table is not None and oa is not None and step.event is None:
            before.append(_Led(table, oa))
        return Dma(device, step.write, iova, step.size, step.event, oa, step.line, seed(device), stale, blame, to)


def _load(device: str) -> str:
    return f"load {device} seed={seed(device)}"


def _row(table: TableModel | None, iova: int) -> Range | None:
    rows = table.snapshot().ranges if table is not None else ()
    return next((row for row in rows if row.first <= iova <= row.last), None)


def _window(iova: int, size: int, table: TableModel | None) -> Place:
    row = _row(table, iova)
    if row is None or iova + size - 1 > row.last or not row.prot.write:
        raise ValueError(f"0x{iova:x} is not mapped for writing")
    return Place(iova, row.oa + iova - row.first)


def seed(device: str) -> int:
    """Return the seed of the pattern in a device's buffer, another one for each device of a machine."""
    return 1 + int("".join(filter(str.isdigit, device)) or "0")


def _rule(before: Sequence[_Led], table: TableModel | None, row: Range | None, live: Collection[TableModel]) -> str:
    """Return the rule that a transfer breaks if it does as before; empty if there was none before."""
    if not before:
        return ""
    last = before[-1].table
    if last is table:
        return "TLB-1" if row is None else "TLB-2"
    if not any(last is one for one in live):
        return "TLB-3"
    return "ISO-1"
