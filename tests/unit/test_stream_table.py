# SPDX-License-Identifier: GPL-2.0-only
"""From an SMMU's registers to the page table, and its event queue, in memory that a test has written."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from synthetic_memory import BASE, SIZE, SyntheticMemory

from pytest_iommu.dialects.smmuv3_debugfs import parse_cd, parse_ste
from pytest_iommu.formats import configure
from pytest_iommu.oracle.stream_table import SmmuV3

SMMU = 0x09050000
CD = 16 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 0xF << 44
S1, S2, BOTH, BYPASS = 0xB, 0xD, 0xF, 0x9
VTCR = 20 << 32 | 2 << 38 | 4 << 48 | 1 << 51
OUTSIDE = BASE + SIZE


class Streams:
    """A stream table of ``log2`` bits in memory; linear without a ``split``."""

    def __init__(self, log2: int = 8, split: int | None = None) -> None:
        self.memory = SyntheticMemory(1 << 22)
        self.split = split
        self.table = self.memory.allocate((64 << log2) if split is None else max(64, 8 << max(0, log2 - split)))
        self.level2: dict[int, int] = {}
        # RA is no address bit
        self.memory.registers[SMMU + 0x80] = self.table | 1 << 62
        self.memory.registers[SMMU + 0x88] = log2 if split is None else 1 << 16 | split << 6 | log2
        self.smmu = SmmuV3(self.memory, SMMU)

    def span(self, index: int, span: int, number: int | None = None) -> int:
        """Write a level-1 descriptor, with room for ``number`` entries."""
        address = self.memory.allocate(64 * (number or 1 << span - 1))
        self.memory.words(self.table + index * 8, [address | span])
        self.level2[index] = address
        return address

    def ste(self, sid: int, *words: int) -> None:
        """Write an entry."""
        address = self.table + sid * 64
        if self.split is not None:
            address = self.level2[sid >> self.split] + (sid & (1 << self.split) - 1) * 64
        self.memory.words(address, [*words, *[0] * (8 - len(words))])

    def cd(self, address: int, top: int, asid: int = 1, valid: bool = True) -> None:
        """Write a context descriptor."""
        word = CD | asid << 48 if valid else CD & ~(1 << 31)
        self.memory.words(address, [word, top, 0, 0xF404FF44, 0, 0, 0, asid])


def test_linear() -> None:
    streams = Streams()
    streams.ste(0, BYPASS)
    streams.ste(255, S2, 0, VTCR, 0x42000000, 9, 8, 7, 6)
    smmu = streams.smmu
    first, last = smmu.ste(0), smmu.ste(255)
    assert first is not None
    assert last is not None
    assert (first.sid, first.config, last.sid, last.config) == (0, "BYPASS", 255, "only S2_TRANS")
    assert last.words == (S2, 0, VTCR, 0x42000000, 9, 8, 7, 6)
    assert smmu.ste(256) is None
    assert smmu.ste(-1) is None
    assert list(smmu.streams([7, 255, 256])) == [7, 255]
    assert list(smmu.sids()) == [255]


def test_registers_are_read_in_their_size() -> None:
    streams = Streams()
    streams.smmu.ste(0)
    streams.smmu.events()
    assert {(at - SMMU, size) for at, size in streams.memory.sizes} == {
        (0x80, 8),
        (0x88, 4),
        (0xA0, 8),
        (0x100A8, 4),
    }


@pytest.mark.parametrize("split", [6, 8, 10])
def test_two_levels(split: int) -> None:
    streams = Streams(16, split)
    streams.span(0, split + 1)
    streams.span(3, 4)
    streams.ste(8, BYPASS)
    streams.ste((3 << split) + 7, S2, 0, VTCR, 0x42000000)
    smmu = streams.smmu
    low, high = smmu.ste(8), smmu.ste((3 << split) + 7)
    assert low is not None
    assert high is not None
    assert (low.config, high.config, high.sid) == ("BYPASS", "only S2_TRANS", (3 << split) + 7)
    assert smmu.ste((1 << split) - 1) is not None
    assert smmu.ste(1 << split) is None  # no level-2 table
    assert smmu.ste((3 << split) + 8) is None  # the descriptor spans eight
    assert smmu.ste(1 << 16) is None
    assert list(smmu.sids()) == [(3 << split) + 7]


@pytest.mark.parametrize("span", [0, 10, 31])
def test_descriptor_that_is_not_valid(span: int) -> None:
    streams = Streams(16, 8)
    streams.span(0, span, 1024)
    streams.ste(0, BYPASS)
    assert streams.smmu.ste(0) is None


def test_level_2_outside() -> None:
    streams = Streams(16, 8)
    streams.memory.words(streams.table, [0x1000 | 9])
    assert streams.smmu.ste(0) is None
    assert list(streams.smmu.sids()) == []


def test_two_levels_smaller_than_the_split() -> None:
    streams = Streams(4, 8)
    streams.span(0, 9)
    streams.ste(15, S2, 0, VTCR, 0x42000000)
    streams.ste(16, S2, 0, VTCR, 0x42000000)
    assert streams.smmu.ste(15) is not None
    assert streams.smmu.ste(16) is None
    assert list(streams.smmu.sids()) == [15]


def test_reserved_split_is_six() -> None:
    streams = Streams(16, 6)
    streams.memory.registers[SMMU + 0x88] = 1 << 16 | 7 << 6 | 16
    streams.span(2, 7)
    streams.ste(2 << 6, BYPASS)
    assert streams.smmu.ste(2 << 6) is not None
    assert streams.smmu.ste(0) is None


def test_low_bits_of_the_base_do_not_count() -> None:
    streams = Streams()
    streams.ste(1, BYPASS)
    streams.memory.registers[SMMU + 0x80] |= 0x40
    found = streams.smmu.ste(1)
    assert found is not None
    assert found.config == "BYPASS"


def test_no_stream_table() -> None:
    assert SmmuV3(SyntheticMemory(4096), SMMU).ste(0) is None
    assert SmmuV3(SyntheticMemory(4096), SMMU).texts(0, {}) == {}
    assert list(SmmuV3(SyntheticMemory(4096), SMMU).sids()) == []


def test_one_context_descriptor() -> None:
    streams = Streams()
    table = streams.memory.allocate(64)
    streams.ste(8, table | S1)
    streams.cd(table, 0x41000000)
    found = streams.smmu.cd(8)
    assert found is not None
    assert (found.sid, found.ssid, found.asid, found.ttb0) == (8, 0, 1, 0x41000000)
    assert list(streams.smmu.cds(8)) == [found]
    assert streams.smmu.cd(8, 1) is None
    assert streams.smmu.table(8) == (configure("arm_64_lpae_s1", ias=48, oas=44), 0x41000000)
    texts = streams.smmu.texts(8, {0x41000000: 3})
    ste, (cd,) = parse_ste(texts["ste"]), parse_cd(texts["cd"])
    assert (ste.domain, cd.domain, cd.words) == (None, 3, found.words)
    assert ste == streams.smmu.ste(8)


def test_linear_context_descriptors() -> None:
    streams = Streams()
    table = streams.memory.allocate(64 << 4)
    streams.ste(8, table | S1 | 4 << 59)
    for ssid in (0, 3, 15):
        streams.cd(table + ssid * 64, 0x41000000 + (ssid << 12), asid=ssid)
    streams.cd(table + 2 * 64, 0x41000000, valid=False)
    assert [(cd.ssid, cd.asid, cd.ttb0) for cd in streams.smmu.cds(8)] == [
        (0, 0, 0x41000000),
        (3, 3, 0x41003000),
        (15, 15, 0x4100F000),
    ]
    assert streams.smmu.cd(8, 16) is None
    invalid = streams.smmu.cd(8, 2)
    assert invalid is not None
    assert not invalid.valid
    assert streams.smmu.table(8, 2) is None
    assert streams.smmu.table(8, 3) == (configure("arm_64_lpae_s1", ias=48, oas=44), 0x41003000)
    assert [cd.domain for cd in parse_cd(streams.smmu.texts(8, {0x41003000: 7})["cd"])] == [None, 7, None]


@pytest.mark.parametrize(("fmt", "split"), [(1, 6), (2, 10)])
def test_two_levels_of_context_descriptors(fmt: int, split: int) -> None:
    streams = Streams()
    level1, leaf0, leaf2 = (streams.memory.allocate(64 << split) for _ in range(3))
    streams.ste(8, level1 | S1 | fmt << 4 | split + 2 << 59)
    # the second is not valid, the last leads nowhere
    streams.memory.words(level1, [leaf0 | 1, leaf2, leaf2 | 1, OUTSIDE | 1])
    streams.cd(leaf0, 0x41000000)
    streams.cd(leaf2 + 5 * 64, 0x42000000)
    second = (2 << split) + 5
    assert [(cd.ssid, cd.ttb0) for cd in streams.smmu.cds(8)] == [(0, 0x41000000), (second, 0x42000000)]
    found = streams.smmu.cd(8, second)
    assert found is not None
    assert (found.ssid, found.ttb0) == (second, 0x42000000)
    for ssid in (1 << split, 3 << split, 4 << split, -1):
        assert streams.smmu.cd(8, ssid) is None


@pytest.mark.parametrize(
    "words",
    [
        {"w0": 0x0},
        {"w0": S1 & ~1},  # not valid
        {"w0": BYPASS},
        {"w0": S2, "w2": VTCR, "w3": 0x42000000},
        {"w0": BOTH, "w2": VTCR, "w3": 0x42000000},  # an IPA of a guest
        {"w0": S1 | 3 << 4 | 8 << 59},  # a reserved S1Fmt
    ],
)
def test_no_context_descriptors(words: Mapping[str, int]) -> None:
    streams = Streams()
    table = streams.memory.allocate(64)
    streams.cd(table, 0x41000000)
    streams.ste(8, words["w0"] | table, 0, words.get("w2", 0), words.get("w3", 0))
    assert streams.smmu.cd(8) is None
    assert streams.smmu.texts(8, {})["cd"] == ""


def test_pointer_outside_is_shown_and_not_followed() -> None:
    streams = Streams()
    streams.ste(8, OUTSIDE | S1)
    texts = streams.smmu.texts(8, {})
    assert f"  S1ContextPtr: 0x{OUTSIDE:016x}\n" in texts["ste"]
    assert texts["cd"] == ""
    assert streams.smmu.table(8) is None


def test_stage_2_table_and_domain() -> None:
    streams = Streams()
    streams.ste(8, S2, 0, VTCR, 0x42000000)
    streams.ste(9, BOTH, 0, VTCR, 0x42000000)
    streams.ste(10, S2, 0, VTCR & ~(1 << 51), 0x42000000)
    want = configure("arm_64_lpae_s2", ias=44, oas=44), 0x42000000
    assert (streams.smmu.table(8), streams.smmu.table(9), streams.smmu.table(10)) == (want, want, None)
    for sid in (8, 9):
        assert parse_ste(streams.smmu.texts(sid, {0x42000000: 5})["ste"]).domain == 5
        assert parse_ste(streams.smmu.texts(sid, {0x41000000: 5})["ste"]).domain is None


def test_domains_of_addresses_without_a_meaning() -> None:
    streams = Streams()
    table = streams.memory.allocate(64)
    streams.ste(8, table | S1, 0, VTCR, 0x42000000)
    streams.cd(table, 0x41000000)
    word = streams.memory.word(table)
    streams.memory.words(table, [word | 1 << 14])
    texts = streams.smmu.texts(8, {0: 1, 0x42000000: 5, 0x41000000: 6})
    assert parse_ste(texts["ste"]).domain is None
    assert [(cd.epd0, cd.domain) for cd in parse_cd(texts["cd"])] == [(True, None)]
    assert streams.smmu.table(8) is None


class Queue:
    """An event queue of four records; ``put`` is what the SMMU does."""

    def __init__(self) -> None:
        self.memory = SyntheticMemory(1 << 16)
        self.base = self.memory.allocate(4 * 32)
        self.memory.registers[SMMU + 0xA0] = self.base | 1 << 62 | 2
        self.prod = 0
        self.flag = 0
        self.made = 0
        self.smmu = SmmuV3(self.memory, SMMU)

    def put(self, count: int) -> None:
        """Write so many records, each with its number for an IOVA."""
        for _ in range(count):
            self.memory.words(self.base + self.prod % 4 * 32, [0x8_00000010, 1 << 35 | 2 << 40, self.made, 0])
            self.made += 1
            self.prod = (self.prod + 1) % 8
        self.memory.registers[SMMU + 0x100A8] = self.prod | self.flag << 31

    def new(self) -> list[int | None]:
        """The IOVAs of what is new."""
        found = self.smmu.events()
        assert all((event.name, event.sid, event.write) == ("F_TRANSLATION", 8, False) for event in found)
        return [event.iova for event in found]


def test_events() -> None:
    queue = Queue()
    assert queue.new() == []
    queue.put(2)
    assert queue.new() == [0, 1]
    assert queue.new() == []
    queue.put(3)
    assert queue.new() == [2, 3, 4]
    queue.put(4)  # a full queue, round the end
    assert queue.new() == [5, 6, 7, 8]
    assert queue.new() == []
    assert queue.smmu.lost == 0


def test_events_over_and_over() -> None:
    queue = Queue()
    seen: list[int | None] = []
    for count in (1, 2, 3, 4, 3, 1, 4, 2, 4, 4):
        queue.put(count)
        seen += queue.new()
    assert seen == list(range(28))
    assert queue.smmu.lost == 0


def test_events_that_were_overwritten() -> None:
    queue = Queue()
    queue.put(6)
    assert queue.new() == [2, 3, 4, 5]
    assert queue.smmu.lost == 1
    queue.put(1)
    assert queue.new() == [6]
    assert queue.smmu.lost == 1


def test_overflow() -> None:
    queue = Queue()
    queue.put(4)
    queue.flag = 1  # the SMMU had more and no room
    queue.put(0)
    assert queue.new() == [0, 1, 2, 3]
    assert queue.smmu.lost == 1
    queue.put(1)
    assert queue.new() == [4]
    assert queue.smmu.lost == 1  # the flag stays up until the next overflow
    queue.flag = 0
    queue.put(1)
    assert queue.new() == [5]
    assert queue.smmu.lost == 2


def test_queue_that_was_set_up_again() -> None:
    queue = Queue()
    queue.put(3)
    queue.new()
    queue.base = queue.memory.allocate(4 * 32)
    queue.memory.registers[SMMU + 0xA0] = queue.base | 2
    queue.prod = 0
    queue.put(2)
    assert queue.new() == [3, 4]


def test_queue_outside() -> None:
    queue = Queue()
    queue.put(2)
    queue.memory.registers[SMMU + 0xA0] = 0x1000 | 2
    assert queue.new() == []
