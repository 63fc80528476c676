# SPDX-License-Identifier: GPL-2.0-only
"""TAB-5: a long map that runs out of memory for its tables, at each of them in turn, fails and has mapped nothing.

The tables are charged to a control group, whose limit is a few pages too low: this needs no fault injection. Where the
kernel has that, test_no_memory.py makes every single allocation fail.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.races.end_state import in_memory
from pytest_iommu.conformance.helpers import GROUPS, KINDS, WRITING, make
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.guest import ops
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
#: how many maps must fail
FAILURES = 3
SIZE = TABLES * 2 * M


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
    refused = 0
    for pages in range(TABLES - 1):
        at += G
        neighbours(domain, at)
        value = limited_write(iommu_guest, command(domain, at), pages * PAGE)
        if value > 0:
            domain.model.map(at, OA, SIZE, Prot.from_letters("rw"))
            what = f"a map of {TABLES - 1} tables returned 0 with memory for {pages}"
            the_table_is(domain, memory(), what, "a map that returned 0 has not mapped everything")
            continue
        assert value == -errno.ENOMEM, f"with memory for {pages} tables: {ops.errno_name(value)}"
        refused += 1
        what = f"a map of {SIZE >> 20}M at 0x{at:x} has failed with ENOMEM"
        the_table_is(domain, memory(), what, "a map that failed has an effect")
        # What could not be mapped can be, once there is memory, and the tables are what they would have been.
        domain.map(at, OA, SIZE)
        the_table_is(domain, memory(), f"{what}, was made again with memory", "a map that failed has an effect")
        domain.unmap(at, SIZE)
    iommu_check(domain)
    assert refused >= FAILURES, f"only {refused} maps failed: the limit does not cut the tables of a map"


def limited_write(guest: GuestHandle, data: bytes, limit: int) -> int:
    """Write a command while what the agent takes from now on is limited to so many bytes; its value, or -errno."""
    group = folder()
    # Tables that wait for a grace period would have an allocation wait that fails, and be tried again.
    begin = [ops.read_file(f"{MODULE}/rcu_barrier"), ops.mkdir(group)]
    begin += [ops.write_file(f"{group}/memory.max", str(limit).encode())]
    # Opening a file takes memory, too: of what is done under the limit, only the map does.
    paths = (f"{MODULE}/control", f"{group}/cgroup.procs", f"{GROUPS}/cgroup.procs")
    opened = [ops.open_file(slot, path, os.O_WRONLY) for slot, path in enumerate(paths)]
    under = [ops.write(1, b"0"), ops.write(0, data), ops.write(2, b"0")]
    closed = [ops.close(slot) for slot in range(len(paths))]
    results = guest.run([*begin, *opened, *under, *closed], WRITING).results
    written = results[-len(closed) - 2]
    bad = [ops.errno_name(one.value) for one in results[1:] if one is not written and not one.ok]
    assert not bad, bad
    return written.value


def the_table_is(domain: Domain, after: Sequence[Range] | None, what: str, because: str) -> None:
    """In memory is what the model says. CheckFailed that begins with ``what`` happened."""
    expected, found = domain.model.snapshot().ranges, after or ()
    if found == expected:
        return
    wrong = [f"  in RAM    {render_range(row)}" for row in found if row not in expected]
    wrong += [f"  expected  {render_range(row)}" for row in expected if row not in found]
    text = "\n".join([f"{what}, and then:", *wrong[:8]])
    raise CheckFailed(text, ("TAB-5",), verdict=Verdict.MAPPING, because=because)
