# SPDX-License-Identifier: GPL-2.0-only
"""Every pair of a point that a reader is held at and an operation that goes on meanwhile (check/races/window.py).

The table has what each operation needs in a place of its own, and ranges before, between and behind that never change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu, Task
from pytest_iommu.check.races.race import Race
from pytest_iommu.conformance.helpers import make
from pytest_iommu.core.model import Prot
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.scenario.race_words import BATCH, COPY, FROZEN, LEAF, TABLE, Hold

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_boot_mode("held"),
]

PAGE, BLOCK = 4096, 2 << 20
#: a full table of pages; a block; a table that is empty; a few pages, none of which merges with its neighbour
PAGES, BLOCKS, EMPTY, FEW = (0x40000000 + number * BLOCK for number in range(4))
BEFORE, BEHIND, FAR = 0x3FE00000, 0x80000000, 0x8000000000
OA, OTHER_OA = 0x912400000, 0xB00000000
PCI = "/sys/bus/pci"

#: stage of a hardware domain or format of a software table, and the file that is read
KINDS = {"s1": "page_table", "s2": "entries", "amdv1": "page_table", "amdv1-entries": "entries"}


def fill(iommu: Iommu, kind: str) -> Domain:
    """A domain with that layout."""
    domain = make(iommu, kind.partition("-")[0], PAGE)
    iommu.do(
        *(few(domain, iova) for iova in (BEFORE, FEW, BEHIND)),
        domain.to_map(PAGES, OA, BLOCK, "rwx", PAGE),
        domain.to_map(BLOCKS, OA, BLOCK, "rwx", BLOCK),
        domain.to_map(EMPTY, OA, PAGE),
    )
    domain.unmap(EMPTY, PAGE)
    return domain


def few(domain: Domain, iova: int) -> Task:
    """Map six pages that do not merge."""

    def change() -> None:
        for number in range(6):
            domain.model.map(iova + number * PAGE, OA + 3 * number * PAGE, PAGE, Prot(True, True))

    return f"map {domain.name} {iova:#x} {OA:#x} 4K rw count=6 pstep=12K", change


def unmap_of_a_table(race: Race) -> None:
    race.unmap(PAGES, BLOCK)


def unmap_of_a_page(race: Race) -> None:
    race.unmap(PAGES + 5 * PAGE, PAGE)


def unmap_page_by_page(race: Race) -> None:
    race.unmap(PAGES, BLOCK, leaf=PAGE)


def remap_with_other_prot(race: Race) -> None:
    race.unmap(PAGES + 4 * PAGE, 4 * PAGE)
    race.map(PAGES + 4 * PAGE, OA + 4 * PAGE, 4 * PAGE, "r")


def remap_to_another_oa(race: Race) -> None:
    race.unmap(PAGES + 4 * PAGE, 4 * PAGE)
    race.map(PAGES + 4 * PAGE, OTHER_OA + 4 * PAGE, 4 * PAGE, "rwx")


def remap_to_another_oa_and_prot(race: Race) -> None:
    race.unmap(PAGES + 4 * PAGE, 4 * PAGE)
    race.map(PAGES + 4 * PAGE, OTHER_OA + 7 * PAGE, 4 * PAGE, "r", leaf=PAGE)


def block_where_pages_were(race: Race) -> None:
    race.unmap(PAGES, BLOCK)
    race.map(PAGES, OTHER_OA, BLOCK, "r", leaf=BLOCK)


def block_over_an_emptied_table(race: Race) -> None:
    race.unmap(PAGES, BLOCK, leaf=PAGE)
    race.map(PAGES, OTHER_OA, BLOCK, "r", leaf=BLOCK)


def block_over_an_empty_table(race: Race) -> None:
    race.map(EMPTY, OTHER_OA, BLOCK, "r", leaf=BLOCK)


def pages_where_a_block_was(race: Race) -> None:
    race.unmap(BLOCKS, BLOCK)
    race.map(BLOCKS, OTHER_OA, BLOCK, "r", leaf=PAGE)


def map_far_away(race: Race) -> None:
    """amdv1 begins with three levels: its top grows."""
    race.map(FAR, OA, PAGE)


def attach(race: Race) -> None:
    race.window.command(f"attach {race.domain.name} edu0")


def detach(race: Race) -> None:
    race.window.command("detach edu1")


def replace(race: Race) -> None:
    race.window.command("replace d1 edu1")


def another_domain_comes_and_goes(race: Race) -> None:
    stage = next(iter(race.machine.stages))
    race.window.command(f"domain e0 dev=edu0 stage={stage.removeprefix('s')}")
    race.window.command(f"map e0 {PAGES:#x} {OA:#x} {PAGE} rw")
    race.window.command("attach e0 edu0")
    race.window.command("detach edu0")
    race.window.command("destroy e0")


def unplug(race: Race) -> None:
    """By the guest's own hand; whether removal waits for the reader is its own affair, but not for ever."""
    address = race.machine.device("edu1").address
    race.window.block_file(f"{PCI}/devices/0000:{address}/remove", "1", must=False)


def free(race: Race) -> None:
    """Waits for a reader in the middle of a batch, may wait for one between two, must not for one that copies."""
    race.destroy()


@dataclass(frozen=True, slots=True)
class Operation:
    """What goes on; ``leaf`` is the leaf that readers are held at; ``rules`` are those beside the reader's own."""

    do: Callable[[Race], None]
    rules: tuple[str, ...] = ("CON-2", "CON-4")
    leaf: int = PAGES + 5 * PAGE
    hardware: bool = False

    @property
    def name(self) -> str:
        return self.do.__name__.replace("_", "-")


OPERATIONS = (
    Operation(unmap_of_a_table),
    Operation(unmap_of_a_page),
    Operation(unmap_page_by_page),
    Operation(remap_with_other_prot),
    Operation(remap_to_another_oa),
    Operation(remap_to_another_oa_and_prot),
    Operation(block_where_pages_were),
    Operation(block_over_an_emptied_table),
    Operation(block_over_an_empty_table, leaf=BLOCKS),
    Operation(pages_where_a_block_was, leaf=BLOCKS),
    Operation(map_far_away),
    Operation(attach, ("CON-6",), hardware=True),
    Operation(detach, ("CON-6",), hardware=True),
    Operation(replace, ("CON-6",), hardware=True),
    Operation(another_domain_comes_and_goes, ("CON-6",)),
    Operation(unplug, ("CON-6",), hardware=True),
    Operation(free, ("CON-6", "CON-9")),
)
HOLDS = {
    "table-1": lambda op: Hold(TABLE, op.leaf if op.leaf != BLOCKS else EMPTY, 1),
    "table-2": lambda op: Hold(TABLE, op.leaf, 2),
    "leaf": lambda op: Hold(LEAF, op.leaf),
    "batch": lambda op: Hold(BATCH, op.leaf),
    "copy": lambda op: Hold(COPY),
}


def pairs() -> list[object]:
    """All of them, for every kind; devices are on hardware domains only."""
    return [
        pytest.param(kind, hold, operation, id=f"{operation.name}-{hold}-{kind}", marks=rules(operation))
        for operation in OPERATIONS
        for hold in HOLDS
        for kind in KINDS
        if kind in ("s1", "s2") or not operation.hardware
    ]


def rules(operation: Operation) -> pytest.MarkDecorator:
    """The rules that such a pair is about."""
    return pytest.mark.iommu_rules(*dict.fromkeys(("CON-1", *operation.rules)))


@pytest.mark.parametrize(("kind", "hold", "operation"), pairs())
def test_window(
    kind: str,
    hold: str,
    operation: Operation,
    iommu: Iommu,
    iommu_guest: GuestHandle,
    iommu_race: Callable[..., Race],
) -> None:
    if operation.hardware and iommu_guest.page != 4096:
        pytest.skip(f"its hardware domains have pages of 4K, this kernel has {iommu_guest.page >> 10}K")
    stages = iommu_guest.machine.stages
    kinds = [one for one in KINDS if one in stages or not (operation.hardware or one in ("s1", "s2"))]
    chosen = kinds[(OPERATIONS.index(operation) + list(HOLDS).index(hold)) % len(kinds)]
    if iommu_guest.key.flavour == "debug" and kind != chosen:
        pytest.skip(f"a debug kernel is slow: this pair is tried with {chosen} there")
    domain = fill(iommu, kind)
    if operation.hardware:
        make(iommu, kind, PAGE)
        if operation.do is not attach:
            domain.attach("edu1")
    try:
        with iommu_race(domain, HOLDS[hold](operation), KINDS[kind]) as race:
            operation.do(race)
    finally:
        if operation.do is unplug and iommu_guest.alive:
            iommu_guest.write(f"{PCI}/rescan", "1")


@pytest.mark.iommu_rules("CON-1", "CON-2", "CON-6")
@pytest.mark.parametrize("file", ["page_table", "entries", "stats"])
@pytest.mark.parametrize("hold", ["table-1", "leaf"])
def test_window_of_a_processor_that_stands_still(
    hold: str, file: str, iommu: Iommu, iommu_guest: GuestHandle, iommu_race: Callable[..., Race]
) -> None:
    """No interrupt gets to the reader's processor: operations that would wait for it do not come back."""
    domain = fill(iommu, next(iter(iommu_guest.machine.stages)))
    where = HOLDS[hold](OPERATIONS[0])
    with iommu_race(domain, dataclasses.replace(where, how=FROZEN), file) as race:
        (unmap_of_a_table if hold == "leaf" else remap_to_another_oa)(race)


@pytest.mark.iommu_rules("CON-10", "CON-5", "CON-2")
@pytest.mark.parametrize("chunk", [1, 60, 4096])
def test_window_of_a_reader_of_small_pieces(
    chunk: int, iommu: Iommu, iommu_guest: GuestHandle, iommu_race: Callable[..., Race]
) -> None:
    """A read(2) that is held is one of many: what came before it and what comes after make one text."""
    domain = fill(iommu, list(iommu_guest.machine.stages)[-1])
    with iommu_race(domain, Hold(LEAF, PAGES + 5 * PAGE), "page_table", chunk) as race:
        block_where_pages_were(race)


@pytest.mark.iommu_rules("CON-7")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_a_window_that_is_not_reached_is_a_failure(kind: str, iommu: Iommu, iommu_race: Callable[..., Race]) -> None:
    """info is no walk: it loads no leaf."""
    domain = fill(iommu, kind)
    with (
        pytest.raises(CheckFailed, match="window not reached"),
        iommu_race(domain, Hold(LEAF, PAGES, timeout=0.3), "info"),
    ):
        pytest.fail("it says that it was")
    iommu.check(domain)
