# SPDX-License-Identifier: GPL-2.0-only
"""VT-d's own dump, held in its walk (pgtable_walk_level()) while another processor unmaps what it is about to read.

The reader has a spinlock, so it cannot be preempted: its processor stands still. The text is printed again from the
beginning until it fits into a buffer that is doubled each time. What counts is the last walk, whose text the reader
gets: the item is loaded equally often in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.platform import linear_map
from pytest_iommu.check.races import processors
from pytest_iommu.check.races.trap import CPU, Trap
from pytest_iommu.check.witnesses.vtd_file import NAME, path_of
from pytest_iommu.conformance.helpers import FREED, reads_freed_tables
from pytest_iommu.core.outcomes import CheckFailed, KernelCrash, Verdict
from pytest_iommu.core.printed import Row
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.vtd import VTD
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, parse_domains
from pytest_iommu.oracle.context_table import ContextTable
from pytest_iommu.oracle.items import Root, item_address
from pytest_iommu.scenario.race_words import TIMEOUT

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", devices=("edu0",)),
    pytest.mark.iommu_boot_mode("held"),
]

DEVICE = "edu0"
PAGE, BLOCK = 4096, 2 << 20
#: tables full of pages; the first is unmapped. The others keep the text longer than half of its buffer.
BASE, OA = 0x40000000, 0x18000000
TABLES = 3
#: a page far into the first table, and how many tables another domain gets meanwhile
AT, OTHERS = BASE + 5 * PAGE, 24
#: where that domain's pages lead to: not to memory that Linux has
OTHER = 0x19000000
#: a table full of blocks
BLOCKS, BLOCKS_OA, GIGABYTE = 0x80000000, 0x200000000, 1 << 30
READER, SHOWN = 0, 4
BUFFER = 4096
"""Bytes of a seq_file's first buffer."""
DONE = 5000
"""Milliseconds for a reader that nobody holds up."""


@dataclass(frozen=True, slots=True)
class Target:
    """A domain with the device on it, the file that shows its table, and who reads it."""

    domain: Domain
    iommu: Iommu
    path: str
    trap: Callable[[], Trap]
    linear: Callable[[int], int]
    root: Root
    guest: GuestHandle

    def item(self, level: int, iova: int) -> int:
        """The address of the item at that level on the way to ``iova``, as the kernel reads it."""
        assert self.guest.memory is not None
        return self.linear(item_address(self.guest.memory, self.root, iova, level).address)


@pytest.fixture
def target(iommu: Iommu, iommu_guest: GuestHandle) -> Target:
    """Skips on machines without a VT-d, and where the kernel does not show it."""
    guest, gdb, memory, linear = iommu_guest, iommu_guest.gdb, iommu_guest.memory, linear_map(iommu_guest.run)
    witness = guest.in_ram
    if witness is None or not isinstance(witness.iommu, ContextTable):
        pytest.skip(f"machine {guest.key.machine} has no VT-d")
    if gdb is None or memory is None or linear is None:
        pytest.skip("a reader is held by QEMU's gdbstub, which is not there, or memory is not seen")
    path = path_of(guest.machine.device(DEVICE).address)
    if not guest.run([ops.stat(path)]).results[0].ok:
        pytest.skip("this kernel does not show VT-d in debugfs: CONFIG_INTEL_IOMMU_DEBUGFS")
    domain = iommu.domain(stage=next(iter(guest.machine.stages)))
    for number in range(TABLES):
        domain.map(BASE + number * BLOCK, OA + number * BLOCK, BLOCK, leaf=PAGE)
    domain.attach(DEVICE)
    row = parse_domains(guest.read(f"{MODULE}/domains").decode())[domain.name]
    assert row.top is not None
    root = Root(domain.config, row.top, row.levels or domain.config.levels)
    processor = processors.of(guest.machine)
    return Target(domain, iommu, path, lambda: Trap(gdb, guest.run, processor), linear, root, guest)


def walked(target: Target, level: int, meanwhile: Sequence[str], iova: int = AT) -> str:
    """Hold a reader right after its load of the item of a level for ``iova``, in its last walk. Return what it reads.

    ``meanwhile`` are commands that are given while its processor stands still.
    """
    guest, address = target.guest, target.item(level, iova)
    guest.run([jobs.reset_jobs()])
    with target.trap() as trap:
        trap.attach()
        loads = trap.loads(address, [ops.read_file(target.path)], TIMEOUT)
        text = trap.answer().results[0].data
    walks = next(number for number in range(1, 64) if len(text) < BUFFER << number - 1)
    if not loads or loads % walks:
        raise CheckFailed(f"window not reached: the item was loaded {loads} times in {walks} walks")
    with target.trap() as trap:
        trap.attach()
        start = [jobs.start_reader(READER, target.path, cpu=CPU)]
        trap.catch(address, start, TIMEOUT, loads // walks * (walks - 1) + 1)
        trap.freeze()
        for line in meanwhile:
            target.iommu.command(line)
        trap.wake([])
    (result,) = guest.run([jobs.wait_job(READER, DONE)]).results
    if not result.ok:
        raise CheckFailed(f"reading {target.path} ends with {ops.errno_name(result.value)}", ("CON-6",))
    return b"".join(one.data for one in jobs.split_reads(result.data)).decode()


class WrongText(CheckFailed):
    """The reader got what was never there. A window that is not reached is no expected failure."""


def judge(text: str, unmapped: range) -> None:
    """Each row is as it was mapped at first, each page is shown at most once, and those still mapped exactly once."""
    (table,) = VTD.parse({NAME: text}).tables
    wrong = [row for row in table.rows if row.oa != _first_oa(row.first)]
    shown = Counter(row.first for row in table.rows if row.first < BLOCKS)
    pages = range(BASE, BASE + TABLES * BLOCK, PAGE)
    twice = [page for page, number in shown.items() if number > 1 or page not in pages]
    missing = [page for page in pages if page not in shown and page not in unmapped]
    if wrong or twice or missing:
        lines = [
            f"  0x{row.first:x} leads to 0x{row.oa or 0:x}, never mapped so: {_items(row)}" for row in wrong[:SHOWN]
        ]
        lines += [f"  and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
        lines += [f"  0x{page:x} is shown, and was never mapped, or is shown twice" for page in twice[:SHOWN]]
        lines += [f"  0x{page:x} is not shown, and is mapped all the time" for page in missing[:SHOWN]]
        what = "\n".join([f"{NAME} of {DEVICE}, read while its pages were unmapped:", *lines])
        raise WrongText(what, ("CON-1", "CON-4"), files={f"{NAME}.txt": text.encode()}, verdict=Verdict.DUMP)


def _first_oa(iova: int) -> int:
    return BLOCKS_OA + iova - BLOCKS if iova >= BLOCKS else OA + iova - BASE


def _items(row: Row) -> str:
    return " ".join(f"0x{item:016x}" for item in row.raw)


def expected(guest: GuestHandle, request: pytest.FixtureRequest, *failures: type[Exception]) -> None:
    """It must fail so where tables are freed at once."""
    if reads_freed_tables(guest):
        request.applymarker(pytest.mark.xfail(reason=FREED, strict=True, raises=failures))


@pytest.mark.iommu_rules("CON-1")
def test_a_table_that_is_freed_under_the_walk(
    target: Target, iommu: Iommu, iommu_guest: GuestHandle, request: pytest.FixtureRequest
) -> None:
    """Another domain gets its page, which the reader must not take for its own.

    On a busy machine somebody else may get it first, and what that puts there is no table.
    """
    expected(iommu_guest, request, WrongText, DumpSyntaxError)
    other = iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    # Whatever level its page becomes, the reader comes to the item that is used there.
    first, step = sum(256 << shift for shift in (12, 21, 30)), BLOCK
    taken = f"map {other.name} {first:#x} {OTHER:#x} {PAGE:#x} rw count={OTHERS} istep={step:#x} pstep={PAGE:#x}"
    text = walked(target, 0, [f"unmap {target.domain.name} {BASE:#x} {BLOCK:#x}", taken])
    judge(text, range(BASE, BASE + BLOCK))


@pytest.mark.iommu_rules("CON-1")
def test_a_table_that_is_freed_is_followed(
    target: Target, iommu: Iommu, iommu_guest: GuestHandle, request: pytest.FixtureRequest
) -> None:
    """Its page becomes another domain's table of pages: where they lead, the reader looks for a table."""
    expected(iommu_guest, request, KernelCrash)
    target.domain.map(BLOCKS, BLOCKS_OA, GIGABYTE, leaf=BLOCK)
    other = iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    # All tables are there but one: for the second page.
    first = sum(256 << shift for shift in (12, 21, 30))
    other.map(first, OTHER, PAGE)
    taken = f"map {other.name} {first + BLOCK:#x} {OTHER:#x} {PAGE:#x} rw"
    text = walked(target, 1, [f"unmap {target.domain.name} {BLOCKS:#x} {GIGABYTE:#x}", taken], BLOCKS + 5 * BLOCK)
    judge(text, range(0))
