# SPDX-License-Identifier: GPL-2.0-only
"""FLT-1, TAB-5: every allocation on the way to a dump fails in turn, by fail-nth (Documentation/fault-injection).

So does every one of map and attach, which needs no dump. Nothing may be left of what was begun: the counter of
page-table memory is where it was, and kmemleak finds nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.check.owners.drivers import node, vfio
from pytest_iommu.check.owners.editing import IOMMUFD, LOW, buffer, hold_leaves
from pytest_iommu.check.owners.guest_program import Owner, OwnerError, Space
from pytest_iommu.check.races.end_state import in_memory
from pytest_iommu.conformance.helpers import FILES, KMEMLEAK, make, scan_twice
from pytest_iommu.core.model import Prot
from pytest_iommu.core.protocol import Op
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE, parse_domains

NTH = "/proc/thread-self/fail-nth"
CONTROL = f"{MODULE}/control"
OA, SIZE = 0x41230000, 0x10000
#: pages in four tables: the output address is aligned to no block
LONG = 0x800000
#: how many allocations are made to fail once more, for kmemleak to look what was lost
TRIED, TRIED_OF_A_DOMAIN = 25, 80
#: the agent's place for an open file
SLOT = 1
# Allocations that may fail without anybody noticing (kmemleak's, a shrinker's) are in between: the end is reached when
# so many in a row make no difference.
QUIET = 25
LIMIT = 500
# The first ones several times: a slab that grows for somebody else may have been what was counted to.
FIRST, TIMES = 4, 3

pytestmark = pytest.mark.iommu_flavour("debug")


def dump(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of the files of a dump."""
    marked: Callable[..., None] = pytest.mark.iommu_needs(dialect="io_ptdump")(pytest.mark.iommu_rules("FLT-1")(test))
    return marked


def arm(nth: int) -> Op:
    """From here on the nth allocation of the agent's thread fails; 0: none."""
    return ops.write_file(NTH, f"{nth}".encode())


@pytest.fixture
def failing(iommu_guest: GuestHandle) -> Iterator[GuestHandle]:
    """A guest whose slab and page allocations can be made to fail, sleeping ones too, without a word in the log."""
    settings = {
        "failslab": ("ignore-gfp-wait", "cache-filter", "verbose"),
        "fail_page_alloc": ("ignore-gfp-wait", "min-order", "verbose"),
    }
    batch = [
        ops.write_file(f"/sys/kernel/debug/{attribute}/{name}", b"0")
        for attribute, names in settings.items()
        for name in names
    ]
    if not all(result.ok for result in iommu_guest.run(batch).results):
        pytest.skip("needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and CONFIG_FAULT_INJECTION_DEBUG_FS")
    yield iommu_guest
    if iommu_guest.alive:
        # Writing takes allocations itself, the one that was to fail may be among them.
        iommu_guest.run([arm(0), arm(0)])


def only(guest: GuestHandle, what: str) -> None:
    """Let allocations of one kind fail: of the slabs, or of pages."""
    guest.write("/sys/kernel/debug/failslab/cache-filter", "N" if what == "slab" else "Y")
    guest.write("/sys/kernel/debug/fail_page_alloc/min-order", "0" if what == "pages" else "10")


@pytest.fixture
def accounted(failing: GuestHandle, iommu: Iommu) -> Callable[[], None]:
    """To be called at the end: everything is freed, and there are as many pages of page tables as there were."""
    before = table_pages(failing)

    def check() -> None:
        iommu.finish()
        after = table_pages(failing)
        assert after == before, f"{before} pages of page tables before, {after} after everything was freed"

    return check


def table_pages(guest: GuestHandle) -> int:
    """Pages of page tables, as they are accounted."""
    guest.write("/proc/sys/vm/stat_refresh", "1")
    text = guest.read("/proc/vmstat").decode()
    return int(dict(line.split() for line in text.splitlines())["nr_iommu_pages"])


class Allocations:
    """Counts through the allocations of an operation; each fails in its turn, until QUIET in a row do not matter."""

    def __init__(self) -> None:
        self._quiet = 0

    def __iter__(self) -> Iterator[int]:
        first = [nth for nth in range(1, FIRST + 1) for _ in range(TIMES)]
        for nth in (*first, *range(FIRST + 1, LIMIT)):
            yield nth
            self._quiet += 1
            if self._quiet == QUIET:
                return
        pytest.fail(f"allocation {LIMIT} still makes a difference")

    def mattered(self) -> None:
        """The operation noticed that its allocation failed."""
        self._quiet = -1


@dump
@pytest.mark.parametrize("name", ["info", "page_table", "entries", "stats"])
def test_reading_fails_with_enomem_and_nothing_else(
    name: str,
    failing: GuestHandle,
    iommu: Iommu,
    iommu_check: Callable[[Domain], None],
    accounted: Callable[[], None],
) -> None:
    domain = iommu.domain()
    domain.map(0x1000000, 0x41234000, "64K", "rwc")
    failed = {"open": 0, "read": 0}
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.open_file(1, domain.path(name)), ops.read(1, 4096), ops.close(1), arm(0), arm(0)]
        _, opened, read, *_ = failing.run(batch).results
        step, result = ("read", read) if opened.ok else ("open", opened)
        if result.ok:
            assert read.value > 0, f"nothing is read though allocation {nth} failed"
            continue
        assert result.value == -errno.ENOMEM, f"{step}, allocation {nth}: {ops.errno_name(result.value)}"
        failed[step] += 1
        allocations.mattered()
    # The buffer of a read is from kvmalloc(), which gets it elsewhere when one allocation fails.
    assert failed["open"] >= 2, "neither the seq_file nor the state of a reader was made to fail"
    iommu_check(domain)
    accounted()


@dump
def test_a_domain_is_made_though_its_directory_cannot_be(
    failing: GuestHandle, iommu: Iommu, accounted: Callable[[], None]
) -> None:
    without = 0
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=1\n"), arm(0), arm(0)]
        made = failing.run(batch).results[1]
        listed = failing.read(f"{MODULE}/domains").decode()
        assert made.ok == listed.startswith("d "), f"allocation {nth}: {made.value}, but the module lists {listed!r}"
        if not made.ok:
            assert made.value == -errno.ENOMEM, f"allocation {nth}: {ops.errno_name(made.value)}"
            allocations.mattered()
            continue
        if " id=- " in listed:
            without += 1
            allocations.mattered()
            iommu.command("map d 0x1000000 0x41234000 4K rw")
        iommu.command("destroy d")
    # What the call allocates itself; the directory and its files are made later, by a worker.
    assert without, "no allocation of the directory failed"
    accounted()


@dump
def test_a_domain_that_could_not_be_made_leaves_no_directory(
    failing: GuestHandle, iommu: Iommu, accounted: Callable[[], None]
) -> None:
    before = directories(failing)
    refused = 0
    allocations = Allocations()
    for nth in allocations:
        batch = [arm(nth), ops.write_file(CONTROL, b"domain d dev=edu0 stage=2\n"), arm(0), arm(0)]
        if failing.run(batch).results[1].ok:
            iommu.command("destroy d")
        else:
            refused += 1
            allocations.mattered()
        assert directories(failing) == before, f"allocation {nth} leaves a directory behind"
    assert refused, "no allocation of the domain itself failed"
    accounted()


def command(failing: GuestHandle, nth: int, line: str) -> str:
    """What becomes of a command of the test module whose nth allocation fails: the errno's name, or ok."""
    # While tables wait for a grace period, an allocation that fails is tried once more when it has ended.
    begin = [ops.open_file(SLOT, CONTROL, os.O_WRONLY), ops.read_file(f"{MODULE}/rcu_barrier"), arm(nth)]
    batch = [*begin, ops.write(SLOT, f"{line}\n".encode()), arm(0), arm(0), ops.close(SLOT)]
    opened, _, _, written, *_ = failing.run(batch).results
    assert opened.ok
    return ops.errno_name(written.value)


@pytest.mark.iommu_rules("FLT-1", "TAB-5", "HW-1")
@pytest.mark.iommu_needs(devices=("edu0", "edu1"))
@pytest.mark.parametrize("stage", ["s1", "s2"])
@pytest.mark.parametrize("how", ["attach", "replace"])
def test_attaching(
    how: str,
    stage: str,
    failing: GuestHandle,
    iommu: Iommu,
    iommu_check: Callable[[Domain], None],
    accounted: Callable[[], None],
) -> None:
    """Each time a new domain: what an attach leaves behind in one is not there the next time."""
    other = iommu.domain()
    other.map(0x1000000, 0x41230000, "64K", "rwc")
    refused = 0
    allocations = Allocations()
    for nth in allocations:
        domain = iommu.domain(stage=stage)
        domain.map(0x1000000, 0x41234000, "64K", "rwc")
        if how == "replace":
            other.attach("edu0")
        came = command(failing, nth, f"{how} {domain.name} edu0")
        on = {name: row.attached for name, row in parse_domains(failing.read(f"{MODULE}/domains").decode()).items()}
        assert on[domain.name] == (("edu0",) if came == "ok" else ()), f"{came}, but attached is {on}"
        if came != "ok":
            assert came == "ENOMEM", f"allocation {nth}: {came}"
            assert on[other.name] == (("edu0",) if how == "replace" else ())
            refused += 1
            allocations.mattered()
            # Of a device that is attached the check finds the table by way of the stream: it leads there, or nowhere.
            iommu_check(other)
            domain.attach("edu1")
            iommu_check(domain)
            iommu.command("detach edu1")
            iommu.command(f"{how} {domain.name} edu0")
            iommu_check(domain)
        iommu.command("detach edu0")
        iommu.command(f"destroy {domain.name}")
    assert refused, "no allocation of an attach failed"
    accounted()


@pytest.mark.iommu_rules("FLT-1", "TAB-5")
@pytest.mark.parametrize("size", [SIZE, LONG], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_mapping(
    kind: str,
    size: int,
    failing: GuestHandle,
    iommu: Iommu,
    iommu_check: Callable[[Domain], None],
    accounted: Callable[[], None],
) -> None:
    """A map that fails has mapped nothing: the tables that it leaves are empty, and go with the domain."""
    failed = {"slab": 0, "pages": 0}
    for what in failed:
        only(failing, what)
        domain = make(iommu, kind)
        memory = in_memory(failing.run, failing.in_ram, domain.name, domain.config)
        domain.map(0x31230000, OA, SIZE, "rwc")
        allocations = Allocations()
        for at, nth in enumerate(allocations):
            # Each of them far from the one before: in another table of every level but the top.
            iova = 0x4000000000 * (1 + at % 50) + 0x1000000 * (at // 50)
            came = command(failing, nth, f"map {domain.name} {iova:#x} {OA:#x} {size:#x} rw")
            if came == "ok":
                domain.model.map(iova, OA, size, Prot.from_letters("rw"))
            else:
                assert came == "ENOMEM", f"allocation {nth}: {came}"
                assert memory() in (None, domain.model.snapshot().ranges)
                failed[what] += 1
                allocations.mattered()
                # What could not be mapped can be, once there is memory.
                domain.map(iova, OA, size)
                iommu_check(domain)
            domain.unmap(iova, size)
        iommu_check(domain)
    assert failed["slab"], "no allocation of the module failed"
    assert failed["pages"] >= 2, f"{failed['pages']} tables could not be had, there are two levels or more"
    accounted()


@pytest.mark.iommu_rules("TAB-5")
@pytest.mark.iommu_needs(machine="smmuv3", devices=("edu1",), config=IOMMUFD)
def test_mapping_by_iommufd(failing: GuestHandle) -> None:
    """An IOAS with two tables: what fails in either is undone in both. Each map crosses a border of every level."""
    config = failing.hardware_table("s1")
    failed = 0
    with Owner(failing) as owner, vfio(failing, owner, "edu1") as device:
        owner.tell("ioas a", f"device d {node(failing, device)}", "hwpt one d a", "hwpt two d a", "attach d one")
        memory, space = buffer(failing, owner), Space(owner, "a")
        models = {name: space.table(name, config) for name in ("one", "two")}
        space.map(LOW, memory)
        allocations = Allocations()
        for at, nth in enumerate(allocations):
            iova = (1 + at % 200) * (1 << 39) - memory.size // 2 + (at // 200) * 2 * memory.size
            owner.tell(f"fail {nth}")
            try:
                space.map(iova, memory)
            except OwnerError as error:
                if error.errno != "ENOMEM":
                    raise
                failed += 1
                allocations.mattered()
                for name in models:
                    owner.tell(f"attach d {name}")
                    hold_leaves(failing, name, models[name], "edu1", "TAB-5")
                space.map(iova, memory)
            for name in models:
                owner.tell(f"attach d {name}")
                hold_leaves(failing, name, models[name], "edu1")
            space.unmap(iova)
    assert failed >= 2 * len(models), f"only {failed} maps failed: each of the tables has several levels below its top"


@pytest.mark.iommu_rules("FLT-1", "TAB-6")
@pytest.mark.iommu_needs(devices=("edu0",), config=("DEBUG_KMEMLEAK",))
def test_nothing_is_lost(failing: GuestHandle, iommu: Iommu) -> None:
    """Everything once more, each time another allocation fails: what was begun then, somebody must have freed.

    kmemleak is asked once for all of it: it looks through the whole memory. Reads are among it where there is a dump.
    """
    dumped = failing.dialect_or_none is IO_PTDUMP
    failing.write(KMEMLEAK, "clear")
    iommu.command("domain other dev=edu0")
    iommu.command(f"map other 0x31230000 {OA:#x} {SIZE:#x} rw")
    number = parse_domains(failing.read(f"{MODULE}/domains").decode())["other"].id
    reads = [ops.read_file(f"{DOMAINS}/{number}/{name}") for name in FILES if dumped]
    made = ("domain d dev=edu0", f"map d 0x31230000 {OA:#x} {SIZE:#x} rw", "attach d edu0", "replace other edu0")
    refused = [0] * len(made)
    unread = 0
    for nth in range(1, TRIED_OF_A_DOMAIN):
        for at, line in enumerate(made if nth < TRIED else made[:1]):
            if command(failing, nth, line) != "ok":
                refused[at] += 1
                iommu.command(line)
        if nth < TRIED:
            batch = [op for read in reads for op in (arm(nth), read)]
            unread += sum(not result.ok for result in failing.run([*batch, arm(0), arm(0)]).results[1:-2:2])
            iommu.command("detach edu0")
        iommu.command("destroy d")
    assert all(refused), f"something never failed: {dict(zip(made, refused, strict=True))}"
    assert unread >= len(reads), f"only {unread} reads failed"
    iommu.reset()
    assert not scan_twice(failing)
