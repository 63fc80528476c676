# SPDX-License-Identifier: GPL-2.0-only
"""Every fault must be named by the rule it breaks, not by what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import buggy_kernel as kernel
import pytest

from pytest_iommu.compare.comparison import compare, compare_reads
from pytest_iommu.core.model import Prot, format_size
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.formats import configure
from pytest_iommu.oracle import Expected, TableModel
from pytest_iommu.scenario import ReadHow

RWC, RW, RX, W = (Prot.from_letters(letters) for letters in ("rwc", "rw", "rx", "w"))


def stage1() -> Expected:
    """Pages that merge, a neighbour in other prot, one with exec, a block, a hole, a gap in OA, a write-only page."""
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x1000000, 0x41005000, 0x6000, RWC)
    model.map(0x1006000, 0x4100B000, 0x1000, RW)
    model.map(0x1007000, 0x4100C000, 0x2000, RX)
    model.map(0x1010000, 0x42000000, 0x3000, RWC)
    model.map(0x1013000, 0x43000000, 0x1000, RWC)
    model.map(0x1020000, 0x41000000, 0x1000, W)
    model.map(0x200000000, 0x80000000, 0x400000, RWC)
    model.map(0x240000000, 0xC0000000, 0x40000000, RWC)
    model.map(0xFFFFFFFFF000, 0x45000000, 0x1000, RWC)
    return model.snapshot()


def groups() -> Expected:
    """amdv1: contiguous groups of several sizes."""
    model = TableModel(configure("amdv1"))
    model.map(0x100000, 0x10100000, 0x10000, RW)
    model.map(0x110000, 0x10110000, 0x1000, RW)
    model.map(0x40000000, 0x80000000, 0x800000, RW)
    return model.snapshot()


def verdict(expected: Expected, texts: dict[str, str]) -> str:
    comparison = compare(expected, texts)
    assert comparison.text
    return comparison.primary


def test_a_sound_dump_is_accepted_by_text_and_by_parsing() -> None:
    for expected in (stage1(), groups()):
        texts = kernel.texts(expected)
        assert texts == render(expected.dump())
        assert compare(expected, texts).ok
        # page_table alone differs in nothing that matters, and is parsed
        assert compare(expected, texts | {"stats": texts["stats"].replace(" ", "  ")}).ok


def lost(word: str) -> Callable[[list[kernel.Item]], list[kernel.Item]]:
    return kernel.each(lambda item: kernel.with_flags(item, (w for w in item.flags if w != word)))


WALK_FAULTS: dict[str, tuple[str, Callable[[list[kernel.Item]], list[kernel.Item]]]] = {
    "level counted as Arm does": ("LVL-1", kernel.each(lambda i: replace(i, level=3 - i.level))),
    "level one too high": ("LVL-1", kernel.each(lambda i: replace(i, level=i.level + 1))),
    "level of blocks wrong": ("LVL-1", kernel.each(lambda i: replace(i, level=0))),
    "leaf size one level up": ("LVL-2", kernel.each(lambda i: replace(i, size=i.size << 9 * (i.level == 1)))),
    "flag lost": ("PRT-3", lost("nG")),
    "flag lost that parts two lines": ("PRT-3", lost("UXN")),
    "flag misspelt": ("PRT-3", kernel.each(lambda i: kernel.with_flags(i, (w.replace("nG", "NG") for w in i.flags)))),
    "flags out of order": ("PRT-3", kernel.each(lambda i: kernel.with_flags(i, sorted(i.flags, reverse=True)))),
    "SH_NS always shown": ("PRT-3", kernel.each(lambda i: kernel.with_flags(i, ("SH_NS", *i.flags)))),
    "accessed shown in page_table": ("PRT-3", kernel.each(lambda i: kernel.with_flags(i, (*i.flags, "AF")))),
    "volatile flag lost": ("PRT-3", kernel.each(lambda i: replace(i, volatile=()))),
    "w lost": ("PRT-1", kernel.each(lambda i: replace(i, prot=replace(i.prot, write=False)))),
    "r and w exchanged": (
        "PRT-1",
        kernel.each(lambda i: replace(i, prot=replace(i.prot, read=i.prot.write, write=i.prot.read))),
    ),
    "x the wrong way round": (
        "PRT-1",
        kernel.each(lambda i: replace(i, prot=replace(i.prot, execute=not i.prot.execute))),
    ),
    "p always": ("PRT-1", kernel.each(lambda i: replace(i, prot=replace(i.prot, privileged=True)))),
    "write-only shown as asked": (
        "PRT-2",
        kernel.each(lambda i: replace(i, prot=replace(i.prot, read=False)) if i.iova == 0x1020000 else i),
    ),
    "OA with the index in it": ("RNG-4", kernel.each(lambda i: replace(i, oa=i.oa | i.slot << 12))),
    "OA wrong but in the first": ("RNG-4", kernel.each(lambda i: replace(i, oa=i.oa + (0x1000 if i.slot else 0)))),
    "OA cut to 32 bits": ("RNG-4", kernel.each(lambda i: replace(i, oa=i.oa ^ 1 << 40))),
    "last entry skipped": ("RNG-1", lambda items: items[:-1]),
    "first entry skipped": ("RNG-1", lambda items: items[1:]),
    "an entry lost within a line": ("RNG-1", lambda items: items[:2] + items[3:]),
    "an entry lost that is a line": ("RNG-1", lambda items: items[:6] + items[7:]),
    "an entry twice": ("RNG-2", lambda items: items[:4] + items[3:]),
    "a line twice": ("RNG-2", lambda items: items[:7] + items[6:]),
    "a batch again": ("RNG-2", lambda items: items[:8] + items[4:]),
    "blocks skipped": ("RNG-1", lambda items: [i for i in items if i.level == 0]),
    "descending": ("RNG-2", lambda items: items[::-1]),
}


@pytest.mark.parametrize("name", WALK_FAULTS)
def test_fault_in_the_walk(name: str) -> None:
    rule, fault = WALK_FAULTS[name]
    expected = stage1()
    assert verdict(expected, kernel.texts(expected, fault)) == rule


@pytest.mark.parametrize("name", [name for name in WALK_FAULTS if name != "volatile flag lost"])
def test_fault_in_the_walk_of_page_table_alone(name: str) -> None:
    rule, fault = WALK_FAULTS[name]
    expected = stage1()
    comparison = compare(expected, kernel.texts(expected, fault, only="page_table"))
    assert comparison.primary == rule
    assert "ENT-2" in comparison.secondary


ENTRIES_FAULTS = {
    "raw of another item": ("ENT-1", kernel.each(lambda i: replace(i, raw=i.raw ^ 0x400))),
    "raw is zero": ("ENT-1", kernel.each(lambda i: replace(i, raw=0))),
    "last entry missing": ("ENT-1", lambda items: items[:-1]),
    "an entry twice": ("ENT-1", lambda items: items[:4] + items[3:]),
    "a flag missing": ("PRT-3", lost("UXN")),
    "level": ("LVL-1", kernel.each(lambda i: replace(i, level=i.level + 1))),
}


@pytest.mark.parametrize("name", ENTRIES_FAULTS)
def test_fault_in_entries_alone(name: str) -> None:
    rule, fault = ENTRIES_FAULTS[name]
    expected = stage1()
    assert verdict(expected, kernel.texts(expected, fault, only="entries")) == rule


def shifted(offset: int) -> Callable[[kernel.Item, int], str]:
    def show(item: kernel.Item, size: int) -> str:
        last = item.iova + size - 1
        return kernel.line(item, size).replace(f"-0x{last:016x}", f"-0x{last + offset & (1 << 64) - 1:016x}", 1)

    return show


def size_follows(item: kernel.Item, size: int) -> str:
    """Off by one in ``last``, and the size counted from it."""
    right = f"{format_size(size):>8}"
    return shifted(1)(item, size).replace(f" {right} ", f" {format_size(size + 1):>8} ", 1)


def kilobytes(item: kernel.Item, size: int) -> str:
    return kernel.line(item, size).replace(f"{format_size(size):>8}", f"{f'{size >> 10}K':>8}", 1)


def changed(begin: int, end: int, change: Callable[[str], str]) -> Callable[[kernel.Item, int], str]:
    """A fault in those columns of a line."""

    def show(item: kernel.Item, size: int) -> str:
        text = kernel.line(item, size)
        return text[:begin] + change(text[begin:end]) + text[end:]

    return show


def upper(text: str) -> str:
    return text.upper().replace("0X", "0x")


PRINT_FAULTS: dict[str, tuple[str, Callable[[kernel.Item, int], str]]] = {
    "last is the end": ("RNG-2", shifted(1)),
    "last one too low": ("RNG-2", shifted(-1)),
    "last is the end, size too": ("RNG-2", size_follows),
    "upper case": ("RNG-2", changed(0, 37, upper)),
    "not 16 digits": ("RNG-2", lambda i, s: kernel.line(i, s).replace("0x00000", "0x", 2)),
    "size in K": ("RNG-4", kilobytes),
    "size of a page": ("RNG-4", changed(57, 65, lambda text: f"{'4K':>8}")),
    "OA in upper case": ("RNG-4", changed(40, 56, str.upper)),
    "OA without 0x": ("RNG-4", changed(38, 40, lambda text: "00")),
    "prot of five columns": ("PRT-1", lambda i, s: kernel.line(i, s).replace(f"{i.prot}", f"{i.prot}"[:5])),
    "two blanks": ("RNG-2", lambda i, s: kernel.line(i, s).replace(" 0x", "  0x")),
    "blank at the end": ("RNG-2", lambda i, s: kernel.line(i, s) + " "),
    "leaf size printed as the range's": ("LVL-2", lambda i, s: kernel.line(replace(i, size=s), s)),
}


@pytest.mark.parametrize("name", PRINT_FAULTS)
def test_fault_in_printing(name: str) -> None:
    rule, show = PRINT_FAULTS[name]
    expected = stage1()
    assert verdict(expected, kernel.texts(expected, show=show)) == rule


def ignoring(column: str) -> Callable[[kernel.Item, int, kernel.Item], bool]:
    def join(before: kernel.Item, size: int, after: kernel.Item) -> bool:
        return kernel.joins(before, size, replace(after, **{column: getattr(before, column)}))

    return join


MERGE_FAULTS = {
    "never merges": lambda b, s, a: False,
    "splits every fourth": lambda b, s, a: a.index % 4 != 0 and kernel.joins(b, s, a),
    "splits at tables": lambda b, s, a: a.level == 0 and kernel.joins(b, s, a),
    "ignores prot": lambda b, s, a: kernel.joins(b, s, replace(a, prot=b.prot, flags=b.flags)),
    "ignores OA": lambda b, s, a: kernel.joins(b, s, replace(a, oa=b.oa + s)),
    "ignores IOVA": lambda b, s, a: kernel.joins(b, s, replace(a, iova=b.iova + s, oa=b.oa + s)),
}


@pytest.mark.parametrize("name", MERGE_FAULTS)
def test_fault_in_merging(name: str) -> None:
    expected = stage1()
    assert verdict(expected, kernel.texts(expected, join=MERGE_FAULTS[name])) == "RNG-3"


def test_merge_that_ignores_the_flags_alone() -> None:
    model = TableModel(configure("arm_64_lpae_s2", ias=44, oas=44))
    # device memory with and without coherence: the same prot, another shareability
    model.map(0x1000, 0x41000000, 0x1000, Prot.from_letters("rwmc"))
    model.map(0x2000, 0x41001000, 0x1000, Prot.from_letters("rwm"))
    expected = model.snapshot()
    assert [str(row.prot) for row in expected.ranges] == ["rw--m-", "rw--m-"]
    assert verdict(expected, kernel.texts(expected, join=ignoring("flags"))) == "RNG-3"
    assert verdict(expected, kernel.texts(expected, lost("SH_IS"))) == "PRT-3"


def test_merge_that_ignores_level_and_leaf() -> None:
    model = TableModel(configure("arm_64_lpae_s1", ias=48, oas=44))
    model.map(0x200000, 0x40200000, 0x200000, RWC, leaf=0x1000)
    model.map(0x400000, 0x40400000, 0x200000, RWC)
    expected = model.snapshot()
    assert [(row.level, row.leaf) for row in expected.ranges] == [(0, 0x1000), (1, 0x200000)]

    def join(before: kernel.Item, size: int, after: kernel.Item) -> bool:
        return kernel.joins(before, size, replace(after, level=before.level, size=before.size))

    assert verdict(expected, kernel.texts(expected, join=join)) == "RNG-3"


GROUP_FAULTS = {
    "items instead of groups": (
        "LVL-2",
        lambda items: [
            replace(i, iova=i.iova + at, oa=i.oa + at, size=step)
            for i in items
            for step in [1 << 12 + 9 * i.level]
            for at in range(0, i.size, step)
        ],
    ),
    "the first item alone": ("LVL-2", kernel.each(lambda i: replace(i, size=1 << 12 + 9 * i.level))),
    "OA with the size bits": ("RNG-4", kernel.each(lambda i: replace(i, oa=i.oa | (i.size // 2 - 1) & ~0xFFF))),
    "x of a format without it": ("PRT-1", kernel.each(lambda i: replace(i, prot=replace(i.prot, execute=True)))),
    "FC as c": ("PRT-1", kernel.each(lambda i: replace(i, prot=replace(i.prot, cacheable=True)))),
    "FC lost": ("PRT-3", kernel.each(lambda i: replace(i, flags=()))),
}


@pytest.mark.parametrize("name", GROUP_FAULTS)
def test_fault_in_groups(name: str) -> None:
    rule, fault = GROUP_FAULTS[name]
    expected = groups()
    assert verdict(expected, kernel.texts(expected, fault)) == rule


def test_sign_extension_lost() -> None:
    model = TableModel(configure("x86_64", options=["sign_extend"]))
    model.map(0xFFFFFFFFFFFFF000, 0x41000000, 0x1000, RW)
    model.map(0x1000, 0x42000000, 0x1000, RW)
    expected = model.snapshot()
    assert [row.first for row in expected.ranges] == [0x1000, 0xFFFFFFFFFFFFF000]
    assert compare(expected, kernel.texts(expected)).ok
    cut = kernel.each(lambda i: replace(i, iova=i.iova & (1 << 48) - 1))
    assert verdict(expected, kernel.texts(expected, cut)) == "RNG-5"


def test_upper_half_of_a_split_space_lost() -> None:
    config = configure("arm_64_lpae_s1", ias=40, options=["ttbr1"])
    model = TableModel(config)
    model.map(0xFFFFFF0000001000, 0x41000000, 0x1000, RW)
    expected = model.snapshot()
    assert compare(expected, kernel.texts(expected)).ok
    cut = kernel.each(lambda i: replace(i, iova=i.iova & (1 << 40) - 1))
    assert verdict(expected, kernel.texts(expected, cut)) == "RNG-5"


def test_empty_table() -> None:
    expected = TableModel(configure("amdv1")).snapshot()
    texts = render(expected.dump())
    assert texts["page_table"] == texts["entries"] == ""
    assert compare(expected, texts).ok
    for text in ("\n", "empty\n", render(stage1().dump())["page_table"]):
        assert verdict(expected, texts | {"page_table": text}) == "RNG-6", text


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("format: arm_64_lpae_s1", "format: ARM_64_LPAE_S1", "INF-1"),
        ("format: arm_64_lpae_s1", "format: arm_64_lpae_s2", "INF-1"),
        ("type: unmanaged", "type: dma", "INF-2"),
        ("0x0000ffffffffffff", "0x0001000000000000", "INF-2"),
        ("page_sizes: 4K 2M 1G", "page_sizes: 4K 2M", "INF-2"),
        ("page_sizes: 4K 2M 1G", "page_sizes: 4K 2048K 1G", "INF-2"),
        ("levels: 4", "levels: 3", "INF-3"),
        ("top: 0x0000000040000000", "top: 0x0000000000000000", "INF-3"),
        ("top: 0x0000000040000000", "top: 0x0000000040000008", "INF-3"),
        ("top: 0x0000000040000000", "top: 0x0000000040010000", "INF-3"),
        ("top: 0x0000000040000000", "top: 0xffff000040000000", "LAY-6"),
        ("type: unmanaged\n", "", "INF-2"),
        ("levels: 4\n", "", "INF-3"),
    ],
)
def test_info(old: str, new: str, rule: str) -> None:
    expected = stage1()
    texts = kernel.texts(expected)
    assert old in texts["info"]
    assert verdict(expected, texts | {"info": texts["info"].replace(old, new)}) == rule


def swapped(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([lines[1], lines[0], *lines[2:]])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda text: text.replace("3 0x0000000000000000 table", "3 0x0000000000000000 bad  ", 1), "ENT-1"),
        (lambda text: text[text.index("\n") + 1 :], "ENT-1"),
        (lambda text: text[: text.index("\n") + 1] + text, "ENT-1"),
        (lambda text: text.replace(" 0x0000000040010000 raw", " 0x0000000040011000 raw"), "ENT-1"),
        (lambda text: text.replace("raw 0x0000000040010003", "raw 0x0000000040010001"), "ENT-1"),
        (lambda text: text.replace("0x0000000040010000 raw", "0xffff000040010000 raw"), "LAY-6"),
        (lambda text: text.replace("0000000040020000", "0000000040010000").replace("40020003", "40010003"), "ENT-1"),
        (swapped, "ENT-1"),
        (lambda text: text.rstrip("\n"), "ENT-1"),
        (lambda text: text.replace("table -  0x", "table - 0x"), "ENT-1"),
        (lambda text: text.replace("leaf  4K", "leaf  4096"), "RNG-4"),
    ],
)
def test_entries_text(change: Callable[[str], str], rule: str) -> None:
    expected = stage1()
    texts = kernel.texts(expected)
    changed = change(texts["entries"])
    assert changed != texts["entries"]
    assert verdict(expected, texts | {"entries": changed}) == rule


@pytest.mark.parametrize(
    ("old", "new"), [("total", "all"), ("\n0 2 15", "\n0 3 15"), ("level tables", "tables level"), ("3 1 0 4096\n", "")]
)
def test_stats(old: str, new: str) -> None:
    expected = stage1()
    texts = kernel.texts(expected)
    assert old in texts["stats"]
    assert verdict(expected, texts | {"stats": texts["stats"].replace(old, new)}) == "ENT-2"


def test_pieces_of_a_file() -> None:
    whole = "abc\ndef\nghi\n"
    assert compare_reads("info", whole, [whole], ReadHow("chunk", 1)).ok
    assert compare_reads("info", whole, [whole[:-1]], ReadHow("chunk", 1)).primary == "CON-10"
    assert compare_reads("info", whole, [whole, whole], ReadHow("parallel", threads=2)).ok
    assert not compare_reads("info", whole, [whole, ""], ReadHow("parallel", threads=2)).ok
    how = ReadHow("pread", offsets=(0, 5, 12), size=4)
    assert compare_reads("info", whole, ["abc\n", "ef", ""], how).ok
    assert not compare_reads("info", whole, ["abc\n", "def\n", ""], how).ok
    assert not compare_reads("info", whole, ["abc\n", "", ""], how).ok
    assert not compare_reads("info", whole, ["abc\n"], how).ok
