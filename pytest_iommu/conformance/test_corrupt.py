# SPDX-License-Identifier: GPL-2.0-only
"""FLT-3: tables with corrupt items, planted by the test module. Each is shown as it is, what is sound stays readable.

What must be shown follows from the items of the sound table, the one that was overwritten and the format: all that a
walk bounded by levels can reach, each item decoded at the level it is met at. So a table that points to itself is read
once more for each level below, its items taken for those of that level.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from pytest_iommu import formats
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import CommandError, Domain, Iommu
from pytest_iommu.core.model import Dump, Entry, Kind, Prot
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.dialects.io_ptdump import render_entry
from pytest_iommu.formats.base import ITEM_BYTES
from pytest_iommu.guest import ops
from pytest_iommu.oracle import count, merge_entries

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_rules("FLT-3", "ENT-1", "ENT-2", "CON-7"),
]

MODULE = "/sys/kernel/debug/iommu_ptdump_test"
TABLES: dict[str, tuple[str, dict[str, int]]] = {
    "s1": ("s1", {}),
    "s2": ("s2", {}),
    "arm_64_lpae_s1-4k": ("arm_64_lpae_s1", {"granule": 4096}),
    "arm_64_lpae_s1-64k": ("arm_64_lpae_s1", {"granule": 65536}),
    "arm_64_lpae_s1-64k-52": ("arm_64_lpae_s1", {"granule": 65536, "ias": 52, "oas": 52}),
    "arm_64_lpae_s2-4k": ("arm_64_lpae_s2", {"granule": 4096}),
    "arm_64_lpae_s2-4k-40": ("arm_64_lpae_s2", {"granule": 4096, "ias": 40, "oas": 40}),
    "arm_64_lpae_s2-64k": ("arm_64_lpae_s2", {"granule": 65536}),
    "amdv1": ("amdv1", {}),
    "vtdss": ("vtdss", {}),
    "x86_64": ("x86_64", {}),
    "riscv_64": ("riscv_64", {}),
}
#: the first of several concatenated tops is not all there is
CONCATENATED = "arm_64_lpae_s2-4k-40"
OA = 0x1000000000
SLOT = 20
#: what the test module says of a driver's generic_pt, whose format it does not know, and of tables that must be flushed
NO_PLACE = re.compile("the items of .* are not known|does not see what the CPU writes")


def make(iommu: Iommu, table: str) -> Domain:
    """One of TABLES, nothing mapped."""
    kind, parameters = TABLES[table]
    domain = iommu.domain(stage=kind) if kind in ("s1", "s2") else iommu.table(kind, **parameters)
    geometry = formats.get(domain.config.format).geometry(domain.config)
    if geometry.items(geometry.top, geometry.top) < 4:
        pytest.skip("needs a top with items on both sides of the third; this one has fewer than four")
    return domain


def target(domain: Domain) -> int:
    """The IOVA below which items are corrupted: the third item of every table on the way, the 17th of the last."""
    geometry = formats.get(domain.config.format).geometry(domain.config)
    return sum((2 if level else 16) << geometry.item_lg2(level) for level in range(domain.config.levels))


def fill(domain: Domain) -> None:
    """Map a page at the target, and beside every item on the way to it: a page, and a block or group where possible."""
    config, iova = domain.config, target(domain)
    geometry = formats.get(config.format).geometry(config)
    page = min(config.page_sizes)
    domain.map(iova, OA, page)
    for level in range(config.levels):
        size = 1 << geometry.item_lg2(level)
        domain.map(iova + size, OA + size, page, "r")
        if level and size in config.page_sizes:
            domain.map((iova & -size) + 2 * size, max(OA << 3, size), size, "rw")
    group = 16 * page
    if group in config.page_sizes:
        domain.map((iova & -group) + group, OA, group, "rw", leaf=group)


class Image:
    """The items of a page table by their physical address: ``items``; ``tables`` are the addresses of its tables."""

    def __init__(self, domain: Domain, top: int, entries: tuple[Entry, ...]) -> None:
        self.config = domain.config
        self.format = formats.get(self.config.format)
        self.geometry = self.format.geometry(self.config)
        self.top = top
        self.tables = {top}
        self.items: dict[int, int] = {}
        place = {self.config.levels - 1: top}
        for entry in entries:
            step = self.geometry.item_lg2(entry.level)
            for number in range((entry.size or 1) >> step or 1):
                index = self.position(entry.iova) % (1 << self.covers(entry.level)) >> step
                self.items[place[entry.level] + (index + number) * ITEM_BYTES] = entry.raw
            if entry.kind is Kind.TABLE:
                place[entry.level - 1] = entry.oa
                self.tables.add(entry.oa)

    def position(self, iova: int) -> int:
        """An IOVA as the table looks it up: without what is extended above it."""
        return iova % (1 << self.config.ias)

    def covers(self, level: int) -> int:
        """Bits of address that a table of this level covers."""
        return self.geometry.covers_lg2(level, self.config.levels - 1)

    def walk(self, table: int | None = None, level: int | None = None, base: int = 0) -> Iterator[Entry]:
        """What entries must show: depth first, a table before what it holds."""
        level = self.config.levels - 1 if level is None else level
        table = self.top if table is None else table
        step = self.geometry.item_lg2(level)
        end = table + (1 << self.covers(level) - step) * ITEM_BYTES
        group_ends = table
        for address in sorted(at for at in self.items if table <= at < end):
            raw = self.items[address]
            iova = base + ((address - table) // ITEM_BYTES << step)
            if not raw or address < group_ends:
                continue
            entry = self.entry(level, iova, raw)
            if entry.size and (address - table) // ITEM_BYTES % (entry.size >> step):
                # its first item is not there, or it would have been met before this one
                entry = Entry(level, iova, Kind.PART, None, self.format.unpack(self.config, raw), raw)
            yield entry
            if entry.kind is Kind.TABLE:
                yield from self.walk(entry.oa, level - 1, iova)
            elif entry.size:
                group_ends = address + (entry.size >> step) * ITEM_BYTES

    def entry(self, level: int, iova: int, raw: int) -> Entry:
        """One item, decoded at the level it is met at."""
        found = self.format.decode(self.config, level, raw)
        assert found is not None
        if found.kind is Kind.TABLE and found.oa in self.tables:
            return Entry(level, iova, Kind.TABLE, None, found.oa, raw)
        if found.kind is Kind.LEAF and found.size in self.config.page_sizes:
            words = found.flags + found.volatile
            return Entry(level, iova, Kind.LEAF, found.size, found.oa, raw, found.prot, words)
        return Entry(level, iova, Kind.BAD, None, self.format.unpack(self.config, raw), raw)


def sound(iommu: Iommu, guest: GuestHandle, domain: Domain) -> tuple[Image, dict[str, str], Dump]:
    """The table before it is corrupted: its items, and what every file says."""
    rows = guest.read(f"{MODULE}/domains").decode()
    row = re.search(rf"^{domain.name} .*top=(0x[0-9a-f]+) levels=(\d+)$", rows, re.MULTILINE)
    assert row is not None
    assert int(row[2]) == domain.config.levels
    texts = iommu.texts(domain)
    dump = IO_PTDUMP.parse(texts)
    assert dump.entries
    return Image(domain, int(row[1], 16), dump.entries), texts, dump


def plant(iommu: Iommu, domain: Domain, image: Image, level: int, how: str, iova: int | None = None) -> int | None:
    """Corrupt an item, in the guest and in ``image``; what it is now, None where the level has none such."""
    where = target(domain) if iova is None else iova
    try:
        done = iommu.command(f"plant {domain.name} {where:#x} {level} {how}")
    except CommandError as error:
        if error.errno != "EOPNOTSUPP":
            raise
        if NO_PLACE.search(str(error)):
            pytest.skip(f"nothing is planted in this driver's table: {error}")
        return None
    address, was, now = (int(done[key], 16) for key in ("pa", "was", "now"))
    assert image.items.get(address, 0) == was, f"entries did not show 0x{was:016x}, which was at 0x{address:x}"
    assert was != now
    image.items[address] = now
    return now


def check(iommu: Iommu, domain: Domain, image: Image) -> Dump:
    """Everything the domain's files say of the corrupt table is so, and they agree."""
    config, top = domain.config, domain.config.levels - 1
    dump = iommu.dump(domain)
    assert dump.entries is not None
    wanted = list(image.walk())
    assert [render_entry(entry) for entry in dump.entries] == [render_entry(entry) for entry in wanted]

    assert dump.ranges == merge_entries(wanted, image.format)
    tables = Counter(entry.level - 1 for entry in wanted if entry.kind is Kind.TABLE)
    leaves = Counter(entry.level for entry in wanted if entry.kind is Kind.LEAF)
    assert dump.stats == count(config, top, tables | Counter({top: 1}), leaves)
    return dump


def beside(dump: Dump, domain: Domain, level: int) -> list[Entry]:
    """The entries that are neither the corrupted item nor below it."""
    shift = formats.get(domain.config.format).geometry(domain.config).item_lg2(level)
    below = target(domain) >> shift
    return [entry for entry in dump.entries or () if entry.iova >> shift != below or entry.level > level]


def bad(dump: Dump) -> list[tuple[int, int]]:
    """Level and raw of each bad item."""
    return [(entry.level, entry.raw) for entry in dump.entries or () if entry.kind is Kind.BAD]


def restore(iommu: Iommu, domain: Domain, texts: Mapping[str, str]) -> None:
    """Undo all that was planted: the dump is what it was."""
    iommu.command(f"restore {domain.name}")
    assert iommu.texts(domain) == texts


def bad_at_every_level(how: str, domain: Domain, iommu: Iommu, guest: GuestHandle) -> int:
    """At every level where there can be one: the item is bad, what it led to is gone, all else as before; how many."""
    fill(domain)
    planted = 0
    for level in range(how != "size", domain.config.levels):
        image, texts, before = sound(iommu, guest, domain)
        now = plant(iommu, domain, image, level, how)
        if now is None:
            continue
        planted += 1
        dump = check(iommu, domain, image)
        assert bad(dump) == [(level, now)]
        assert beside(dump, domain, level) == beside(before, domain, level)
        restore(iommu, domain, texts)
    return planted


@pytest.mark.parametrize("table", TABLES)
def test_an_item_that_points_outside_memory(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """To the first address after all memory, which is in no section."""
    domain = make(iommu, table)
    assert bad_at_every_level("outside", domain, iommu, iommu_guest) == domain.config.levels - 1


@pytest.mark.parametrize("table", TABLES)
def test_a_size_that_does_not_exist(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Whatever the format calls a size: one that would send a walk anywhere, or make a table of a leaf."""
    assert bad_at_every_level("size", make(iommu, table), iommu, iommu_guest)


def test_an_item_that_points_into_a_hole(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """To an address that has a struct page and no memory."""
    for table in TABLES:
        domain = make(iommu, table)
        planted = bad_at_every_level("hole", domain, iommu, iommu_guest)
        if not planted:
            pytest.skip("this guest's memory has no hole: --iommu-append=mem=480M makes one")
        assert planted == domain.config.levels - 1


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_points_to_itself(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Read again for every level below, and no more: the walk ends at level 0, whose items are no tables."""
    domain = make(iommu, table)
    fill(domain)
    for level in range(1, domain.config.levels):
        image, texts, before = sound(iommu, iommu_guest, domain)
        now = plant(iommu, domain, image, level, "self")
        if now is None:
            # a top of the 64K granule is smaller than the table it would be taken for
            assert level == domain.config.levels - 1
            continue
        dump = check(iommu, domain, image)
        again = [entry for entry in dump.entries or () if entry.raw == now and entry.level <= level]
        assert [entry.level for entry in again[:2]] == [level, level - 1]
        assert beside(dump, domain, level) == beside(before, domain, level)
        restore(iommu, domain, texts)


@pytest.mark.parametrize("table", TABLES)
def test_all_levels_at_once(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """A bad item at every level, each beside the way to the next; written twice, the oldest value comes back."""
    domain = make(iommu, table)
    fill(domain)
    geometry = formats.get(domain.config.format).geometry(domain.config)
    image, texts, _ = sound(iommu, iommu_guest, domain)
    for level in range(1, domain.config.levels):
        iova = target(domain) + (1 << geometry.item_lg2(level))
        for how in ("raw=0", "outside"):
            plant(iommu, domain, image, level, how, iova)
    dump = check(iommu, domain, image)
    assert len(bad(dump)) == domain.config.levels - 1
    restore(iommu, domain, texts)


@pytest.mark.parametrize("table", TABLES)
def test_an_item_that_is_not_valid_but_not_zero(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """What stays when the valid bit goes is still shown."""
    domain = make(iommu, table)
    fill(domain)
    valid = 3 if domain.config.format in ("vtdss",) else 1
    for level in range(domain.config.levels):
        image, texts, before = sound(iommu, iommu_guest, domain)
        was = next(entry.raw for entry in image.walk() if (entry.level, entry.iova) == place(domain, level))
        now = plant(iommu, domain, image, level, f"raw={was & ~valid:#x}")
        dump = check(iommu, domain, image)
        assert [raw for _, raw in bad(dump)] == [now]
        assert beside(dump, domain, level) == beside(before, domain, level)
        restore(iommu, domain, texts)


@pytest.mark.parametrize("table", TABLES)
def test_an_item_that_points_to_other_memory(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Memory like any other, but no page of a page table: it is not followed."""
    domain = make(iommu, table)
    fill(domain)
    pa = int(iommu.command("buffer other 64K")["pa"], 16)
    for level in range(1, domain.config.levels):
        image, texts, before = sound(iommu, iommu_guest, domain)
        item = formats.get(domain.config.format).encode_table(domain.config, level, pa)
        now = plant(iommu, domain, image, level, f"raw={item:#x}")
        dump = check(iommu, domain, image)
        assert bad(dump) == [(level, now)]
        assert beside(dump, domain, level) == beside(before, domain, level)
        restore(iommu, domain, texts)


@pytest.mark.parametrize("table", TABLES)
def test_a_leaf_that_is_not_aligned(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """An address within the block that the item maps is one that no hardware would use."""
    domain = make(iommu, table)
    fill(domain)
    config, fmt = domain.config, formats.get(domain.config.format)
    leaves = [
        level for level in range(1, config.levels) if 1 << fmt.geometry(config).item_lg2(level) in config.page_sizes
    ]
    assert leaves
    for level in leaves:
        image, texts, _ = sound(iommu, iommu_guest, domain)
        size = 1 << fmt.geometry(config).item_lg2(level)
        item = fmt.encode(config, level, size, size + min(config.page_sizes), Prot.from_letters("rw"))
        now = plant(iommu, domain, image, level, f"raw={item:#x}")
        dump = check(iommu, domain, image)
        assert bad(dump) == [(level, now)]
        restore(iommu, domain, texts)


@pytest.mark.parametrize(
    ("table", "level", "item"),
    [
        # 64K at a level whose items map 2M each
        pytest.param("amdv1", 1, 0x6000000040007E01, id="amdv1-size-of-another-level"),
        # W without R is reserved
        pytest.param("riscv_64", 0, OA >> 2 | 0xD5, id="riscv_64-write-without-read"),
        pytest.param("riscv_64", 1, OA >> 2 | 0xD5, id="riscv_64-write-without-read-2m"),
    ],
)
def test_fields_that_do_not_go_together(
    table: str, level: int, item: int, iommu: Iommu, iommu_guest: GuestHandle
) -> None:
    """Each field of the item has a value that is valid elsewhere; the item is bad all the same."""
    domain = make(iommu, table)
    fill(domain)
    image, texts, before = sound(iommu, iommu_guest, domain)
    plant(iommu, domain, image, level, f"raw={item:#x}")
    dump = check(iommu, domain, image)
    assert bad(dump) == [(level, item)]
    assert beside(dump, domain, level) == beside(before, domain, level)
    restore(iommu, domain, texts)


@pytest.mark.parametrize("table", ["amdv1", "riscv_64"])
def test_a_group_without_its_first_item(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """As an unmap leaves it for a moment: its other items are parts, which is no corruption, and nothing is mapped."""
    domain = make(iommu, table)
    group = 64 << 10
    iova = 0x40000000
    domain.map(iova, OA, group, leaf=group)
    domain.map(iova + 2 * group, OA, 4096)
    image, texts, _ = sound(iommu, iommu_guest, domain)
    plant(iommu, domain, image, 0, "raw=0", iova)
    dump = check(iommu, domain, image)
    parts = [entry.iova for entry in dump.entries or () if entry.kind is Kind.PART]
    assert parts == [iova + at for at in range(4096, group, 4096)]
    assert [row.first for row in dump.ranges or ()] == [iova + 2 * group]
    restore(iommu, domain, texts)


def place(domain: Domain, level: int) -> tuple[int, int]:
    """Level and IOVA of the item on the way to the target."""
    shift = formats.get(domain.config.format).geometry(domain.config).item_lg2(level)
    return level, target(domain) >> shift << shift


@pytest.mark.parametrize("step", [-1, 1, 3])
def test_amdv1_tables_of_another_level(step: int, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Next level is a size field, too: one that is not the level below sends the walk to a table of another size."""
    domain = iommu.table("amdv1", levels=4)
    fill(domain)
    for level in range(1, 4):
        image, _, _ = sound(iommu, iommu_guest, domain)
        was = next(entry.raw for entry in image.walk() if (entry.level, entry.iova) == place(domain, level))
        if not 0 < level + step < 7:
            continue
        now = plant(iommu, domain, image, level, f"raw={was & ~(7 << 9) | level + step << 9:#x}")
        dump = check(iommu, domain, image)
        assert [raw for _, raw in bad(dump)] == [now]
        iommu.command(f"restore {domain.name}")


@pytest.mark.parametrize("table", ["arm_64_lpae_s1-64k", "arm_64_lpae_s2-64k", "arm_64_lpae_s1-64k-52"])
def test_high_address_bits_of_a_64k_table_item(table: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Bits 15:12 are OA[51:48]: with one of them set the item points outside memory, not to the table below 2^48."""
    domain = make(iommu, table)
    fill(domain)
    for level in (1, 2):
        image, _, _ = sound(iommu, iommu_guest, domain)
        was = next(entry.raw for entry in image.walk() if (entry.level, entry.iova) == place(domain, level))
        now = plant(iommu, domain, image, level, f"raw={was | 0x8000:#x}")
        dump = check(iommu, domain, image)
        assert [raw for _, raw in bad(dump)] == [now]
        iommu.command(f"restore {domain.name}")


@pytest.mark.parametrize("how", ["outside", "self"])
@pytest.mark.parametrize("table", ["arm_64_lpae_s1-4k", "amdv1", "riscv_64"])
@pytest.mark.parametrize("file", ["page_table", "entries"])
def test_a_table_is_corrupted_under_a_reader(
    file: str, table: str, how: str, iommu: Iommu, iommu_guest: GuestHandle
) -> None:
    """The reader stands in a table that is not to be reached any more: it goes on behind it, and ends."""
    domain = make(iommu, table)
    iova = target(domain)
    domain.map(iova, OA, "4K")
    iommu.command(f"map {domain.name} {iova + 0x1000:#x} {OA:#x} 4K rw count=400 pstep=12K")
    domain.map(iova + 0x200000, OA, "4K")
    path = domain.path(file)
    opened, first = iommu_guest.run([ops.open_file(SLOT, path), ops.read(SLOT, 4096)]).results
    assert opened.ok
    iommu.command(f"plant {domain.name} {iova:#x} 1 {how}")
    rest = iommu_guest.run([*[ops.read(SLOT, 65536)] * 40, ops.close(SLOT)]).results
    assert all(result.ok for result in rest)
    assert not rest[-2].data, "the read does not end"
    parsed = IO_PTDUMP.parse({file: (first.data + b"".join(result.data for result in rest[:-1])).decode()})
    order = [row.first for row in parsed.ranges or ()] or [entry.iova for entry in parsed.entries or ()]
    assert order == sorted(order)
    assert order[-1] == iova + 0x200000, "what follows the corrupt table is not shown"
    iommu.command(f"restore {domain.name}")
