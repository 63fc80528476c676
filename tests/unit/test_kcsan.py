# SPDX-License-Identifier: GPL-2.0-only
"""Which data races are the dump's: reports as a guest printed them, and what a broken dump would make of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator

import pytest

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.core.protocol import Evidence
from pytest_iommu.guest import kcsan
from pytest_iommu.guest.console import Console, RaceElsewhere, scan, splats
from pytest_iommu.report.failure import broken_rules

RULER = kcsan.RULER
UNMAP = f"""\
{RULER}
BUG: KCSAN: data-race in __arm_lpae_unmap / arm_lpae_ptd_walk

read (marked) to 0xffff000001d2d188 of 8 bytes by task 50 on cpu 0:
 arm_lpae_ptd_walk+0x168/0x690
 ptd_peek+0xc8/0x1c4
 ptd_next_range+0x158/0x284
 ptd_next+0xd4/0x16c
 seq_read_iter+0x514/0x76c
 iommu_ptd_read_iter+0x80/0x9c
 vfs_read+0x1ac/0x258
 ksys_read+0x94/0x150

write to 0xffff000001d2d188 of 8 bytes by task 52 on cpu 0:
 __arm_lpae_unmap+0x3e0/0x4ec
 __arm_lpae_unmap+0x134/0x4ec
 arm_lpae_unmap_pages+0xcc/0x100
 iommu_unmap+0x80/0xe4
 change+0xd4/0x384 [iommu_ptdump_test]
 kthread+0x1f0/0x1fc
 ret_from_fork+0x10/0x20

Reported by Kernel Concurrency Sanitizer on:
CPU: 0 UID: 0 PID: 52 Comm: ptt_storm/0 Tainted: G           OE       7.3.4 #1 PREEMPT
Tainted: [O]=OOT_MODULE, [E]=UNSIGNED_MODULE
Hardware name: linux,dummy-virt (DT)
{RULER}
"""
LINKS = f"""\
{RULER}
BUG: KCSAN: data-race in set_nlink / set_nlink

read to 0xffff000001043690 of 4 bytes by task 59 on cpu 0:
 set_nlink+0x30/0xe0
 kernfs_refresh_inode+0x148/0x15c
 kernfs_iop_permission+0x74/0xb4

write to 0xffff000001043690 of 4 bytes by task 60 on cpu 1:
 set_nlink+0x74/0xe0
 kernfs_refresh_inode+0x148/0x15c

value changed: 0x00000000 -> 0x00000002

Reported by Kernel Concurrency Sanitizer on:
CPU: 0 UID: 0 PID: 59 Comm: init Tainted: G           OE       7.3.4 #1 PREEMPT
{RULER}
"""
WARNING = "WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"

NOT_MARKED = UNMAP.replace("read (marked)", "read")
BOTH = UNMAP.replace("__arm_lpae_unmap+", "iommu_free_table_rcu.part.0+")
UNKNOWN = re.sub(
    r"read \(marked\) (.*?)\n\nwrite.*?\n\n", r"race at unknown origin, with read \1\n\n", UNMAP, flags=re.S
)
OURS = {"not marked": NOT_MARKED, "both sides": BOTH, "unknown origin": UNKNOWN}


def stamped(text: str) -> str:
    """As in a log with times and callers."""
    return "".join(f"[   12.345678][  T50] {line}\n" for line in text.splitlines())


def test_the_sides_of_a_race() -> None:
    reader, mapper = kcsan.accesses(UNMAP)
    assert (reader.marked, reader.of_dump, reader.functions[0]) == (True, True, "arm_lpae_ptd_walk")
    assert (mapper.marked, mapper.of_dump, mapper.functions[-1]) == (False, False, "ret_from_fork")
    assert "change" not in mapper.functions, "of the test module"
    (alone,) = kcsan.accesses(UNKNOWN)
    assert alone.of_dump


@pytest.mark.parametrize("report", OURS.values(), ids=OURS)
def test_a_race_of_the_dump_fails_a_test(report: str) -> None:
    for text in (report, stamped(report), LINKS + report):
        found = scan(text)
        assert found is not None
        assert found.kind == "kcsan"
        assert "ptd_peek" in found.text
        assert "linux,dummy-virt" in found.text, "it is cut short"


@pytest.mark.parametrize("report", [UNMAP, LINKS], ids=["the dump marked its own", "elsewhere"])
def test_a_race_of_others_does_not(report: str) -> None:
    assert scan(report) is None
    assert scan(stamped(report)) is None
    assert [splat.kind for splat in splats(report)] == ["kcsan"]


def test_what_comes_behind_it_is_seen() -> None:
    found = scan(LINKS + WARNING)
    assert found is not None
    assert found.kind == "warning"


def test_it_counts_against_con_4() -> None:
    error = KernelCrash("kcsan", Evidence(splat=NOT_MARKED))
    assert broken_rules(error, ("RNG-1",)) == ("CON-4", "RNG-1")


def defined() -> Iterator[str]:
    """The functions of the reference implementation's own files."""
    for path in (paths.reference() / "files/drivers").rglob("*.[ch]"):
        if path.name.startswith("kunit_"):
            continue  # they run alone
        text = re.sub(r"\\\n|(?s:/\*.*?\*/)", " ", path.read_text())
        for found in re.finditer(
            r"^(?:static |inline |const |struct |[a-z]\w* |\*)+\*?(?:NS\((\w+)\)|(\w+))\(", text, re.M
        ):
            name = found[2] or f"amdv1_{found[1]}"
            if not name.isupper():
                yield name


def test_all_functions_of_the_dump_are_known() -> None:
    names = set(defined())
    assert len(names) > 70
    assert [name for name in sorted(names) if not kcsan.is_of_dump(name)] == []


@pytest.mark.parametrize(
    "name", ["dump_stack", "stream_open", "iommu_free_pages", "iommu_map", "mem_dump_obj", "dump_page"]
)
def test_others_are_not(name: str) -> None:
    assert not kcsan.is_of_dump(name)


@pytest.fixture
def log() -> Iterator[int]:
    fd = os.memfd_create("console")
    yield fd
    os.close(fd)


def test_a_race_is_judged_when_it_is_whole(log: int) -> None:
    console, text = Console(log), BOTH.encode()
    half = text.index(b"iommu_free_table")
    os.write(log, b"fine\n" + text[:half])
    assert console.scan_new() is None
    os.write(log, text[half:])
    found = console.scan_new()
    assert found is not None
    assert found.kind == "kcsan"


def test_races_elsewhere_are_said(log: int) -> None:
    console = Console(log)
    os.write(log, (UNMAP + LINKS).encode())
    with pytest.warns(RaceElsewhere) as seen:
        assert console.scan_new() is None
    assert [str(one.message) for one in seen] == [
        "KCSAN: data-race in __arm_lpae_unmap / arm_lpae_ptd_walk: not in the dump's code",
        "KCSAN: data-race in set_nlink / set_nlink: not in the dump's code",
    ]


def test_a_title_without_a_report_holds_nothing_up(log: int) -> None:
    console = Console(log)
    os.write(
        log,
        b"BUG: KCSAN: data-race in a / b\n"
        + 1000 * b"some other line of the kernel, which is not short\n"
        + WARNING.encode(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RaceElsewhere)
        found = console.scan_new()
    assert found is not None
    assert found.kind == "warning"
