# SPDX-License-Identifier: GPL-2.0-only
"""From the registers of VT-d, AMD's and RISC-V's IOMMU to a page table, in memory that a test has written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from iommu_entries import (
    AMD,
    CAP,
    DOMAIN,
    ECAP,
    KINDS,
    REQUESTER,
    RISCV,
    SCALABLE_ECAP,
    TOP,
    VTD,
    Entries,
    scalable,
)
from synthetic_memory import SyntheticMemory

from pytest_iommu.core.outcomes import Verdict
from pytest_iommu.core.protocol import Fault
from pytest_iommu.oracle.context_table import ContextTable, VtdHardware
from pytest_iommu.oracle.device_directory import DeviceDirectory, RiscvHardware
from pytest_iommu.oracle.device_table import AmdHardware, DeviceTable
from pytest_iommu.oracle.iommu import PERMISSION, TRANSLATION


@dataclass
class Reported:
    """What an IOMMU has refused."""

    faults: list[Fault] = field(default_factory=list)

    def new(self) -> Sequence[Fault]:
        found, self.faults = self.faults, []
        return found


@pytest.fixture(params=KINDS)
def entries(request: pytest.FixtureRequest) -> Entries:
    return KINDS[request.param]()


def test_the_table_is_found(entries: Entries) -> None:
    found = entries.iommu.table(REQUESTER)
    assert found is not None
    config, top = found
    assert (config.format, config.levels, config.ias, top) == (
        *(entries.config.format, entries.config.levels, entries.config.ias),
        TOP,
    )
    assert entries.iommu.state(REQUESTER) == "translated"
    assert entries.iommu.tag(REQUESTER) == DOMAIN
    assert list(entries.iommu.wrong(REQUESTER, entries.config, TOP)) == []


def test_no_other_requester_has_one(entries: Entries) -> None:
    for requester in (REQUESTER + 8, REQUESTER + 0x100, 0xFFFF, 0):
        assert entries.iommu.table(requester) is None
        assert entries.iommu.tag(requester) in (None, 0)


def test_another_top_is_seen(entries: Entries) -> None:
    (wrong,) = entries.iommu.wrong(REQUESTER, entries.config, TOP + 0x1000)
    assert wrong[0] == entries.iommu.root_rule(entries.config)
    assert "0x5000" in wrong[1]


CHANGES = {
    "legacy": [(0, 1 << 1, "FPD"), (0, 1 << 2, "TT"), (1, 1, "AW"), (1, 1 << 30, "no field"), (0, 1 << 4, "no field")],
    "first": [
        *[(0, 1 << 1, "FPD"), (0, 1 << 2, "AW"), (0, 1 << 12, "SSPTPTR"), (1, 1 << 23, "PWSNP"), (2, 1 << 2, "FSPM")],
        *[(2, 1 << 7, "EAFE"), (7, 1, "word 7 has bits")],
    ],
    "second": [(0, 1 << 3, "AW"), (0, 1 << 9, "SSADE"), (1, 1 << 24, "PGSNP"), (2, 1, "SRE")],
    "amd": [
        *[(0, 1 << 61, "IR"), (0, 1 << 62, "IW"), (0, 1 << 7, "HAD"), (0, 1 << 52, "PPR"), (1, 1 << 32, "I is 0x1")],
        *[(1, 1 << 20, "no field")],
    ],
    "riscv": [
        *[
            (0, 1 << 4, "tc.DTF"),
            (0, 1 << 1, "no field"),
            (1, 8 << 60, "iohgatp.MODE"),
            (2, 1 << 40, "word 2 has bits"),
        ],
        *[(3, 1 << 60, "fsc.MODE"), (4, 1, "word 4 has bits")],
    ],
}


@pytest.mark.parametrize(
    ("kind", "word", "bits", "text"), [(kind, *one) for kind, changes in CHANGES.items() for one in changes]
)
def test_a_field_that_is_wrong(kind: str, word: int, bits: int, text: str) -> None:
    entries = KINDS[kind]()
    entries.change(word, bits)
    found = list(entries.iommu.wrong(REQUESTER, entries.config, TOP))
    assert any(text in what for _, what in found), found
    assert {rule for rule, _ in found} == {entries.iommu.root_rule(entries.config)}


@pytest.mark.parametrize(
    ("kind", "word", "bits"),
    [("legacy", 1, DOMAIN << 8), ("first", 1, DOMAIN), ("amd", 1, DOMAIN), ("riscv", 2, DOMAIN << 12)],
)
def test_a_domain_id_that_is_nobodys(kind: str, word: int, bits: int) -> None:
    entries = KINDS[kind]()
    entries.change(word, bits)
    assert any("is 0, which" in what for _, what in entries.iommu.wrong(REQUESTER, entries.config, TOP))


@pytest.mark.parametrize(
    ("kind", "word", "bits", "state"),
    [
        ("legacy", 0, 1, "blocked"),
        ("legacy", 0, 2 << 2, "passed"),
        ("legacy", 1, 2, "blocked"),  # a width that is reserved
        ("first", 0, 1, "blocked"),
        ("first", 0, (1 ^ 4) << 6, "passed"),
        ("second", 0, (2 ^ 4) << 6, "passed"),
        ("amd", 0, 1, "passed"),
        ("amd", 0, 2, "blocked"),
        ("amd", 0, 3 << 9, "passed"),
        ("amd", 0, 3 << 9 | 3 << 61, "blocked"),
        ("riscv", 0, 1, "blocked"),
        ("riscv", 3, 10 << 60, "passed"),
    ],
)
def test_what_becomes_of_dma_without_a_table(kind: str, word: int, bits: int, state: str) -> None:
    entries = KINDS[kind]()
    entries.change(word, bits)
    assert entries.iommu.table(REQUESTER) is None
    assert entries.iommu.state(REQUESTER) == state


PASSING = {
    "legacy": (1 | 2 << 2, 1 << 8 | 2),
    "first": (1 | 2 << 2 | 4 << 6, 1, 0, 0, 0, 0, 0, 0),
    "second": (1 | 2 << 2 | 4 << 6, 1, 0, 0, 0, 0, 0, 0),
    "amd": (3 | 3 << 61, DOMAIN, 0xFFFF, 0xFF),
    "riscv": (1, 0, 0, 0, 0, 0, 0, 0),
}
"""The entry of a requester on an identity domain."""
BLOCKING = {kind: (int(kind == "amd"), *words[1:]) for kind, words in PASSING.items()} | {"amd": (1, 0, 0xFFFF, 0xFF)}
"""That of one that is blocked: with AMD valid, with the others not."""


@pytest.mark.parametrize("kind", PASSING)
def test_entries_without_a_table(kind: str) -> None:
    entries = KINDS[kind]()
    for words, state in ((PASSING[kind], "passed"), (BLOCKING[kind], "blocked")):
        entries.write(*words)
        assert entries.iommu.state(REQUESTER) == state
        assert list(entries.iommu.wrong_without_table(REQUESTER)) == []


@pytest.mark.parametrize(
    ("kind", "word", "bits", "rule", "text"),
    [
        ("legacy", 1, 1, "HW-1", "AW is 0x3, must be 0x2"),
        ("legacy", 0, TOP, "HW-1", "SSPTPTR"),
        ("legacy", 1, 1 << 8, "HW-1", "DID is 0"),
        ("first", 0, 1 << 2, "HW-2", "AW is 0x3, must be 0x2"),
        ("second", 2, TOP, "HW-2", "FSPTPTR"),
        ("amd", 0, 1 << 61, "HW-1", "IR is 0x0, must be 0x1"),
        ("amd", 0, TOP, "HW-1", "root"),
        ("amd", 1, DOMAIN, "HW-1", "DomainID is 0"),
        ("riscv", 0, 1 << 4, "HW-1", "tc.DTF"),
        ("riscv", 2, DOMAIN << 12, "HW-1", "ta.PSCID"),
    ],
)
def test_an_identity_domain_with_a_wrong_field(kind: str, word: int, bits: int, rule: str, text: str) -> None:
    entries = KINDS[kind]()
    entries.write(*PASSING[kind])
    entries.change(word, bits)
    assert entries.iommu.state(REQUESTER) == "passed"
    ((broken, what),) = entries.iommu.wrong_without_table(REQUESTER)
    assert broken == rule
    assert text in what


@pytest.mark.parametrize(
    ("kind", "word", "bits"),
    [("legacy", 1, 2), ("second", 0, 2 << 2), ("amd", 0, 1 << 1), ("riscv", 3, 7 << 60)],
)
def test_what_is_left_of_a_table_that_hardware_refuses(kind: str, word: int, bits: int) -> None:
    """Nothing goes through, but only because the entry is broken."""
    entries = KINDS[kind]()
    entries.change(word, bits)
    assert entries.iommu.state(REQUESTER) == "blocked"
    found = list(entries.iommu.wrong_without_table(REQUESTER))
    assert {rule for rule, _ in found} == {"HW-5"}


def test_the_context_entry_goes_with_the_device() -> None:
    entries = scalable(first=True)
    entries.change(0, 1)
    assert list(entries.iommu.wrong_without_table(REQUESTER)) == []
    ((rule, what),) = entries.iommu.wrong_without_table(REQUESTER, present=False)
    assert (rule, what) == ("HW-5", "the context entry is present, and the device is not")


@pytest.mark.parametrize(
    ("kind", "root"),
    [
        ("legacy", "context table"),
        ("first", "context or PASID table"),
        ("amd", "device table"),
        ("riscv", "device directory"),
    ],
)
def test_the_verdict_names_what_the_iommu_has(kind: str, root: str) -> None:
    found = KINDS[kind]().iommu.root
    assert found == root
    assert Verdict.ENTRIES.sentence(found) == f"the kernel's {root} is wrong"


def test_the_upper_half_of_a_scalable_root_entry() -> None:
    entries = scalable(first=True, requester=0x01F8)
    assert entries.iommu.table(0x01F8) is not None
    assert entries.iommu.table(0x0178) is None


def test_an_entry_outside_memory_is_none(entries: Entries) -> None:
    for register in (VTD + 32, AMD, RISCV + 16):
        if register in entries.memory.registers:
            entries.memory.registers[register] ^= 1 << 40
    assert entries.iommu.table(REQUESTER) is None
    assert entries.iommu.state(REQUESTER) == "blocked"


def test_reasons_of_vtd() -> None:
    reported = Reported()
    iommu = ContextTable(SyntheticMemory(1 << 20), VTD, reported)
    reported.faults = [Fault(8, 5, 0x1000, True), Fault(8, 0x71, 0x2008, False), Fault(9, 0x85, 0x3000, True)]
    first, second, third = iommu.events()
    assert (first.sid, first.iova, first.write) == (8, 0x1000, True)
    assert first.name in iommu.names_of(TRANSLATION)
    assert first.name in iommu.names_of(PERMISSION)
    assert second.name in iommu.names_of(TRANSLATION)
    assert second.name not in iommu.names_of(PERMISSION)
    assert third.name in iommu.names_of(PERMISSION)
    assert third.name not in iommu.names_of(TRANSLATION)
    assert iommu.events() == ()


def test_the_event_log_of_amd_wraps_around() -> None:
    memory = SyntheticMemory(1 << 20)
    log = memory.allocate(4096)
    iommu = DeviceTable(memory, AMD)
    memory.registers |= {AMD + 0x10: log | 8 << 56, AMD + 0x2018: 0}
    assert iommu.events() == ()
    memory.words(log, [8 | 2 << 60 | 1 << 53, 0x7000])
    memory.registers[AMD + 0x2018] = 16
    (event,) = iommu.events()
    assert (event.name, event.sid, event.iova, event.write) == ("IO_PAGE_FAULT", 8, 0x7000, True)
    for at in range(16, 4096, 16):
        memory.words(log + at, [8 | 2 << 60, 0x8000 + at])
    memory.words(log, [9 | 2 << 60, 0xA000])
    memory.registers[AMD + 0x2018] = 16
    assert iommu.events() == ()
    memory.registers[AMD + 0x2018] = 0
    assert len(iommu.events()) == 255
    memory.registers[AMD + 0x2018] = 16
    (event,) = iommu.events()
    assert (event.sid, event.iova, event.write) == (9, 0xA000, False)


def test_the_fault_queue_of_riscv() -> None:
    memory = SyntheticMemory(1 << 20)
    queue = memory.allocate(4096)
    iommu = DeviceDirectory(memory, RISCV)
    memory.registers |= {RISCV + 0x28: queue >> 12 << 10 | 6, RISCV + 0x34: 0}
    assert iommu.events() == ()
    memory.words(queue, [13 | 2 << 34 | 8 << 40, 0, 0x7000, 0])
    memory.words(queue + 32, [15 | 3 << 34 | 8 << 40, 0, 0x8000, 0])
    memory.registers[RISCV + 0x34] = 2
    events = iommu.events()
    assert [(one.sid, one.iova, one.write) for one in events] == [(8, 0x7000, False), (8, 0x8000, True)]
    assert {one.name for one in events} <= set(iommu.names_of(TRANSLATION))


@pytest.mark.parametrize(
    ("cap", "levels", "ias", "sizes"),
    [
        (CAP, 4, 48, [4096, 1 << 21, 1 << 30]),
        (CAP & ~(3 << 34), 4, 48, [4096]),
        (0xD2008C22260206, 3, 39, [4096, 1 << 21, 1 << 30]),
    ],
)
def test_what_vtd_can_do(cap: int, levels: int, ias: int, sizes: list[int]) -> None:
    config = VtdHardware.of(cap, ECAP).config("vtdss")
    assert (config.levels, config.ias, list(config.page_sizes)) == (levels, ias, sizes)


def test_a_first_stage_has_1g_pages_if_vtd_says_so() -> None:
    assert max(VtdHardware.of(CAP, SCALABLE_ECAP).config("x86_64").page_sizes) == 1 << 21
    assert max(VtdHardware.of(CAP | 1 << 56, SCALABLE_ECAP).config("x86_64").page_sizes) == 1 << 30


def test_what_amd_and_riscv_can_do() -> None:
    assert AmdHardware.of(0x29D3).config("amdv1").levels == 3
    assert (AmdHardware.of(0x21D3).config("amdv1").ias, AmdHardware.of(0x29D3).config("amdv1").ias) == (48, 64)
    assert RiscvHardware.of(0x78E2CF0F10).config("riscv_64").ias == 57
    assert RiscvHardware.of(0x78E2CF0F10 & ~(1 << 11)).config("riscv_64").ias == 48
