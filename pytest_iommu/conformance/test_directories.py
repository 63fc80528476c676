# SPDX-License-Identifier: GPL-2.0-only
"""domains/ as a whole: which directories there are, what they are named, and that reading them is silent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.conformance.helpers import FILES, KINDS, make
from pytest_iommu.core.model import Dump, Kind
from pytest_iommu.guest import ops

pytestmark = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

PAGE = 4096
SLOT = 9


@pytest.mark.iommu_rules("LAY-2", "LAY-3", "LAY-4")
def test_exactly_one_directory_for_each_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    before = directories(iommu_guest)
    domains = [make(iommu, kind) for kind in (*KINDS, *KINDS)]
    assert directories(iommu_guest) - before == {domain.id for domain in domains}
    assert len({domain.id for domain in domains}) == len(domains)
    for domain in domains[::2]:
        iommu.command(f"destroy {domain.name}")
    assert directories(iommu_guest) - before == {domain.id for domain in domains[1::2]}
    iommu.reset()
    assert directories(iommu_guest) == before


@pytest.mark.iommu_rules("LAY-3")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_ids_are_handed_out_cyclically(iommu: Iommu, iommu_guest: GuestHandle, kind: str) -> None:
    ids = []
    for _ in range(6):
        domain = make(iommu, kind)
        ids.append(domain.id)
        iommu.command(f"destroy {domain.name}")
    assert all(re.fullmatch(r"[1-9][0-9]*", name) for name in ids), ids
    # a wrap after 2^31 domains is out of reach here
    assert [int(name) for name in ids] == sorted({int(name) for name in ids}), f"an id came back at once: {ids}"
    assert all(re.fullmatch(r"[1-9][0-9]*", name) for name in directories(iommu_guest))


@pytest.mark.iommu_rules("LAY-2", "INF-1")
def test_a_directory_holds_its_four_files(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    for kind in KINDS:
        (result,) = iommu_guest.run([ops.list_directory(make(iommu, kind).path())]).results
        assert set(FILES) <= set(result.data.decode().splitlines()), kind


@pytest.mark.iommu_rules("LAY-5")
@pytest.mark.parametrize("kind", ["s1", "s2", "amdv1"])
def test_files_are_owned_by_root(iommu: Iommu, iommu_guest: GuestHandle, kind: str) -> None:
    domain = make(iommu, kind)
    for result in iommu_guest.run([ops.stat(domain.path(file)) for file in FILES]).results:
        assert (oct(result.value), result.data.split()[:2]) == ("0o100400", [b"0", b"0"])


@pytest.mark.iommu_rules("LAY-5")
def test_root_can_open_for_writing_but_not_write(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    domain = make(iommu, "s1")
    for file in FILES:
        opened, written, closed = iommu_guest.run(
            [ops.open_file(SLOT, domain.path(file), os.O_RDWR), ops.write(SLOT, b"0\n"), ops.close(SLOT)]
        ).results
        assert (opened.value, ops.errno_name(written.value), closed.value) == (0, "EINVAL", 0), file


@pytest.mark.iommu_rules("LAY-6")
def test_no_kernel_address_is_shown(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """The IOVA columns are exempt; %p would print 16 digits without 0x, or a word, where nothing such belongs."""
    for kind in KINDS:
        domain = make(iommu, kind)
        domain.map(0x31230000, 0x912340000, "2M", "rwc", leaf=domain.page)
        domain.map(0x80000000, 0x940000000, "2M", "rx")
    domain = make(iommu, "x86_64")
    domain.map(0xFFFFFFFFFFE00000, 0x912340000, "4K")
    exempt = re.compile(r"^0x\w+-0x\w+|^\d 0x\w+|^aperture: .*", re.MULTILINE)
    for name in directories(iommu_guest):
        for file in FILES:
            text = exempt.sub("", iommu_guest.read(f"{DOMAINS}/{name}/{file}").decode())
            found = re.search(r"0xffff[0-9a-f]{12}|(?<!0x)\b[0-9a-f]{16}\b|ptrval|\(null\)", text)
            assert found is None, f"{name}/{file} shows {found[0] if found else ''}"


@pytest.mark.iommu_rules("LAY-7")
def test_reading_prints_nothing(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    for kind in KINDS:
        domain = make(iommu, kind)
        domain.map(0x31230000, 0x912340000, "64K", "rw")
        domain.map(0x80000000, 0x940000000, "2M", "rx")
        domain.unmap(0x31230000, "64K")
    names = sorted(directories(iommu_guest))
    reads = [ops.read_file(f"{DOMAINS}/{name}/{file}") for name in names for file in FILES]
    reads += [ops.read_file(f"{DOMAINS}/{name}/{file}", chunk=50) for name in names for file in FILES]
    log = [ops.open_file(SLOT, "/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK), ops.lseek(SLOT, 0, os.SEEK_END)]
    reply = iommu_guest.run([*log, *reads, ops.read(SLOT, 8192), ops.close(SLOT)])
    opened, sought, *_, said, _ = reply.results
    assert opened.ok
    assert sought.ok
    assert ops.errno_name(said.value) == "EAGAIN", f"reading printed: {said.data.decode(errors='replace')}"
    assert not reply.kmsg


def system_ram(guest: GuestHandle) -> list[range]:
    """What /proc/iomem calls System RAM."""
    text = guest.read("/proc/iomem").decode()
    pairs = re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : System RAM", text, re.MULTILINE)
    return [range(int(first, 16), int(last, 16) + 1) for first, last in pairs]


@pytest.mark.iommu_rules("INF-3", "ENT-1")
def test_tables_are_different_pages_of_memory(
    iommu: Iommu, iommu_guest: GuestHandle, iommu_dump: Callable[[Domain], Dump]
) -> None:
    """A top or a table that is not memory, or that two entries claim, is not where the hardware looks."""
    ram = system_ram(iommu_guest)
    owner: dict[int, str] = {}
    for kind in KINDS:
        domain = make(iommu, kind)
        domain.map(0x31230000, 0x912340000, domain.page)
        domain.map(0x180000000, 0x912360000, domain.page)
        dump = iommu_dump(domain)
        assert dump.info is not None
        assert dump.entries is not None
        tables = [entry.oa for entry in dump.entries if entry.kind is Kind.TABLE]
        assert len(tables) >= 3
        for address in (dump.info.top, *tables):
            assert address % PAGE == 0, f"{kind}: a table at 0x{address:x}"
            assert any(address in memory for memory in ram), f"{kind}: the table at 0x{address:x} is outside RAM"
            assert address not in owner, f"0x{address:x} is a table of {kind} and of {owner[address]}"
            owner[address] = kind


@pytest.mark.iommu_rules("INF-3")
def test_top_is_the_table_that_the_next_top_points_to(iommu: Iommu, iommu_dump: Callable[[Domain], Dump]) -> None:
    """amdv1's top grows: the old one becomes the first table of the new one, which says where it was."""
    domain = iommu.table("amdv1", levels=3)
    domain.map(0x1000, 0x912345000, "4K")
    for levels, iova in ((4, 0x8000000000), (5, 0x1000000000000), (6, 0x200000000000000)):
        before = iommu_dump(domain).info
        domain.map(iova, 0x912347000 + levels * PAGE, "4K")
        dump = iommu_dump(domain)
        assert before is not None
        assert dump.info is not None
        assert dump.entries is not None
        first = dump.entries[0]
        assert (first.kind, first.level, first.iova) == (Kind.TABLE, levels - 1, 0)
        assert first.oa == before.top, f"the top was said to be at 0x{before.top:x}, and is at 0x{first.oa:x}"
        assert dump.info.levels == levels
        assert dump.info.top != before.top
