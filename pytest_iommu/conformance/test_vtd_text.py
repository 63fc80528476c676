# SPDX-License-Identifier: GPL-2.0-only
"""VT-d's own debugfs: entries as they are in memory, devices without a domain, and a reader in the middle of a storm.

That its tables are those of the domains is judged in every scenario with a device on such a machine
(check/witnesses/vtd_file.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.races.storm import nothing_raced
from pytest_iommu.check.races.storm_log import StormLog, parse_storm
from pytest_iommu.check.reading import joined
from pytest_iommu.check.witnesses.other_dumps import parsed
from pytest_iommu.check.witnesses.vtd_file import NAME, VtdFile, path_of
from pytest_iommu.compare.printed_memory import requester
from pytest_iommu.compare.printed_rules import findings
from pytest_iommu.conformance.helpers import FREED, reads_freed_tables
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.printed import Row, Table
from pytest_iommu.dialects.vtd import VTD
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE
from pytest_iommu.oracle.context_table import ContextTable

DEVICE = "edu0"
CONTEXTS = f"{DEBUGFS}/intel/dmar_translation_struct"
K, M = 1 << 10, 1 << 20
PAGE = 4 * K
BASE, OA = 0x40000000, 0x18000000
CELLS, CHANGES, MORE, READS = 24, 4000, 100000, 40

pytestmark = pytest.mark.iommu_needs(machine="emulated", devices=(DEVICE,))


@pytest.fixture
def vtd(iommu_guest: GuestHandle) -> ContextTable:
    """The VT-d of the guest. Skips on other machines, and where the kernel has no such debugfs."""
    witness = iommu_guest.in_ram
    if witness is None or not isinstance(witness.iommu, ContextTable):
        pytest.skip(f"machine {iommu_guest.key.machine} has no VT-d")
    if not iommu_guest.run([ops.stat(CONTEXTS)]).results[0].ok:
        pytest.skip("this kernel does not show VT-d in debugfs: CONFIG_INTEL_IOMMU_DEBUGFS")
    return witness.iommu


@pytest.fixture
def attached(vtd: ContextTable, iommu: Iommu, iommu_guest: GuestHandle) -> Domain:
    """A domain of the only stage that the VT-d has, with the device on it."""
    domain = iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    domain.attach(DEVICE)
    return domain


def table_of(guest: GuestHandle, device: str = DEVICE) -> str:
    return guest.read(path_of(guest.machine.device(device).address)).decode()


def hold(domain: Domain, vtd: ContextTable, guest: GuestHandle) -> None:
    """Compare the file of the device, which is on that domain, with what is mapped. CheckFailed names the rules."""
    __tracebackhide__ = True
    path = path_of(guest.machine.device(DEVICE).address)
    file = VtdFile(DEVICE, domain.name, path, domain.model.snapshot())
    files: dict[str, bytes] = {}
    if guest.dialect_or_none.files:
        files[f"{domain.name}.entries.txt"] = guest.read(domain.path("entries"))
    failures = file.check(guest.run(file.ops).results, vtd, files)
    if failures:
        raise joined(failures, files)


@pytest.mark.iommu_rules("STE-2", "HW-1")
def test_entries_are_those_in_memory(vtd: ContextTable, attached: Domain, iommu_guest: GuestHandle) -> None:
    """dmar_translation_struct: words of each entry, and no entry is left out."""
    attached.map(BASE, OA, "2M")
    text = iommu_guest.read(CONTEXTS).decode()
    dump = parsed(VTD, {"dmar_translation_struct": text})
    assert not findings(dump)
    shown = set()
    for one in dump.contexts:
        sid = requester(one.device)
        assert sid is not None
        context, entry = vtd.context(sid), vtd.pasid(sid)
        assert context is not None, f"{one.device} has no context entry in memory"
        # The highest word first; of a scalable-mode entry it is words 1 and 0, too.
        assert one.context == (context[1], context[0]), one.device
        if vtd.scalable and one.pasid == 0:
            assert entry is not None
            assert one.entry == (entry[2], entry[1], entry[0]), one.device
        shown.add(sid)
    # In scalable mode a row is a PASID entry: a device that is blocked has a context entry, and no row.
    present = {sid for sid in range(1 << 8) if vtd.tag(sid) is not None}
    assert present <= shown, "entries of bus 0 that are present in memory, and not shown"
    assert iommu_guest.machine.device(DEVICE).sid in shown


@pytest.mark.iommu_rules("RNG-1", "RNG-4", "LVL-1", "PRT-1", "ENT-1")
def test_every_row_of_a_table(attached: Domain, vtd: ContextTable, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """A table full of pages, none of which leads beside its neighbour; holes; blocks; the ends of the aperture."""
    last = attached.model.format.aperture(attached.config)[1]
    tasks = [attached.to_map(BASE + at * PAGE, OA + at * 2 * PAGE, PAGE, "rw" if at % 3 else "r") for at in range(512)]
    tasks += [attached.to_map(BASE + 2 * M + at * PAGE, OA + at * PAGE, PAGE) for at in range(0, 512, 5)]
    tasks += [attached.to_map(BASE + at * 2 * M, OA + at * 2 * M, 2 * M, "rw", 2 * M) for at in range(2, 8)]
    tasks += [attached.to_map(0x1F00000000, OA, PAGE), attached.to_map(last + 1 - PAGE, OA, PAGE, "r")]
    iommu.do(*tasks)
    hold(attached, vtd, iommu_guest)


@pytest.mark.iommu_rules("RNG-6")
def test_a_device_without_a_domain_has_no_table(attached: Domain, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Also right after it has left one."""
    attached.map(BASE, OA, "12K")
    assert "Device 0000:" in table_of(iommu_guest)
    iommu.command(f"detach {DEVICE}")
    assert table_of(iommu_guest) == ""


@pytest.mark.iommu_rules("CON-1", "CON-2", "CON-4")
@pytest.mark.iommu_boot_mode("races")
@pytest.mark.parametrize("cell", [PAGE, 2 * M], ids=["4k", "2m"])
def test_a_reader_in_a_storm(
    cell: int, attached: Domain, vtd: ContextTable, iommu: Iommu, iommu_guest: GuestHandle
) -> None:
    """Each row is one of the states of its cell, and what nobody changes is in every read.

    The kernel says of this file that it races with unmap. Tables of 4K cells go while it walks them.
    """
    gap = 2 * cell if cell > PAGE else 2 * M
    attached.map(BASE - 2 * M, OA, "8K")
    end = BASE + CELLS * gap
    attached.map(end, OA + M, "4K", "r")
    hold(attached, vtd, iommu_guest)
    iommu.command(f"storm {attached.name} {BASE:#x} {cell:#x} cells={CELLS} gap={gap:#x} ops={CHANGES} more={MORE}")
    path = path_of(iommu_guest.machine.device(DEVICE).address)
    texts = [ops.text_of(one) for one in iommu_guest.run([ops.read_file(path)] * READS, 60.0).results]
    iommu_guest.run([ops.write_file(f"{MODULE}/control", f"enough {attached.name}\n".encode())])
    log = parse_storm(iommu_guest.read(f"{MODULE}/storm").decode())
    iommu.command(f"calm {attached.name}")
    tables = [table for text in texts for table in parsed(VTD, {NAME: text}).tables]
    assert len(tables) == READS
    freed = reads_freed_tables(iommu_guest)
    own = [_without(table, log) if freed else table for table in tables]
    for table in own:
        for rule, what in _wrong(table, log, end):
            raise CheckFailed(f"VT-d's own dump of {DEVICE}: {what}", (rule,), verdict=Verdict.DUMP)
    if own != tables:
        pytest.xfail(FREED)
    if len({tuple(row[1:] for row in table.rows) for table in tables}) == 1:
        nothing_raced(f"all of {READS} reads are the same")


def _wrong(table: Table, log: StormLog, end: int) -> Iterator[tuple[str, str]]:
    """Yield which rule a read breaks, and how."""
    seen = [row for row in table.rows if not BASE <= row.first < end]
    wanted = [(BASE - 2 * M, OA), (BASE - 2 * M + PAGE, OA + PAGE), (end, OA + M)]
    if [(row.first, row.oa) for row in seen] != wanted:
        yield "CON-2", f"what nobody changes is {[(hex(row.first), hex(row.oa or 0)) for row in seen]}"
    for row in table.rows:
        if BASE <= row.first < end and not _a_state(row, log):
            where = f"0x{row.first:x} leads to 0x{row.oa or 0:x} {row.prot}"
            yield "CON-4", f"line {row.line}: {where}, which no state of its cell has"


def _a_state(row: Row, log: StormLog, cell: int | None = None) -> bool:
    """Whether the row is one of the states of its cell, or what such a state would be in another ``cell``."""
    number, offset = divmod(row.first - BASE, log.gap)
    number = number if cell is None else cell
    return row.prot is not None and any(
        (row.oa, row.prot.write) == (state.pa + number * log.cell + offset, state.prot.write) and offset < state.size
        for state in log.states
    )


def _without(table: Table, log: StormLog) -> Table:
    """The table without what the reader found in freed ones."""
    return replace(table, rows=tuple(row for row in table.rows if not _of_another_cell(log, row)))


def _of_another_cell(log: StormLog, row: Row) -> bool:
    """Whether the reader was in a table that was freed, and has become the table of another cell."""
    inside = BASE <= row.first < BASE + log.cells * log.gap
    return inside and not _a_state(row, log) and any(_a_state(row, log, cell) for cell in range(log.cells))
