# SPDX-License-Identifier: GPL-2.0-only
"""DONE: a device does DMA through a domain; RAM and the IOMMU's report of faults show the result.

The event queue is read in memory: the kernel's messages about it are rate limited, and are the kernel's own view. The
devices are QEMU's edu, driven by the test module. The command of a transfer does not report its result, so everything
is observed from outside.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check.witnesses import passed
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.guest.testmodule import Status, command_ops, parse_status, status_text
from pytest_iommu.oracle.done import Transfer, transfers
from pytest_iommu.oracle.iommu import PERMISSION, TRANSLATION

if TYPE_CHECKING:
    from pytest_iommu.core.model import Event
    from pytest_iommu.core.protocol import Memory, Op, Reply
    from pytest_iommu.images import Machine
    from pytest_iommu.oracle.iommu import Iommu
    from pytest_iommu.scenario import Dma, Sample

PROBE_BYTES = 8
BEFORE = 0x5A
"""Content of scratch memory before a device may write there."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One transfer of a batch: ``seed`` generates the data that must arrive, None if the data cannot be observed.

    ``copied`` is where the device then writes what it has read. ``stale`` and ``blame`` are those of a scenario's Dma.
    """

    command: str
    write: bool
    iova: int
    size: int
    event: str | None
    oa: int | None
    seed: int | None = None
    copied: int | None = None
    stale: tuple[int, ...] = ()
    blame: str = ""


def pattern(seed: int, size: int) -> bytes:
    """Return the data that the test module makes a device write (its README, `dma`)."""
    return bytes((seed * 31 + at * 7 + (at >> 8)) & 0xFF for at in range(size))


class Done:
    """The DONE witness for one guest. ``run`` runs a batch there.

    Without access to memory nothing can be judged, but the transfers are still made: a recording contains them.
    """

    def __init__(
        self, run: Callable[[Sequence[Op]], Reply], machine: Machine, memory: Memory | None, iommu: Iommu | None
    ) -> None:
        self._run = run
        self._machine = machine
        self._memory = memory
        self._iommu = iommu
        self._passed: dict[str, bool] = {}

    def sample(self, sample: Sample, proved: bool = False, unmapped: bool = False) -> list[CheckFailed]:
        """Check a domain with its most telling transfers.

        ``proved``: entries and table in memory are what they must be, so a transfer that goes elsewhere has met what is
        cached: of this domain where something was ``unmapped``, else of the last owner of its ids.
        """
        if self._is_passed(sample.device):
            return []
        rows = []
        on = "" if sample.attached else f" domain={sample.domain}"
        used: dict[int, int] = {}
        for number, one in enumerate(transfers(sample.expected, sample.limit, self._machine.harmless), 1):
            if sample.touched and one.event == PERMISSION:
                continue  # the entry may be cached: see transfers()
            if self._iommu is not None and not self._shows(one):
                continue
            if one.oa is not None and self._scratch(one.oa, PROBE_BYTES):
                # An address that is reached by two IOVAs or written twice shows only the last transfer.
                if used.get(one.oa, one.iova) != one.iova or (one.oa in used and one.write):
                    continue
                used[one.oa] = one.iova
            words = f"{sample.device} {'write' if one.write else 'read'} 0x{one.iova:x}"
            seen = sample.attached and one.event is None and self._scratch(one.oa, PROBE_BYTES)
            command = f"dma {words} {PROBE_BYTES} seed={number}" if seen else f"probe {words} len={PROBE_BYTES}{on}"
            seed = number if seen else None
            stays = "TLB-3" if not unmapped else "TLB-2" if one.event is None else "TLB-1"
            # Of a device that comes to the domain for this transfer alone nobody has looked at the entries, but the
            # table is not to blame.
            blame = "" if not proved else "ISO-1" if on else "TLB-3" if seen else stays
            rows.append(_Row(command, one.write, one.iova, PROBE_BYTES, one.event, one.oa, seed, blame=blame))
        return self._transfer(sample.domain, sample.device, rows)

    def _shows(self, one: Transfer) -> bool:
        """Whether what QEMU does and reports of a transfer that must succeed says whether it has."""
        assert self._iommu is not None
        untold = one.event is None and one.oa is not None and one.oa < self._iommu.untold
        return not untold and self._iommu.not_walked.isdisjoint(one.flags)

    def steps(self, steps: Sequence[Dma]) -> list[CheckFailed]:
        """Run the transfers that a scenario asks for, in order."""
        found: list[CheckFailed] = []
        for number, one in enumerate(steps, 1):
            if one.event is None and not self._scratch(one.oa, one.size):
                raise SetupError(f"line {one.line}: the data of a transfer can be observed in scratch memory only")
            if self._is_passed(one.device):
                pytest.skip(passed.WHY)
            row = self._probe(one) if one.seed is not None else self._step(one, number)
            found += self._transfer(f"line {one.line}", one.device, [row])
        return found

    def _is_passed(self, device: str) -> bool:
        if device not in self._passed:
            self._passed[device] = passed.is_passed(self._run, self._machine, self._iommu, device)
        return self._passed[device]

    def _step(self, one: Dma, number: int) -> _Row:
        words = f"{one.device} {'write' if one.write else 'read'} 0x{one.iova:x} {one.size} seed={number}"
        seed = number if one.event is None else None
        return _Row(f"dma {words}", one.write, one.iova, one.size, one.event, one.oa, seed)

    def _probe(self, one: Dma) -> _Row:
        """A transfer without a move: the device's buffer is filled, and what it reads comes back by a write."""
        words = f"{one.device} {'write' if one.write else 'read'} 0x{one.iova:x} len={one.size}"
        words += f" to=0x{one.to.iova:x}" if one.to is not None else ""
        if one.to is not None and not self._scratch(one.to.oa, one.size):
            raise SetupError(f"line {one.line}: `to` must lead to scratch memory")
        seed = one.seed if one.event is None else None
        stale = tuple(oa for oa in one.stale if self._scratch(oa, one.size))
        copied = one.to.oa if one.to is not None else None
        return _Row(f"probe {words}", one.write, one.iova, one.size, one.event, one.oa, seed, copied, stale, one.blame)

    def _scratch(self, oa: int | None, size: int) -> bool:
        return oa is not None and self._machine.in_scratch(oa, size)

    def _transfer(self, what: str, device: str, rows: Sequence[_Row]) -> list[CheckFailed]:
        if not rows:
            return []
        before = self._prepare(rows)
        script = "".join(f"{row.command}\n" for row in rows)
        status = parse_status(status_text(self._run(command_ops(script)).results))
        lost = self._iommu.lost if self._iommu is not None else 0
        events = self._iommu.events() if self._iommu is not None else []
        problems: list[CheckFailed] = []
        if self._iommu is not None and self._iommu.lost > lost:
            text = f"{what}: the event queue is full, so events are lost: the kernel does not take them out"
            problems.append(CheckFailed(text, ("ISO-2",), verdict=Verdict.DMA))
        for number, row in enumerate(rows, 1):
            one = status.get(number)
            if one is None or one.errno is not None:
                why = "was not executed" if one is None else f"failed: {one.errno} {one.message}"
                problems.append(CheckFailed(f"{what}: `{row.command}` {why}", verdict=Verdict.COMMAND))
                break
            if self._iommu is not None:
                problems += self._judge(what, device, row, one, events, before)
        return problems

    def _prepare(self, rows: Sequence[_Row]) -> dict[int, bytes]:
        """Fill the scratch memory of these transfers, drop earlier events, and return the memory's content by OA."""
        if self._memory is None or self._iommu is None:
            return {}
        places: dict[int, bytes] = {}
        for row in rows:
            read = not row.write and row.seed is not None
            for number, oa in enumerate((row.oa, *row.stale)):
                if oa is not None and self._scratch(oa, row.size):
                    # what is read differs from what any device's buffer holds, and from place to place
                    data = pattern((row.seed or 0) + number, row.size)[::-1] if read else bytes([BEFORE] * row.size)
                    places[oa] = data
            if row.copied is not None:
                places[row.copied] = bytes([BEFORE] * row.size)
        for oa, data in places.items():
            self._memory.write(oa, data)
        self._iommu.events()
        return places

    def _judge(
        self,
        what: str,
        device: str,
        row: _Row,
        status: Status,
        events: Sequence[Event],
        before: Mapping[int, bytes],
    ) -> Iterator[CheckFailed]:
        assert self._iommu is not None
        sids = set(self._machine.device(device).sids)
        granule = self._iommu.event_granule
        inside = range(row.iova & -granule, row.iova + row.size)
        mine = [one for one in events if one.iova in inside and one.write in (None, row.write)]
        kinds = sorted({one.name for one in mine})
        did = f"{what}: a {'write to' if row.write else 'read of'} 0x{row.iova:x} by {device}"
        stale = self._stale(row, before)
        if stale is not None:
            why = f"reached 0x{stale:x}, where this IOVA led before"
            yield CheckFailed(f"{did} {why}", (row.blame,), verdict=_verdict(row.blame))
            return
        # QEMU's edu splits a transfer, at most into words: each piece has an address of its own
        twice = len(mine) - len({one.iova for one in mine})
        if self._iommu.exact and (twice or len(mine) > -(-row.size // 4)):
            text = f"{did} is refused, and reported {len(mine)} times ({twice} times at an address that was reported)"
            yield CheckFailed(text, ("ISO-2",), verdict=Verdict.DMA)
        strangers = sorted({one.sid for one in mine} - sids)
        if strangers:
            which = f"is reported for stream {strangers}, but the device has {sorted(sids)}"
            yield CheckFailed(f"{did} {which}", ("ISO-2",), verdict=Verdict.DMA)
        expected = self._iommu.names_of(row.event) if row.event else ()
        silent = not kinds and row.event in self._iommu.silent
        if not silent and (bool(kinds) != bool(expected) or not set(kinds) <= set(expected)):
            refused = not kinds and row.write and row.oa is not None and self._unchanged(row.oa, before)
            came = f"caused {', '.join(kinds)}" if kinds else "is refused without an event" if refused else "succeeded"
            must = f"expected {row.event}" if row.event else "expected success"
            rule = "ISO-2" if refused else row.blame or _rule(row.event, kinds)
            yield CheckFailed(f"{did} {came}, {must}", (rule,), verdict=_verdict(rule))
        elif row.oa is not None and self._scratch(row.oa, row.size) and (row.event or row.seed is not None):
            yield from self._data(did, row, status, before[row.oa])

    def _unchanged(self, oa: int, before: Mapping[int, bytes]) -> bool:
        assert self._memory is not None
        return oa in before and bytes(self._memory.read(oa, len(before[oa]))) == before[oa]

    def _stale(self, row: _Row, before: Mapping[int, bytes]) -> int | None:
        """Return the place of before that a transfer reached: what it overwrote, or what came from there."""
        assert self._memory is not None
        if row.write:
            return next((oa for oa in row.stale if not self._unchanged(oa, before)), None)
        if row.copied is None:
            return None
        held = bytes(self._memory.read(row.copied, row.size))
        return next((oa for oa in row.stale if held == before[oa]), None)

    def _data(self, did: str, row: _Row, status: Status, before: bytes) -> Iterator[CheckFailed]:
        assert row.oa is not None
        assert self._memory is not None
        held = bytes(self._memory.read(row.oa, row.size))
        if row.write:
            want = before if row.seed is None else pattern(row.seed, row.size)
            if held != want:
                must = "expected no change" if row.seed is None else f"expected {want[:16].hex()}"
                holds = f"memory at 0x{row.oa:x} holds {held[:16].hex()}, {must}"
                yield CheckFailed(f"{did}: {holds}", (row.blame or "TAB-1",), verdict=_verdict(row.blame))
        elif row.copied is not None:
            came = bytes(self._memory.read(row.copied, row.size))
            if came != before:
                text = f"{did} returned {came[:16].hex()}, memory at 0x{row.oa:x} holds {before[:16].hex()}"
                yield CheckFailed(text, (row.blame or "TAB-1",), verdict=_verdict(row.blame))
        elif row.seed is not None and row.command.startswith("dma"):
            got = int(status.values.get("sum", "-1"), 0)
            if got != zlib.crc32(held):
                have = status.values.get("data", "?")
                text = f"{did} returned {have}, memory at 0x{row.oa:x} holds {held[:16].hex()}"
                yield CheckFailed(text, (row.blame or "TAB-1",), verdict=_verdict(row.blame))


def _verdict(rule: str) -> Verdict:
    return Verdict.CACHE if rule.startswith("TLB") else Verdict.DMA


def _rule(wanted: str | None, kinds: Sequence[str]) -> str:
    """The rule that a transfer breaks: it was let through, it was refused, or refused for the wrong reason."""
    seen = {wanted, *kinds} - {None}
    if PERMISSION in seen and TRANSLATION not in seen:
        return "TAB-2"
    return "ISO-1" if wanted and not kinds else "TAB-1"
