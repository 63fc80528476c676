# SPDX-License-Identifier: GPL-2.0-only
"""TAB-5: a long map that runs out of memory for its tables, at each of them in turn, fails and has mapped nothing.

The tables are charged to a control group, whose limit is a few pages too low: this needs no fault injection. Where the
kernel has that, test_no_memory.py makes every single allocation fail.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence

import pytest

from pytest_iommu.check.handles import Domain, GuestHandle, Iommu
from pytest_iommu.check.races.end_state import in_memory
from pytest_iommu.conformance.helpers import GROUPS, KINDS, WRITER, limited, make
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE

pytestmark = [
    pytest.mark.iommu_flavour("plain"),
    pytest.mark.iommu_needs(config=("MEMCG",)),
    pytest.mark.iommu_rules("TAB-5"),
]

K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE = 4 * K
BASE = 4 * G
OA = 0x41231000
#: The output address is a page off, so no block fits: TABLES tables of pages, and the first is there already.
TABLES = 16
#: limits that are tried from the first one on at which a map fails, and how often one must: what the writer itself
#: needs differs by a few pages each time, so the lowest limit is tried until then, or until there were TRIES maps
STEPS, FAILURES, TRIES = 9, 3, 100
SIZE = TABLES * 2 * M
#: pages by which a limit may be lowered until a map fails: the kernel charges 64 at a time for each processor
AHEAD = 200


def command(domain: Domain, at: int) -> bytes:
    return f"map {domain.name} {at:#x} {OA:#x} {SIZE:#x} rw\n".encode()


def folder() -> str:
    """A control group of a new name."""
    return f"{GROUPS}/map-{time.monotonic_ns()}"


def neighbours(domain: Domain, at: int) -> None:
    """What is mapped right before and right behind, in the first and the last table of the map."""
    domain.map(at - PAGE, OA, PAGE, "r")
    domain.map(at + SIZE, OA, PAGE, "r")


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_map_that_runs_out_of_memory_changes_nothing(
    kind: str, groups: None, iommu: Iommu, iommu_guest: GuestHandle, iommu_check: Callable[[Domain], None]
) -> None:
    domain = make(iommu, kind, PAGE)
    memory = in_memory(iommu_guest.run, iommu_guest.in_ram, domain.name, domain.config)
    if memory() is None:
        pytest.skip("needs a guest whose memory the host can see")
    at = BASE + PAGE * 7
    neighbours(domain, at)
    needed = folder()
    assert limited(iommu_guest, needed, jobs.start_writer(WRITER, f"{MODULE}/control", command(domain, at))) > 0
    domain.model.map(at, OA, SIZE, Prot.from_letters("rw"))
    iommu_check(domain)
    peak = int(iommu_guest.read(f"{needed}/memory.peak"))
    refused = less = 0
    lowest = AHEAD
    for _ in range(TRIES):
        if less >= lowest and refused >= FAILURES:
            break
        # What the kernel charges ahead is in the peak as well, so the first limits may still be enough. No step may go
        # below what the writer itself needs: all of them together are fewer pages than the tables.
        less = min(less + (1 if refused else TABLES - STEPS), lowest)
        at += G
        neighbours(domain, at)
        start = jobs.start_writer(WRITER, f"{MODULE}/control", command(domain, at))
        value = limited(iommu_guest, folder(), start, peak - less * PAGE)
        if value == -errno.ETIMEDOUT:
            # Lower than what the writer needs, this time.
            lowest = less - 1
        elif value > 0:
            domain.model.map(at, OA, SIZE, Prot.from_letters("rw"))
            what = f"a map returned 0 with {less} pages of memory too few"
            the_table_is(domain, memory(), what, "a map that returned 0 has not mapped everything")
        else:
            assert value == -errno.ENOMEM, f"with {less} pages too few: {ops.errno_name(value)}"
            refused += 1
            lowest = min(lowest, less + STEPS - 1)
            what = f"a map of {SIZE >> 20}M at 0x{at:x} has failed with ENOMEM"
            the_table_is(domain, memory(), what, "a map that failed has an effect")
            # What could not be mapped can be, once there is memory, and the tables are what they would have been.
            domain.map(at, OA, SIZE)
            the_table_is(domain, memory(), f"{what}, was made again with memory", "a map that failed has an effect")
        if value != -errno.ETIMEDOUT:
            # Else what is compared would grow with each limit.
            domain.unmap(at, SIZE)
    iommu_check(domain)
    assert refused >= FAILURES, f"only {refused} maps failed: the limit does not cut the tables of a map"


def the_table_is(domain: Domain, after: Sequence[Range] | None, what: str, because: str) -> None:
    """In memory is what the model says. CheckFailed that begins with ``what`` happened."""
    expected, found = domain.model.snapshot().ranges, after or ()
    if found == expected:
        return
    wrong = [f"  in RAM    {render_range(row)}" for row in found if row not in expected]
    wrong += [f"  expected  {render_range(row)}" for row in expected if row not in found]
    text = "\n".join([f"{what}, and then:", *wrong[:8]])
    raise CheckFailed(text, ("TAB-5",), verdict=Verdict.MAPPING, because=because)
