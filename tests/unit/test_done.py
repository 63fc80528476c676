# SPDX-License-Identifier: GPL-2.0-only
"""DONE: which transfers are chosen, and that each way a device can be led astray is seen."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_iommu.check.witnesses.dma import Done, pattern
from pytest_iommu.core import machines
from pytest_iommu.core.model import Event, Prot
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.formats import configure
from pytest_iommu.oracle import Expected, TableModel
from pytest_iommu.oracle.done import Transfer, transfers
from pytest_iommu.oracle.iommu import BLOCKED
from pytest_iommu.scenario import Dma, Place, Sample

SCRATCH = 0x5C000000
MACHINE = machines.get("smmuv3")
Found = tuple[str, tuple[str, ...]]


def expected() -> Expected:
    model = TableModel(configure("arm_64_lpae_s2", ias=44, oas=44))
    model.map(0x10000000, SCRATCH, 0x5000, Prot.from_letters("rw"))
    model.map(0x10005000, SCRATCH + 0x8000, 0x1000, Prot.from_letters("r"))
    model.map(0x20000000, 0x912345000, 0x1000, Prot.from_letters("w"))
    return model.snapshot()


def test_every_range_is_asked_at_its_edges_and_beside_them() -> None:
    chosen = set(transfers(expected(), 100, lambda oa, write: True))
    assert chosen == {
        Transfer(0x10000000, True, None, SCRATCH),
        Transfer(0x10000000, False, None, SCRATCH),
        Transfer(0x10002000, True, None, SCRATCH + 0x2000),
        Transfer(0x10004000, False, None, SCRATCH + 0x4000),
        Transfer(0x0FFFF000, True, "F_TRANSLATION"),
        Transfer(0x10005000, True, "F_PERMISSION", SCRATCH + 0x8000),
        Transfer(0x10005000, False, None, SCRATCH + 0x8000),
        Transfer(0x10006000, False, "F_TRANSLATION"),
        Transfer(0x20000000, True, None, 0x912345000),
        Transfer(0x20000000, False, "F_PERMISSION", 0x912345000),
        Transfer(0x1FFFF000, True, "F_TRANSLATION"),
        Transfer(0x20001000, False, "F_TRANSLATION"),
    }


def test_few_transfers_are_spread_over_the_ranges() -> None:
    chosen = transfers(expected(), 3, lambda oa, write: True)
    assert {one.iova for one in chosen} == {0x10000000, 0x10005000, 0x20000000}
    assert chosen[0].event == "F_PERMISSION"


def test_what_could_hurt_is_not_done() -> None:
    chosen = transfers(expected(), 100, MACHINE.harmless)
    assert chosen
    assert all(one.event is not None or MACHINE.harmless(one.oa or 0, one.write) for one in chosen)
    assert not MACHINE.harmless(0x40200000, True)
    assert MACHINE.harmless(0x40200000, False)
    assert not MACHINE.harmless(0x09050000, False)


def test_the_last_page_of_the_aperture_has_nothing_behind_it() -> None:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map((1 << 48) - 4096, 0x912345000, 4096, Prot.from_letters("rw"))
    model.map(0, 0x912345000, 4096, Prot.from_letters("rw"))
    assert all(0 <= one.iova < 1 << 48 for one in transfers(model.snapshot(), 100, lambda oa, write: True))


class Device:
    """A device, an SMMU and RAM that do as the table says, but for what a test makes them do wrong."""

    event_granule = 1
    exact = True
    silent = frozenset({BLOCKED})
    not_walked: frozenset[str] = frozenset()
    untold = 0

    def __init__(self, table: Expected) -> None:
        self.table = table
        self.ram: dict[int, int] = {}
        self.queue: list[Event] = []
        self.blind = False
        self.moved = 0
        self.sid = 8
        self.writes_anyway = False
        self.echo = False
        self.drops = False
        self.lost = 0

    def write(self, address: int, data: bytes) -> None:
        self.ram |= {address + at: byte for at, byte in enumerate(data)}

    def read(self, address: int, size: int) -> memoryview:
        return memoryview(bytes(self.ram.get(address + at, 0) for at in range(size)))

    def names_of(self, event: str) -> tuple[str, ...]:
        return () if event == BLOCKED else (event,)

    def register(self, address: int, size: int = 4) -> int:
        return 0

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        pass

    def events(self) -> tuple[Event, ...]:
        taken, self.queue = tuple(self.queue), []
        self.lost += self.drops
        return taken

    def run(self, ops: Sequence[Op]) -> Reply:
        lines = [self.command(row.split()) for row in ops[0].data.decode().splitlines()]
        text = "".join(f"{number} ok {line}\n" for number, line in enumerate(lines, 1))
        return Reply((Result(len(ops[0].data)), Result(len(text), text.encode())))

    def command(self, words: list[str]) -> str:
        write, iova = words[2] == "write", int(words[3], 16)
        size = int(words[4]) if words[0] == "dma" else 8
        seed = next((int(word[5:]) for word in words if word.startswith("seed=")), 1)
        row = next((row for row in self.table.ranges if row.first <= iova <= row.last), None)
        name = "F_TRANSLATION" if row is None else "F_PERMISSION"
        allowed = bool(row and (row.prot.write if write else row.prot.read))
        if not allowed and not self.blind:
            self.queue.append(Event(name, self.sid, struct.unpack("<4Q", bytes(32)), iova=iova + 4, write=write))
            self.queue += self.queue[-1:] if self.echo else []
        if row is None or not (allowed or self.writes_anyway):
            return ""
        oa = row.oa + iova - row.first + self.moved
        if write:
            self.write(oa, pattern(seed, size))
            return ""
        data = bytes(self.read(oa, size))
        if any(word.startswith("to=") for word in words):
            self.write(SCRATCH + 0x30000, data)
        return f"data={data[:16].hex()} sum=0x{zlib.crc32(data):08x}"


def sample(
    device: Device, table: Expected, proved: bool = False, unmapped: bool = False, attached: bool = True
) -> list[tuple[str, tuple[str, ...]]]:
    done = Done(device.run, MACHINE, device, device)  # type: ignore[arg-type]
    found = done.sample(Sample("d", "edu0", table, attached=attached, limit=100, line=1), proved, unmapped)
    return [(problem.message, problem.rules) for problem in found]


def test_a_device_that_sees_what_was_mapped() -> None:
    assert sample(Device(expected()), expected()) == []


def changed(**values: int) -> Expected:
    table = expected()
    first, *rest = table.ranges
    object.__setattr__(table, "ranges", (replace(first, **values), *rest))
    return table


@pytest.mark.parametrize(
    ("values", "rule", "said"),
    [
        ({"last": 0x10003FFF}, "TAB-1", "a read of 0x10004000 by edu0 caused F_TRANSLATION, expected success"),
        ({"oa": SCRATCH + 0x1000}, "TAB-1", "memory at 0x5c000000 holds "),
        ({"prot": Prot.from_letters("r")}, "TAB-2", "a write to 0x10000000 by edu0 caused F_PERMISSION"),
    ],
)
def test_a_table_that_is_not_what_was_asked_for(values: dict[str, int], rule: str, said: str) -> None:
    found = sample(Device(changed(**values)), expected())
    assert any(said in message and rules == (rule,) for message, rules in found), found


def test_a_table_that_memory_has_shown_to_be_right() -> None:
    """Then what is different is cached: what this domain had before, or another domain of its ids."""
    table = sample(Device(changed(oa=SCRATCH + 0x1000)), expected(), proved=True)
    assert any("memory at 0x5c000000 holds " in message and rules == ("TLB-3",) for message, rules in table), table
    for unmapped, rule in ((True, "TLB-1"), (False, "TLB-3")):
        longer = sample(Device(expected()), changed(last=0x10003FFF), proved=True, unmapped=unmapped)
        assert any("succeeded, expected" in message and rules == (rule,) for message, rules in longer), longer
    assert sample(Device(expected()), expected(), proved=True) == []


def test_a_device_that_comes_for_a_transfer_alone() -> None:
    """Its entries may be wrong, or cached ones: the table that memory has shown to be right is not to blame."""
    device = Device(changed(oa=SCRATCH + 0x1000, last=0x10003FFF))
    found = sample(device, expected(), proved=True, attached=False)
    assert found
    assert {rules for _, rules in found} == {("ISO-1",)}, found


def test_a_fault_that_nobody_reports() -> None:
    device = Device(expected())
    device.blind = True
    found = sample(device, expected())
    assert any("succeeded, expected F_TRANSLATION" in message for message, _ in found)


def test_a_refusal_that_nobody_reports() -> None:
    device = Device(expected())
    device.blind = True
    assert (
        "d: a write to 0x10005000 by edu0 is refused without an event, expected F_PERMISSION",
        ("ISO-2",),
    ) in sample(device, expected())


def test_a_refusal_that_is_reported_twice() -> None:
    device = Device(expected())
    device.echo = True
    found = sample(device, expected())
    assert any("reported 2 times (1 times at an address" in message and rules == ("ISO-2",) for message, rules in found)


def test_events_that_are_lost() -> None:
    device = Device(expected())
    device.drops = True
    assert any("events are lost" in message and rules == ("ISO-2",) for message, rules in sample(device, expected()))


def test_an_event_of_another_stream() -> None:
    device = Device(expected())
    device.sid = 16
    assert any(
        "is reported for stream [16], but the device has [8]" in message for message, _ in sample(device, expected())
    )


def test_memory_that_is_written_although_a_fault_is_reported() -> None:
    device = Device(expected())
    device.writes_anyway = True
    found = sample(device, expected())
    assert any("expected no change" in message for message, _ in found)


def probe(table: Expected, actual: Expected, event: str | None = None, **words: Any) -> list[Found]:
    """A write without a move to the first page, which led to OLD before; ``actual`` is what the SMMU has cached."""
    device = Device(actual)
    row = table.ranges[0] if table.ranges else None
    oa = row.oa if row is not None else None
    one = Dma("edu0", True, 0x10000000, 8, event, oa, 7, 1, (OLD,), "TLB-1")
    found = Done(device.run, MACHINE, device, device).steps([replace(one, **words)])  # type: ignore[arg-type]
    return [(problem.message, problem.rules) for problem in found]


OLD = SCRATCH + 0x10000


def cached(oa: int, prot: str = "rw") -> Expected:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x10000000, oa, 0x1000, Prot.from_letters(prot))
    return model.snapshot()


NOTHING = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44)).snapshot()
NEW = SCRATCH + 0x20000


def test_probes_that_see_the_change() -> None:
    assert probe(NOTHING, NOTHING, "F_TRANSLATION") == []
    assert probe(cached(NEW), cached(NEW)) == []
    assert probe(cached(NEW), cached(NEW), write=False, to=Place(0x20000000, SCRATCH + 0x30000)) == []


def test_a_probe_that_reaches_what_was_unmapped() -> None:
    said = f"line 7: a write to 0x10000000 by edu0 reached 0x{OLD:x}, where this IOVA led before"
    assert probe(NOTHING, cached(OLD), "F_TRANSLATION") == [(said, ("TLB-1",))]
    assert probe(NOTHING, cached(OLD), "blocked", blame="ISO-1") == [(said, ("ISO-1",))]


def test_a_probe_that_reaches_the_old_memory_after_a_remap() -> None:
    said = f"line 7: a write to 0x10000000 by edu0 reached 0x{OLD:x}, where this IOVA led before"
    assert probe(cached(NEW), cached(OLD), blame="TLB-2") == [(said, ("TLB-2",))]


def test_a_probe_with_the_old_permissions() -> None:
    said = "line 7: a write to 0x10000000 by edu0 succeeded, expected F_PERMISSION"
    assert probe(cached(NEW, "r"), cached(NEW), "F_PERMISSION", blame="TLB-2") == [(said, ("TLB-2",))]


def test_a_probe_reads_what_was_there_before() -> None:
    window = Place(0x20000000, SCRATCH + 0x30000)
    words = {"write": False, "blame": "TLB-2", "to": window}
    ((said, rules),) = probe(cached(NEW), cached(OLD), **words)
    assert said.endswith(f"a read of 0x10000000 by edu0 reached 0x{OLD:x}, where this IOVA led before")
    assert rules == ("TLB-2",)
    ((said, rules),) = probe(cached(NEW), cached(OLD + 0x1000), **words)
    assert "returned 0000000000000000, memory at" in said
    assert rules == ("TLB-2",)
