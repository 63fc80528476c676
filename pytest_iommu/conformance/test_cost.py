# SPDX-License-Identifier: GPL-2.0-only
"""CON-11: what map, unmap and attach cost, in instructions, in a kernel with the dump and in one without.

In guests in boot mode "counted" a nanosecond is an instruction. Their clock ticks every 16 ns, and the module gives
the shortest of many rounds: one with no interrupt in it, to the tick. Operations of many sizes lie differently to the
tick, and hundreds of calls in one measurement make it small, so that single instructions are seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.conformance.helpers import make, without_and_with
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE

TICK = 16
ROUNDS, REPEATED = 40, 5
#: pages of an operation
SIZES = range(1, 33)
CALLS = 256
#: Loops are aligned with a nop where it falls so; the dump makes structures longer, and that moves code.
ALIGNMENT = 8
#: call_rcu() and what it needs
HAND_OVER = 256
BASE, BLOCK, OA = 0x31200000, 0x200000, 0x41200000
KINDS = ("s1", "s2", "amdv1", "vtdss", "x86_64", "riscv_64")
TABLES = 512
#: what a guest of one processor may not have added up yet
PENDING = 64

pytestmark = [pytest.mark.iommu_boot_mode("counted"), pytest.mark.iommu_rules("CON-11")]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a cost command answers of a kernel without the dump and of one with it, in instructions."""

    line: str
    without: Mapping[str, int]
    with_it: Mapping[str, int]

    def more(self, name: str) -> int:
        """How many more it takes with the dump."""
        return self.with_it[name] - self.without[name]


def counted(iommu: Iommu, lines: Sequence[str]) -> list[Mapping[str, int]]:
    """What each cost command answers, in instructions: the median of REPEATED times, which agree to the tick."""
    values = [
        [{name: int(value) for name, value in iommu.command(f"cost {line} rounds={ROUNDS}").items()} for line in lines]
        for _ in range(REPEATED)
    ]
    found: list[Mapping[str, int]] = []
    for line, rows in zip(lines, zip(*values, strict=True), strict=True):
        for name in rows[0]:
            same = [row[name] for row in rows]
            assert max(same) - min(same) <= 2 * TICK, f"the same is counted differently: {line}: {name} {same}"
        found.append({name: int(statistics.median(row[name] for row in rows)) for name in rows[0]})
    return found


def both(item: pytest.Item, guest: GuestHandle, kind: str, lines: Sequence[str]) -> list[Pair]:
    """The commands on a domain of a kind, without the dump and with it.

    A page is mapped at BASE: what is mapped beside it finds its tables there, and leaves them.
    """
    rows = []
    for iommu in without_and_with(item, guest):
        domain = make(iommu, kind, 4096)
        domain.map(BASE, OA, "4K")
        rows.append(counted(iommu, [f"{domain.name} {line}" for line in lines]))
        iommu.reset()
    return [Pair(line, *pair) for line, pair in zip(lines, zip(*rows, strict=True), strict=True)]


def note(item: pytest.Item, what: str, more: float) -> None:
    """Keep a number with the test's report, whatever the verdict."""
    item.user_properties.append((f"instructions more, {what}", more))


def nodump(*needs: str) -> pytest.MarkDecorator:
    """The test's own guest is the one without the dump."""
    return pytest.mark.iommu_needs(machine="smmuv3", devices=needs)


@pytest.mark.iommu_flavour("nodump")
@nodump()
@pytest.mark.parametrize("kind", KINDS)
def test_map_and_unmap_that_free_no_table(kind: str, iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    lines = [f"map {BASE + 0x10000:#x} {OA + 0x10000:#x} {pages * 4}K rw" for pages in SIZES]
    pairs = both(request.node, iommu_guest, kind, lines)
    for name in ("map", "unmap"):
        more = statistics.mean(pair.more(name) for pair in pairs)
        note(request.node, f"{name} of {kind}", more)
        rows = ", ".join(f"{pair.without[name]} {pair.more(name):+}" for pair in pairs)
        assert more <= ALIGNMENT, f"{name} takes {more} instructions more, on average; of 1 page, 2 pages...: {rows}"


@pytest.mark.iommu_flavour("nodump")
@nodump()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("s1", "s2")])
def test_a_call_of_map_to_the_instruction(kind: str, iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    """The module maps page by page where the table is a generic one: CALLS calls are counted together."""
    line = f"map {BASE + 0x100000:#x} {OA + 0x100000:#x} {CALLS * 4}K rw leaf=4K"
    (pair,) = both(request.node, iommu_guest, kind, [line])
    more = pair.more("map") / CALLS
    note(request.node, f"a call of map of {kind}", more)
    assert more < 2, f"a call of map takes {more} instructions more than {pair.without['map'] / CALLS}"


@pytest.mark.iommu_flavour("nodump")
@nodump("edu0")
@pytest.mark.parametrize("kind", ["s1", "s2"])
def test_attach_and_detach(kind: str, iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    (pair,) = both(request.node, iommu_guest, kind, ["attach edu0"])
    for name in ("attach", "detach"):
        note(request.node, f"{name} of {kind}", pair.more(name))
        assert pair.more(name) <= TICK, f"{name} takes {pair.with_it[name]} instructions, not {pair.without[name]}"


@pytest.mark.iommu_flavour("nodump")
@nodump()
@pytest.mark.parametrize("kind", ["s1", "amdv1", "vtdss"])
def test_a_table_that_is_freed(kind: str, iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    """This may cost something, but no more than handing a page to RCU: the page itself comes back later."""
    line = f"map {BASE + BLOCK:#x} {OA + BLOCK:#x} {BLOCK:#x} rw leaf=4K"
    (pair,) = both(request.node, iommu_guest, kind, [line])
    note(request.node, f"unmap of a table of {kind}", pair.more("unmap"))
    assert pair.more("unmap") <= HAND_OVER, f"{pair.with_it['unmap']} instructions, not {pair.without['unmap']}"


@pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1", "x86_64"])
def test_accounting_drops_at_the_call(kind: str, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """Nobody else runs on the one processor between unmap and what is read next: no grace period ends in there."""
    before = accounted(iommu_guest)
    domain = make(iommu, kind, 4096)
    size = TABLES * BLOCK
    domain.map(size, size, size, "rw", leaf="4K")
    assert accounted(iommu_guest)["nr_iommu_pages"] >= before["nr_iommu_pages"] + TABLES
    look = ops.read_file("/proc/vmstat")
    command = ops.write_file(f"{MODULE}/control", f"unmap {domain.name} {size:#x} {size:#x}\n".encode())
    mapped, unmapped, after = iommu_guest.run([look, command, look]).results
    assert unmapped.ok
    for name, pages in counters(ops.text_of(mapped)).items():
        dropped = pages - counters(ops.text_of(after))[name]
        assert dropped >= TABLES - PENDING, f"{name} dropped by {dropped} when {TABLES} tables were freed"
    iommu.finish()
    assert accounted(iommu_guest) == before


def counters(text: str) -> dict[str, int]:
    """The two counters of /proc/vmstat that page tables are in."""
    found = dict(line.split() for line in text.splitlines())
    return {name: int(found[name]) for name in ("nr_iommu_pages", "nr_sec_page_table_pages")}


def accounted(guest: GuestHandle) -> dict[str, int]:
    """The counters, with what each processor has kept to itself."""
    guest.write("/proc/sys/vm/stat_refresh", "1")
    return counters(guest.read("/proc/vmstat").decode())
