# SPDX-License-Identifier: GPL-2.0-only
"""TAB-8: several processors map and unmap disjoint ranges at once, and race to install the tables that lead to them.

The threads are those of the test module's command `storm`, in rounds: nothing is mapped where a round maps, so all
processors find the same items empty, allocate a table each, and all but one must give theirs back. At the end the table
must be what the same changes leave, one after the other. No dump is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.platform import linear_map
from pytest_iommu.check.races import processors
from pytest_iommu.check.races.end_state import apply, ended_early
from pytest_iommu.check.races.storm import nothing_raced
from pytest_iommu.check.races.storm_log import StormLog, parse_storm
from pytest_iommu.check.races.trap import NotReached, Trap
from pytest_iommu.conformance.helpers import KINDS, make
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.settings import Settings
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE, command_ops, parse_domains
from pytest_iommu.oracle.items import Root, item_address
from pytest_iommu.scenario.race_words import TIMEOUT, Storm

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated"),
    pytest.mark.iommu_boot_mode("races"),
    pytest.mark.iommu_rules("TAB-8"),
]

K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE = 4 * K
BASE = 1 << 30
OA = 0x41230000
ROUNDS = 48
PATIENCE = 120.0
#: bytes of a cell, and from one round to the next: how many levels of tables are missing in each round
SHAPES = {
    "one-table": (PAGE, 2 * M),
    "two-tables": (PAGE, G),
    "three-tables": (PAGE, 512 * G),
    "blocks": (2 * M, G),
}
LATE = 20000
"""Microseconds that the other thread waits while one goes to its window."""
TRIES = 5


def finish(guest: GuestHandle, iommu: Iommu, domain: Domain, check: Callable[[Domain], None]) -> StormLog:
    """Wait for the end of a storm over a domain and compare the table with what its changes leave."""
    __tracebackhide__ = True
    (result,) = guest.run([ops.read_file(f"{MODULE}/storm")], PATIENCE).results
    log = parse_storm(ops.text_of(result))
    if log.error:
        raise ended_early(log)
    apply(log, domain.model)
    domain.unmapped = True
    try:
        check(domain)
    except CheckFailed as error:
        text = f"{log.threads} threads have changed disjoint ranges at once, and then:\n{error.message}"
        files = {**error.files, "storm.txt": result.data}
        related = tuple(dict.fromkeys((*error.rules, *error.related)))
        verdict, because = error.verdict, error.because
        raise CheckFailed(text, ("TAB-8",), related, files, verdict=verdict, because=because) from None
    iommu.command(f"calm {domain.name}")
    return log


@pytest.mark.parametrize(("shape", "threads"), [*((shape, 2) for shape in SHAPES), ("two-tables", 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_race_for_the_same_tables(
    kind: str,
    shape: str,
    threads: int,
    iommu: Iommu,
    iommu_guest: GuestHandle,
    iommu_check: Callable[[Domain], None],
    iommu_settings: Settings,
) -> None:
    """amdv1 begins with three levels: where whole ones are missing its top grows, too."""
    cell, step = SHAPES[shape]
    for number in range(TRIES):
        domain = make(iommu, kind, PAGE)
        base = max(BASE, step)
        rounds = min(ROUNDS, (domain.model.format.aperture(domain.config)[1] + 1 - base) // step)
        if rounds < 2:
            pytest.skip(f"a table of {domain.config.ias} bits has no room for it")
        domain.map(0, OA, PAGE)
        domain.map(base - PAGE, OA, PAGE, "r")
        storm = Storm(base, cell, threads * rounds, cell, threads, seed=iommu_settings.seed + number, round=step)
        iommu.command(storm.command(domain.name))
        log = finish(iommu_guest, iommu, domain, iommu_check)
        assert len(log.done) >= threads * rounds
        if log.overlaps:
            return
    # The window below needs no luck.
    nothing_raced(f"no two changes overlap, {TRIES} times")


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_installed_while_another_processor_is_about_to(
    kind: str,
    level: int,
    iommu: Iommu,
    iommu_guest: GuestHandle,
    iommu_check: Callable[[Domain], None],
    iommu_settings: Settings,
) -> None:
    """One processor is held right before it installs its table; meanwhile the other installs one and maps below it."""
    for number in range(TRIES):
        domain = make(iommu, kind, PAGE)
        if held(domain, level, iommu, iommu_guest, iommu_settings.seed + number):
            log = finish(iommu_guest, iommu, domain, iommu_check)
            assert log.overlaps, "the map that was held has not lasted as long as the other one"
            return
        finish(iommu_guest, iommu, domain, iommu_check)
    raise CheckFailed(f"window not reached: another processor was first, {TRIES} times")


def held(domain: Domain, level: int, iommu: Iommu, guest: GuestHandle, seed: int) -> bool:
    """Hold a mapper before its store to an empty item of this level until another mapper has done its own.

    Returns whether that succeeded. The storm goes on afterwards.
    """
    processor = processors.of(guest.machine)
    gdb, memory, linear = guest.gdb, guest.memory, linear_map(guest.run)
    if gdb is None or memory is None or linear is None:
        pytest.skip("a mapper is held by QEMU's gdbstub, which is not there, or memory is not seen")
    # The table that holds the item is there, the item is empty.
    domain.map(BASE + (1 << domain.model.geometry.item_lg2(level)), OA, PAGE)
    row = parse_domains(guest.read(f"{MODULE}/domains").decode())[domain.name]
    assert row.top is not None
    root = Root(domain.config, row.top, row.levels or domain.config.levels)
    item = item_address(memory, root, BASE, level)
    storm = Storm(BASE, PAGE, 2, PAGE, 2, seed=seed, round=2 * M, late=LATE)
    start = command_ops(f"{storm.command(domain.name)}\n")
    with Trap(gdb, guest.run, processor) as trap:
        trap.attach()
        try:
            trap.catch_before_store(linear(item.address), start, TIMEOUT)
        except NotReached:
            return False
        trap.freeze()
        await_leaf(guest, root, item.address)
        trap.wake([])
    return True


def await_leaf(guest: GuestHandle, root: Root, item: int) -> None:
    """Wait until the mapper that is not held has installed its table and mapped its cell."""
    memory = guest.memory
    assert memory is not None
    deadline = Deadline(TIMEOUT)
    while not deadline.over:
        if any(memory.read(item, 8)) and len(root.path(memory, BASE)) == root.levels:
            return
        time.sleep(min(deadline.piece, 0.001))
    why = "the other processor does not map while one is about to install a table"
    raise CheckFailed(why, ("TAB-8",), verdict=Verdict.MAPPING, because="it waits for the other")
