# SPDX-License-Identifier: GPL-2.0-only
"""Commands of VT-d, AMD's and RISC-V's IOMMU: their fields, their queues, and which of them a change needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from iommu_entries import AMD, DOMAIN, KINDS, REQUESTER, RISCV, VTD, Entries, amd, legacy, riscv, scalable

from pytest_iommu.formats import amd_commands, riscv_commands, vtd_commands
from pytest_iommu.formats.invalidations import ALL, DomainTag, Invalidation, napot
from pytest_iommu.oracle.context_table import ContextTable
from pytest_iommu.oracle.invalidation import Gone, Leaves, missing

Words = tuple[int, int]
WAIT = Invalidation("wait descriptor", waits=True)


def pages(first: int | None, last: int | None, leaf: bool = False, number: int | None = 7) -> Invalidation:
    return Invalidation("pages", translations=True, number=number, first=first, last=last, leaf=leaf)


@pytest.mark.parametrize(
    ("decode", "words", "command"),
    [
        (vtd_commands.decode_descriptor, (0x11, 0), Invalidation("context-cache invalidate", entry="context entry")),
        (
            vtd_commands.decode_descriptor,
            (0x21 | 9 << 16, 0),
            Invalidation("context-cache invalidate", entry="context entry", number=9),
        ),
        (
            vtd_commands.decode_descriptor,
            (0x31 | 9 << 16 | 0x110 << 32 | 2 << 48, 0),
            Invalidation("context-cache invalidate", entry="context entry", number=9, requester=0x110, mask=6),
        ),
        (vtd_commands.decode_descriptor, (0x12, 0), Invalidation("IOTLB invalidate", translations=True)),
        (
            vtd_commands.decode_descriptor,
            (0x22 | 9 << 16, 0),
            Invalidation("IOTLB invalidate", translations=True, number=9),
        ),
        # 2^2 pages, of leaves alone
        (
            vtd_commands.decode_descriptor,
            (0x32 | 9 << 16, 0x31234000 | 1 << 6 | 2),
            Invalidation("IOTLB invalidate", translations=True, number=9, first=0x31234000, last=0x31237FFF, leaf=True),
        ),
        (vtd_commands.decode_descriptor, (0x25, 0), WAIT),
        (vtd_commands.decode_descriptor, (0x45, 0), Invalidation("wait descriptor")),
        (
            vtd_commands.decode_descriptor,
            (0x26 | 9 << 16 | 3 << 32, 0),
            Invalidation("PASID-based IOTLB invalidate", translations=True, number=9, pasid=3),
        ),
        (
            vtd_commands.decode_descriptor,
            (0x17 | 9 << 16 | 3 << 32, 0),
            Invalidation("PASID-cache invalidate", entry="PASID entry", number=9, pasid=3),
        ),
        (vtd_commands.decode_descriptor, (0x37, 0), Invalidation("PASID-cache invalidate", entry="PASID entry")),
        (vtd_commands.decode_descriptor, (0x4, 0), Invalidation("descriptor 4")),
        (amd_commands.decode_command, (1 << 60 | 1, 0), Invalidation("COMPLETION_WAIT", waits=True)),
        (amd_commands.decode_command, (1 << 60 | 4, 0), Invalidation("COMPLETION_WAIT")),
        (
            amd_commands.decode_command,
            (2 << 60 | 0x110, 0),
            Invalidation("INVALIDATE_DEVTAB_ENTRY", entry="device table entry", requester=0x110),
        ),
        (
            amd_commands.decode_command,
            (3 << 60 | 9 << 32, 0x31234000),
            Invalidation(
                "INVALIDATE_IOMMU_PAGES", translations=True, number=9, first=0x31234000, last=0x31234FFF, leaf=True
            ),
        ),
        (
            amd_commands.decode_command,
            (3 << 60 | 9 << 32, 0x31233000 | 3),
            Invalidation("INVALIDATE_IOMMU_PAGES", translations=True, number=9, first=0x31230000, last=0x31237FFF),
        ),
        (
            amd_commands.decode_command,
            (3 << 60 | 9 << 32, 0x7FFFFFFFFFFFF003),
            Invalidation("INVALIDATE_IOMMU_PAGES", translations=True, number=9),
        ),
        (
            amd_commands.decode_command,
            (3 << 60 | 9 << 32, 0x7FFFFFFFFFFFF001),
            Invalidation("INVALIDATE_IOMMU_PAGES", translations=True, number=9, first=0, last=ALL, leaf=True),
        ),
        (
            amd_commands.decode_command,
            (8 << 60, 0),
            Invalidation("INVALIDATE_IOMMU_ALL", translations=True, entry="device table entry"),
        ),
        (riscv_commands.decode_command, (0x2, 0), Invalidation("IOFENCE.C", waits=True)),
        (riscv_commands.decode_command, (0x1, 0), Invalidation("IOTINVAL.VMA", translations=True)),
        (
            riscv_commands.decode_command,
            (0x1 | 1 << 32 | 9 << 12, 0),
            Invalidation("IOTINVAL.VMA", translations=True, number=9),
        ),
        (
            riscv_commands.decode_command,
            (0x1 | 1 << 10 | 1 << 32 | 9 << 12, 0x31234 << 10),
            Invalidation("IOTINVAL.VMA", translations=True, number=9, first=0x31234000, leaf=True),
        ),
        (
            riscv_commands.decode_command,
            (0x1 | 1 << 10 | 1 << 32 | 1 << 34 | 9 << 12, 0x31235 << 10 | 1 << 9),
            Invalidation("IOTINVAL.VMA", translations=True, number=9, first=0x31234000, last=0x31237FFF),
        ),
        (riscv_commands.decode_command, (0x1 | 1 << 33, 0), Invalidation("command 1.0")),
        (
            riscv_commands.decode_command,
            (0x3 | 1 << 33 | 0x110 << 40, 0),
            Invalidation("IODIR.INVAL_DDT", entry="device context", requester=0x110),
        ),
        (riscv_commands.decode_command, (0x3, 0), Invalidation("IODIR.INVAL_DDT", entry="device context")),
    ],
)
def test_fields(decode: Callable[[Sequence[int]], Invalidation], words: Words, command: Invalidation) -> None:
    assert decode(words) == command


def test_a_range_in_an_address() -> None:
    assert napot(0x31234000) == (0x31234000, 0x31235FFF)
    assert napot(0x31235000) == (0x31234000, 0x31237FFF)
    assert napot(0x7FFFFFFFFFFFF000) == (0, ALL)


PAGES = Gone((Leaves(0x1000, 0x3FFF, 0, 0x1000),))
TABLE = Gone(PAGES.leaves, ((0, 0x1FFFFF),))


@pytest.mark.parametrize(
    ("commands", "lost", "said"),
    [
        ([pages(0, 0x3FFF, leaf=True), WAIT], PAGES, None),
        ([pages(None, None), WAIT], TABLE, None),
        ([pages(None, None, number=None), WAIT], TABLE, None),
        ([pages(0, 0x3FFF), WAIT], TABLE, None),
        ([pages(0, 0x3FFF)], PAGES, "0x1000-0x3fff of DID 7 is invalidated, but no wait descriptor follows"),
        ([pages(0, 0x1FFF), WAIT], PAGES, "0x2000-0x3fff of DID 7 is not invalidated"),
        ([pages(None, None, number=8), WAIT], PAGES, "0x1000-0x3fff of DID 7 is not invalidated"),
        (
            [pages(0, 0x3FFF, leaf=True), WAIT],
            TABLE,
            "the table for 0x0-0x1fffff of DID 7 is freed, but a cached walk to it is not invalidated",
        ),
    ],
)
def test_what_an_unmap_needs(commands: list[Invalidation], lost: Gone, said: str | None) -> None:
    assert next(missing(commands, DomainTag("DID", 7), lost, "wait descriptor"), None) == said


class Queue:
    """The queue of one of the IOMMUs with room for 256 commands."""

    def __init__(self, entries: Entries, kind: str) -> None:
        self._memory = entries.memory
        self._at, self._tail, self._wide = entries.memory.allocate(1 << 14), 0, kind in ("first", "second")
        self._record = 32 if self._wide else 16
        registers = self._memory.registers
        if kind.startswith("riscv"):
            registers[RISCV + 0x18], self._register, unit = self._at >> 12 << 10 | 7, RISCV + 0x24, 1
        elif kind == "amd":
            registers[AMD + 8], self._register, unit = self._at | 8 << 56, AMD + 0x2008, 16
        else:
            registers[VTD + 0x90] = self._at | int(self._wide) << 11 | int(self._wide)
            self._register, unit = VTD + 0x88, self._record
        self._unit = unit

    def put(self, *commands: Words) -> None:
        for words in commands:
            self._memory.words(self._at + self._tail * self._record, (*words, *[0] * (2 * self._wide)))
            self._tail = (self._tail + 1) % 256
        self._memory.registers[self._register] = self._tail * self._unit


#: what an unmap of a page, a change of an entry, the end of a table and the wait look like
COMMANDS: dict[str, dict[str, Words]] = {
    "vtd": {
        "entry": (0x31 | DOMAIN << 16 | REQUESTER << 32, 0),
        "pasid": (0x17 | DOMAIN << 16, 0),
        "all": (0x22 | DOMAIN << 16, 0),
        "wait": (0x25 | 2 << 32, 0x1000),
    },
    "amd": {
        "entry": (2 << 60 | REQUESTER, 0),
        "all": (3 << 60 | DOMAIN << 32, 0x7FFFFFFFFFFFF003),
        "wait": (1 << 60 | 1, 0),
    },
    "riscv": {
        "entry": (3 | 1 << 33 | REQUESTER << 40, 0),
        "all": (1 | 1 << 32 | DOMAIN << 12, 0),
        "wait": (2, 0),
    },
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def words_of(kind: str) -> dict[str, Words]:
    known = dict(COMMANDS[kind.partition("-")[0] if kind.startswith(("amd", "riscv")) else "vtd"])
    if kind in ("first", "second"):
        known["entry"] = known["pasid"]
    return known


def test_the_end_of_an_entry(kind: str) -> None:
    entries, known = KINDS[kind](), words_of(kind)
    queue = Queue(entries, kind)
    reader, before = entries.iommu.commands(), entries.iommu.cached(REQUESTER)
    assert before is not None
    assert before.tag is not None
    entries.change(0, 1)
    after = entries.iommu.cached(REQUESTER)
    assert after is not None
    assert after.tag is None
    wait = entries.iommu.wait

    def said(*names: str) -> list[str]:
        queue.put(*(known[name] for name in names))
        commands = reader.new()
        assert commands is not None
        assert len(commands) == len(names)
        return list(entries.iommu.stale(REQUESTER, before, after, commands))

    entry = next(name for name, words in before.entries.items() if words != after.entries[name])
    assert said("entry", "all", "wait") == []
    (text,) = said("all", "wait")
    assert text.startswith(f"the {entry} of requester 0x110 has changed, and no ")
    left = f"{before.tag} has lost a device, and"
    assert said("entry", "wait") == [f"{left} its translations are not invalidated"]
    first, second = said("entry", "all")
    assert first.endswith(f"and no {wait} follows its {text.split(' no ')[1].removesuffix(' follows')}")
    assert second == f"{left} no {wait} follows the invalidation of its translations"
    assert list(entries.iommu.stale(REQUESTER, before, before, ())) == []


@pytest.mark.parametrize("make", [legacy, lambda: scalable(first=True), riscv])
def test_what_was_not_present_is_not_cached(make: Callable[[], Entries]) -> None:
    entries = make()
    after = entries.iommu.cached(REQUESTER)
    entries.change(0, 1)
    before = entries.iommu.cached(REQUESTER)
    assert before is not None
    assert after is not None
    assert list(entries.iommu.stale(REQUESTER, before, after, ())) == []


def test_a_device_table_entry_is_cached_whatever_it_says() -> None:
    entries = amd()
    after = entries.iommu.cached(REQUESTER)
    entries.change(0, 2)
    before = entries.iommu.cached(REQUESTER)
    assert before is not None
    assert after is not None
    (text,) = entries.iommu.stale(REQUESTER, before, after, ())
    assert text == "the device table entry of requester 0x110 has changed, and no INVALIDATE_DEVTAB_ENTRY follows"


def test_a_table_that_grows_keeps_its_translations() -> None:
    entries = amd()
    before = entries.iommu.cached(REQUESTER)
    entries.change(0, (3 ^ 4) << 9)
    after = entries.iommu.cached(REQUESTER)
    assert before is not None
    assert after is not None
    told = [Invalidation("", entry="device table entry", requester=REQUESTER), WAIT]
    assert list(entries.iommu.stale(REQUESTER, before, after, told)) == []


def test_a_queue_that_wraps_around(kind: str) -> None:
    entries, known = KINDS[kind](), words_of(kind)
    queue = Queue(entries, kind)
    reader = entries.iommu.commands()
    for _ in range(3):
        queue.put(*[known["wait"]] * 200)
        commands = reader.new()
        assert commands is not None
        assert len(commands) == 200
    queue.put(*[known["entry"]] * 256, known["wait"])
    assert reader.new() is None, "the first of them is overwritten"
    queue.put(known["wait"])
    assert len(reader.new() or ()) == 1


def test_registers_that_are_read_at_one_time_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again afterwards: they may have changed."""
    entries, read = scalable(first=False), list[int]()
    register = entries.memory.register

    def counted(address: int, size: int = 4) -> int:
        read.append(address)
        return register(address, size)

    monkeypatch.setattr(entries.memory, "register", counted)
    iommu = ContextTable(entries.memory, VTD)
    with iommu.at_one_time():
        first = [iommu.cached(REQUESTER) for _ in range(3)]
    assert len(read) == len(set(read)) > 1
    assert first == [iommu.cached(REQUESTER)] * 3
    assert len(read) > len(set(read))
