# SPDX-License-Identifier: GPL-2.0-only
"""Readers that are held: where items stand, which tables must keep what they hold, what a scenario says of it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from synthetic_memory import SyntheticMemory, write_table

from pytest_iommu.check.races.history import History, Interval
from pytest_iommu.check.races.lines import judge_text
from pytest_iommu.check.races.snapshots import Snapshot, TableUpdate
from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.core.outcomes import CheckFailed
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.formats import configure
from pytest_iommu.oracle import TableModel
from pytest_iommu.oracle.items import Root, Table, item_address
from pytest_iommu.scenario import ScenarioError, compile_plan, load
from pytest_iommu.scenario.race_words import Hold

PAGE, BLOCK = 4096, 2 << 20
BASE = 0x40000000
CONFIGS = {
    "s1": configure("arm_64_lpae_s1", ias=48, oas=44),
    "s1-ttbr1": configure("arm_64_lpae_s1", ias=39, oas=44, options=["ttbr1"]),
    "s2-concatenated": configure("arm_64_lpae_s2", ias=40, oas=40),
    "amdv1": configure("amdv1"),
    "x86_64": configure("x86_64"),
}


def table(config: TableConfig, first: int = BASE) -> tuple[SyntheticMemory, Root]:
    """A table of pages and a block behind it."""
    model = TableModel(config)
    model.map(first, 0x912400000, BLOCK, Prot(True, True), PAGE)
    model.map(first + BLOCK, 0x912400000, BLOCK, Prot(True, True), BLOCK)
    memory = SyntheticMemory()
    expected = model.snapshot()
    return memory, Root(config, write_table(memory, expected).top, expected.top + 1)


@pytest.mark.parametrize("kind", CONFIGS)
def test_items_are_where_the_walk_goes(kind: str) -> None:
    first = {"s1-ttbr1": (1 << 64) - (1 << 39) + BASE, "x86_64": (1 << 64) - (4 << 20)}.get(kind, BASE)
    memory, root = table(CONFIGS[kind], first)
    path = root.path(memory, first + 5 * PAGE)
    assert [item.table.level for item in path] == list(range(root.levels - 1, -1, -1))
    assert [item.kind for item in path] == [Kind.TABLE] * (root.levels - 1) + [Kind.LEAF]
    assert (path[0].table.address, path[-1].iova) == (root.top, first + 5 * PAGE)
    assert path[-1].address == path[-1].table.address + 5 * 8
    assert memory.word(path[-1].address) == path[-1].raw
    assert path[-1].table.iova == first
    block = root.path(memory, first + BLOCK + PAGE)[-1]
    assert (block.table.level, block.kind, block.iova) == (1, Kind.LEAF, first + BLOCK)
    assert item_address(memory, root, first, 1) == path[-2]
    with pytest.raises(LookupError, match="ends at level 1"):
        item_address(memory, root, first + BLOCK, 0)
    below = list(root.below(memory, path[-2]))
    assert [(one.address, one.level, one.iova) for one in below] == [(path[-1].table.address, 0, first)]
    assert [one.address for one in root.tables(memory)] == [item.table.address for item in path]


def kept(kind: str, level: int = 1) -> tuple[SyntheticMemory, Snapshot, Table, set[int]]:
    memory, root = table(CONFIGS[kind])
    item = item_address(memory, root, BASE, level)
    found = Snapshot.of(memory, root, root.path(memory, BASE), item)
    return memory, found, next(iter(root.below(memory, item))), {one.address for one in root.tables(memory)}


UNMAP = TableUpdate.of(f"unmap d {BASE:#x} 2M", "d")
ONE_PAGE = TableUpdate.of(f"unmap d {BASE:#x} 4K", "d")
PAGES = TableUpdate.of(f"unmap d {BASE:#x} 0x200000 leaf=4K", "d")


def test_commands_say_what_they_touch() -> None:
    assert TableUpdate(BASE, BASE + BLOCK - 1, None, f"unmap d {BASE:#x} 2M") == UNMAP
    many = TableUpdate.of("map d 0x1000 0x41000000 4K rw count=3 istep=1M leaf=4K", "d")
    assert many is not None
    assert (many.first, many.last, many.leaf) == (0x1000, 0x1000 + (2 << 20) + PAGE - 1, PAGE)
    assert TableUpdate.of("map e 0 0 4K rw", "d") is None
    assert TableUpdate.of("attach d edu0", "d") is None


@pytest.mark.parametrize("kind", ["s1", "amdv1"])
def test_tables_that_are_as_they_were_are_kept(kind: str) -> None:
    memory, found, freed, linked = kept(kind)
    assert freed.address in found.addresses
    assert found.addresses == linked
    found.check([], linked, "a reader")
    assert UNMAP is not None
    found.check([UNMAP], linked - {freed.address}, "a reader")
    memory.words(freed.address, [0])
    assert ONE_PAGE is not None
    found.check([ONE_PAGE], linked, "a reader")
    with pytest.raises(CheckFailed, match="has changed"):
        found.check([], linked, "a reader")


def test_a_page_of_zeros_was_freed() -> None:
    """io-pgtable frees a table as it is: one that is overwritten has been given back."""
    memory, found, freed, linked = kept("s1")
    assert UNMAP is not None
    memory.write(freed.address, bytes(PAGE))
    with pytest.raises(CheckFailed) as failed:
        found.check([UNMAP], linked - {freed.address}, "a reader that has loaded something")
    assert failed.value.rules == ("CON-1",)
    text = failed.value.message
    assert "the whole table is zeros" in text
    assert "a reader that has loaded something may still read it" in text
    assert f"the level 0 table for 0x{BASE:x} at 0x{freed.address:x}, no longer in use" in text
    assert "and 508 more" in text


def test_items_that_were_cleared_one_by_one_are_zeros_rightly() -> None:
    memory, found, freed, linked = kept("s1")
    assert PAGES is not None
    memory.write(freed.address, bytes(PAGE))
    found.check([PAGES], linked - {freed.address}, "a reader")
    memory.words(freed.address, [0x1234567])
    with pytest.raises(CheckFailed, match="item 0: was 0x[0-9a-f]{16}, is 0x0000000001234567"):
        found.check([PAGES], linked - {freed.address}, "a reader")


def test_tables_of_generic_pt_are_cleared_and_must_not_be_given_out() -> None:
    memory, found, freed, linked = kept("amdv1")
    assert UNMAP is not None
    memory.write(freed.address, bytes(PAGE))
    found.check([UNMAP], linked - {freed.address}, "a reader")
    found.check_not_given_out([Table(0x1000, PAGE, 0, 0)], "a reader")
    with pytest.raises(CheckFailed, match="is now a table of another domain") as failed:
        found.check_not_given_out([Table(freed.address, PAGE, 0, 0)], "a reader")
    assert failed.value.rules == ("CON-1",)


def test_every_line_of_entries_is_one_load() -> None:
    config = CONFIGS["s1"]
    model = TableModel(config)
    model.map(BASE, 0x912400000, PAGE, Prot(True, True))
    text = render(model.snapshot().dump())["entries"]
    history = History(config, model.snapshot().ranges)
    span = Interval(0, 9)
    assert judge_text("entries", text, IO_PTDUMP, history, lambda row: span, span) == []
    torn = text.replace("rw-", "r--", 1)
    (failed,) = judge_text("entries", torn, IO_PTDUMP, history, lambda row: span, span)
    assert failed.rules == ("CON-4",)
    assert "does not match its raw item" in failed.message
    turned = "".join(reversed(text.splitlines(keepends=True)))
    (failed,) = judge_text("entries", turned, IO_PTDUMP, history, lambda row: span, span)
    assert failed.rules == ("CON-5",)


def test_holds_say_what_they_are() -> None:
    assert str(Hold("table-loaded", 0x1000)) == (
        "a reader that has loaded the table item of level 1 of 0x1000 (preempted)"
    )
    assert [Hold(at).inside for at in ("table-loaded", "leaf-loaded", "between-batches", "copying")] == [
        *(True, True, False, False)
    ]


RACE = """
- name: a
  rules: [CON-1]
  formats: [amdv1]
  domains: {d: {}, e: {}}
  do:
    - map: {domain: d, iova: 0x40000000, pa: 0x41000000, size: 2M, prot: rw, leaf: 4K}
    - map: {domain: d, iova: 0x80000000, pa: 0x41000000, size: 4K, prot: rw}
  race:
    domain: d
    reader: {file: entries, size: 100, cpu: 1}
    hold: {at: table-loaded, level: 1, iova: 0x40000000, timeout: 2s}
    meanwhile:
      - remap: {domain: d, iova: 0x40001000, pa: 0x42000000, size: 4K, prot: r}
      - check: {domain: e}
      - {wait: grace-period, blocked: true}
      - destroy: {domain: e, blocked: true}
  stays: [{iova: 0x80000000, size: 4K}]
  never: [{iova: 0x90000000, size: 2M}]
"""


def compiled(folder: Path, text: str) -> None:
    path = folder / "x.iommu.yaml"
    path.write_text(f"suite: races\ncases:\n{textwrap.indent(text, '  ')}")
    for instance in load(path).instances:
        compile_plan(instance)


def test_a_race_becomes_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "x.iommu.yaml"
    path.write_text(f"suite: races\ncases:\n{textwrap.indent(RACE, '  ')}")
    (instance,) = load(path).instances
    plan = compile_plan(instance)
    assert instance.boot_mode == "held"
    assert plan.race is not None
    assert (plan.race.domain, plan.race.file, plan.race.chunk) == ("d", "entries", 100)
    assert plan.race.hold == Hold("table-loaded", 0x40000000, 1, "preempted", 2.0)
    unmap, mapping, check, wait, destroy = plan.race.steps
    assert [phase.script for phase in (*unmap.phases, *mapping.phases, *destroy.phases)] == [
        "unmap d 0x40001000 0x1000\n",
        "map d 0x40001000 0x42000000 0x1000 r\n",
        "destroy e\n",
    ]
    assert unmap.after is not None
    assert len(unmap.after) == len(plan.race.start) + 1
    assert (check.after, check.phases[0].script, len(check.phases[0].checks)) == (None, "", 1)
    assert (wait.wait, wait.blocked, wait.phases) == (True, True, ())
    assert (destroy.blocked, destroy.ends) == (True, False)
    assert [check.domain for phase in plan.after for check in phase.checks] == ["d"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at: table-loaded", "at: nowhere", "unknown point 'nowhere'"),
        ("level: 1, ", "level: 1, how: asleep, ", "unknown way to hold"),
        ("at: table-loaded, level: 1", "at: leaf-loaded, level: 1", "only table-loaded takes a level"),
        ("level: 1, iova: 0x40000000, ", "", "needs `iova`"),
        ("cpu: 1", "cpu: 0", "a reader is held on processor 1"),
        ("file: entries", "file: info", "unknown file that is a walk"),
        ("wait: grace-period, blocked: true", "wait: grace-period", "only a reader inside the walk blocks"),
        ("check: {domain: e}", "check: {domain: e, blocked: true}", "only a command can be blocked"),
        ("size: 4K, prot: r}", "size: 4K, prot: r, blocked: true}", "only one can be blocked"),
        ("stays: [{iova: 0x80000000", "stays: [{iova: 0x40001000", "is not mapped, or changes"),
        ("never: [{iova: 0x90000000", "never: [{iova: 0x40000000", "is mapped at some time"),
        ("- destroy: {domain: e, blocked: true}", "- reset: {}", "cannot be refused, and cannot be reset"),
        ("- check: {domain: e}", "- destroy: {domain: e, blocked: true}\n      - check: {}", "no step can follow"),
    ],
)
def test_mistakes_about_races(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RACE
    with pytest.raises(ScenarioError, match=message):
        compiled(tmp_path, RACE.replace(old, new, 1))


def test_a_storm_becomes_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "x.iommu.yaml"
    readers = "[{file: stats, size: 60}]"
    storm = f"{{iova: 0x40000000, cell: page, cells: 8, gap: 2page, operations: 99, pause: 0.2ms, readers: {readers}}}"
    path.write_text(f"suite: s\ncases:\n  - {{name: a, rules: [CON-4], formats: [amdv1], storm: {storm}}}\n")
    (instance,) = load(path).instances
    plan = compile_plan(instance)
    assert plan.storm is not None
    assert (plan.storm.storm.gap, plan.storm.storm.operations) == (2 * PAGE, 99)
    assert plan.storm.storm.command("d").endswith(" threads=2 ops=99 more=100000 pause=200 seed=0")
    assert [(reader.file, reader.chunk) for reader in plan.storm.storm.readers] == [("stats", 60)]
    assert all(not phase.checks for phase in plan.after)


def test_stays_is_about_a_race(tmp_path: Path) -> None:
    text = "- {name: a, rules: [CON-4], formats: [amdv1], do: [check: {}], stays: [{iova: 0, size: 4K}]}"
    with pytest.raises(ScenarioError, match="requires a race"):
        compiled(tmp_path, text)
