# SPDX-License-Identifier: GPL-2.0-only
"""The console scanner: what is a splat, what only looks like one, and where the scanner stands."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.console import READ_LIMIT, Console, scan, taint_words

SPLATS = {
    "panic": "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs",
    "oops": "[  301.5] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
    "oops-with-caller": "[  301.5][  T42] Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP",
    "kernel-bug": "[    9.0] kernel BUG at mm/slub.c:123!",
    "kasan": "[   12.345678] BUG: KASAN: slab-use-after-free in io_ptdump_walk+0x1c/0x40",
    "lockdep": "[    3.1] WARNING: possible circular locking dependency detected",
    "suspicious-rcu": "[    3.1] WARNING: suspicious RCU usage",
    "warning-old": "[    3.1] WARNING: CPU: 0 PID: 1 at drivers/iommu/iommu.c:10 iommu_map+0x10/0x20",
    "warning-new": "[    3.1] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1",
    "rcu-stall": "[   63.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
    "hung-task": "[  363.0] INFO: task agent:1 blocked for more than 120 seconds.",
    "soft-lockup": "[   63.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [agent:1]",
    "sleeping": "[   63.0] BUG: sleeping function called from invalid context at mm/util.c:1",
    "kmsg": "BUG: Bad page state in process agent  pfn:41000",
    "ubsan": "[    3.1] UBSAN: array-index-out-of-bounds in drivers/iommu/x.c:1:2",
}

INNOCENT = (
    "[    0.000000] Kernel command line: console=ttyAMA0 panic=-1 oops=panic",
    "[    0.000000] ** This system shows unhashed kernel memory addresses   **",
    "[    0.1] arm-smmu-v3 9050000.smmuv3: msi_domain absent - falling back to wired irqs",
    "[    2.2] test: expecting 'WARNING: ' in the log",
    "[    0.0] kasan: KernelAddressSanitizer initialized (generic)",
    "[    0.0] rcu: \tRCU lockdep checking is enabled.",
    "agent: run BUG: nothing",
    "[    0.0] debug: unmapping init [mem 0x0-0x1]",
)


@pytest.mark.parametrize("line", SPLATS.values(), ids=SPLATS)
def test_a_splat_is_found_and_named(line: str) -> None:
    splat = scan(f"[    0.0] before\n{line}\n[    9.9] after\n")
    assert splat is not None
    assert splat.title in line


@pytest.mark.parametrize("line", INNOCENT)
def test_what_only_contains_the_words_is_none(line: str) -> None:
    assert scan(f"{line}\n") is None


def test_kinds_are_told_apart() -> None:
    kinds = {name: scan(line) for name, line in SPLATS.items()}
    assert {name: splat.kind for name, splat in kinds.items() if splat} == {
        "panic": "panic",
        "oops": "oops",
        "oops-with-caller": "oops",
        "kernel-bug": "oops",
        "kasan": "kasan",
        "lockdep": "lockdep",
        "suspicious-rcu": "lockdep",
        "warning-old": "warning",
        "warning-new": "warning",
        "rcu-stall": "rcu-stall",
        "hung-task": "hung-task",
        "soft-lockup": "soft-lockup",
        "sleeping": "bug",
        "kmsg": "bug",
        "ubsan": "bug",
    }


def test_the_text_goes_from_cut_here_to_end_trace() -> None:
    log = (
        "[    1.0] fine\n"
        "[    2.0] ------------[ cut here ]------------\n"
        "[    2.0] WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"
        "[    2.0] Call trace:\n"
        "[    2.0]  iommu_map+0x10/0x20\n"
        "[    2.0] ---[ end trace 0000000000000000 ]---\n"
        "[    3.0] fine again\n"
    )
    splat = scan(log)
    assert splat is not None
    assert "cut here" in splat.text.splitlines()[0]
    assert "end trace" in splat.text.splitlines()[-1]


def test_the_first_of_several_counts() -> None:
    splat = scan("[1.0] BUG: KASAN: double-free in x\n[1.1] Kernel panic - not syncing: kasan.fault=panic set ...\n")
    assert splat is not None
    assert splat.kind == "kasan"


@pytest.fixture
def log() -> Iterator[int]:
    fd = os.memfd_create("console")
    yield fd
    os.close(fd)


def test_a_line_is_scanned_when_it_is_whole(log: int) -> None:
    console = Console(log)
    os.write(log, b"[    1.0] fine\r\n[    2.0] Kernel pan")
    assert console.scan_new() is None
    os.write(log, b"ic - not syncing: x\r\n")
    splat = console.scan_new()
    assert splat is not None
    assert splat.title == "Kernel panic - not syncing: x"
    assert console.scan_new() is None


def test_a_last_line_without_end_counts_at_the_end(log: int) -> None:
    os.write(log, b"[    2.0] Kernel panic - not syncing: x")
    splat = Console(log).scan_all()
    assert splat is not None


def test_a_flood_is_read_in_bounds(log: int) -> None:
    console = Console(log)
    os.ftruncate(log, 3 * READ_LIMIT)
    os.lseek(log, 0, os.SEEK_END)
    os.write(log, b"\n[    2.0] BUG: KASAN: x\n")
    splat = console.scan_new()
    assert splat is not None
    assert splat.kind == "kasan"


def test_the_tail_is_text_whatever_the_bytes(log: int) -> None:
    os.write(log, b"\xff\xfe line\r\nnext\n")
    assert Console(log).tail().endswith(" line\nnext\n")


def test_only_bad_taints_have_words() -> None:
    assert taint_words(1 << 12 | 1 << 13) == ""
    assert taint_words(1 << 9 | 1 << 12) == "warned"
