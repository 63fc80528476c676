# SPDX-License-Identifier: GPL-2.0-only
"""Fingerprints of kernel reports: the function at fault, and nothing that changes from run to run."""

from __future__ import annotations

import re

import pytest

from pytest_iommu.report.fingerprint import fingerprint

ENTRY = """\
 ksys_read+0x7c/0x134
 __arm64_sys_read+0x48/0x58
 invoke_syscall+0x70/0x1d8
 el0_svc_common.constprop.0+0x104/0x140
 do_el0_svc+0x38/0x50
 el0_svc+0x44/0x148
 el0t_64_sync_handler+0xa0/0xe4
 el0t_64_sync+0x198/0x19c
"""

OOPS = """\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
Mem abort info:
  ESR = 0x0000000096000046
Internal error: Oops: 0000000096000046 [#1]  SMP
Modules linked in: iommu_ptdump_test(O+)
CPU: 1 UID: 0 PID: 1 Comm: init Tainted: G           O        7.3.4 #2 PREEMPT
pstate: 600000c5 (nZCv daIF -PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : devres_node_add+0x4c/0x68
lr : devres_node_add+0x24/0x68
sp : ffff80008050b840
x29: ffff80008050b840 x28: ffff000000af88a8 x27: ffff000000b7b240
Call trace:
 devres_node_add+0x4c/0x68 (P)
 devm_kmalloc+0x94/0xd4
 edu_probe+0x4c/0x33c [iommu_ptdump_test]
 pci_device_probe+0x9c/0x124
 really_probe.part.0+0xa8/0x288
 __driver_probe_device+0xf4/0x150
Code: 91066294 a9000a74 aa0003e1 aa1503e0 (f9000053)
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Oops: Fatal exception
"""
OOPS_X86 = """\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access in kernel mode
Oops: Oops: 0002 [#1] SMP NOPTI
CPU: 1 UID: 0 PID: 1 Comm: init Tainted: G           O        7.3.4 #2 PREEMPT
RIP: 0010:devres_node_add+0x4c/0x68
RSP: 0018:ffffc9000001fb88 EFLAGS: 00010246
Call Trace:
 <TASK>
 ? __die+0x1f/0x60
 ? asm_exc_page_fault+0x22/0x30
 devm_kmalloc+0x94/0xd4
 edu_probe+0x4c/0x33c [iommu_ptdump_test]
 pci_device_probe+0x9c/0x124
 really_probe+0xa8/0x288
 __driver_probe_device+0xf4/0x150
 </TASK>
"""
KASAN = f"""\
==================================================================
BUG: KASAN: slab-use-after-free in ptd_show+0x10c/0x2a0
Read of size 8 at addr ffff0000052f1000 by task init/1

CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 7.3.4 #2 PREEMPT
Hardware name: linux,dummy-virt (DT)
Call trace:
 show_stack+0x18/0x24 (C)
 dump_stack_lvl+0x78/0x90
 print_report+0x118/0x5cc
 kasan_report+0xa4/0xec
 __asan_report_load8_noabort+0x20/0x2c
 ptd_show+0x10c/0x2a0
 seq_read_iter+0x3f0/0xf80
 seq_read+0x174/0x250
 vfs_read+0x17c/0x91c
{ENTRY}
Allocated by task 1:
 kasan_save_stack+0x3c/0x64
 iommu_alloc+0x1/0x2

Freed by task 1:
 kasan_save_stack+0x3c/0x64
==================================================================
"""
CIRCULAR = """\
======================================================
WARNING: possible circular locking dependency detected
7.3.4 #2 Tainted: G           O
------------------------------------------------------
irq/18-pciehp/40 is trying to acquire lock:
ffff000002f642d8 (&ctrl->reset_lock){.+.+}-{4:4}, at: pciehp_configure_device+0x164/0x278

but task is already holding lock:
ffff800080ce6780 (pci_rescan_remove_lock){+.+.}-{4:4}, at: pci_lock_rescan_remove+0x18/0x20

the existing dependency chain (in reverse order) is:

-> #1 (pci_rescan_remove_lock){+.+.}-{4:4}:
       __mutex_lock+0x194/0x1194
       pci_lock_rescan_remove+0x18/0x20

"""
CHAIN = """\
-> #0 (&ctrl->reset_lock){.+.+}-{4:4}:
       __lock_acquire+0x1438/0x203c
       lock_acquire+0x380/0x3e4
       down_read_nested+0xa4/0x354
       pciehp_configure_device+0x164/0x278
       pciehp_ist+0x3b4/0x77c
       kthread+0x328/0x3cc
       ret_from_fork+0x10/0x20

other info that might help us debug this:

"""
BACKTRACE = """\
stack backtrace:
CPU: 0 UID: 0 PID: 40 Comm: irq/18-pciehp Tainted: G           O        7.3.4 #2 PREEMPT
Call trace:
 show_stack+0x14/0x1c (C)
 dump_stack_lvl+0x88/0xc4
 dump_stack+0x18/0x20
 print_circular_bug+0x288/0x368
 check_noncircular+0x140/0x150
 __lock_acquire+0x1438/0x203c
 lock_acquire+0x380/0x3e4
 down_read_nested+0xa4/0x354
 pciehp_configure_device+0x164/0x278
 pciehp_ist+0x3b4/0x77c
 kthread+0x328/0x3cc
 ret_from_fork+0x10/0x20
"""
SUSPICIOUS = f"""\
=============================
WARNING: suspicious RCU usage
7.3.4 #2 Not tainted
-----------------------------
drivers/iommu/iommu-ptdump.c:123 suspicious rcu_dereference_check() usage!

other info that might help us debug this:

rcu_scheduler_active = 2, debug_locks = 1
2 locks held by init/1:
 #0: ffff0000052f1000 (&p->lock){{+.+.}}-{{4:4}}, at: seq_read_iter+0xa0/0xf80

stack backtrace:
CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 7.3.4 #2 PREEMPT
Call trace:
 show_stack+0x18/0x24 (C)
 dump_stack_lvl+0x78/0x90
 lockdep_rcu_suspicious+0x170/0x208
 ptd_walk.isra.0+0x1f8/0x2a0
 ptd_show+0x10c/0x2a0
 seq_read_iter+0x3f0/0xf80
 vfs_read+0x17c/0x91c
{ENTRY}"""
STALL = f"""\
rcu: INFO: rcu_preempt self-detected stall on CPU
rcu: \t0-....: (5249 ticks this GP) idle=d0c4/1/0x4000000000000002 softirq=1302/3861 fqs=2097
rcu: \t(t=5250 jiffies g=-1139 q=146 ncpus=2)
CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 7.3.4 #2 PREEMPT
pc : ptd_walk+0x44/0x2a0
lr : ptd_show+0x10c/0x2a0
sp : ffff80008050b840
Call trace:
 ptd_walk+0x44/0x2a0 (P)
 ptd_show+0x10c/0x2a0
 seq_read_iter+0x3f0/0xf80
 vfs_read+0x17c/0x91c
{ENTRY}"""
STALL_OLD = f"""\
rcu: INFO: rcu_sched self-detected stall on CPU
Call trace:
 dump_backtrace+0x0/0x1b0
 show_stack+0x24/0x30
 sched_show_task+0x138/0x180
 rcu_dump_cpu_stacks+0xd0/0x118
 rcu_sched_clock_irq+0x768/0x930
 update_process_times+0x34/0x60
 gic_handle_irq+0x58/0x80
 el1h_64_irq_handler+0x18/0x24
 el1h_64_irq+0x64/0x68
 ptd_walk+0x44/0x2a0
 ptd_show+0x10c/0x2a0
 seq_read_iter+0x3f0/0xf80
 vfs_read+0x17c/0x91c
{ENTRY}"""
LOCKUP_X86 = """\
watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [agent:1]
RIP: 0010:ptd_walk+0x44/0x2a0
Call Trace:
 <IRQ>
 ? watchdog_timer_fn+0x1ba/0x260
 __hrtimer_run_queues+0x10f/0x2b0
 </IRQ>
 <TASK>
 asm_sysvec_apic_timer_interrupt+0x1a/0x20
 ptd_show+0x10c/0x2a0
 vfs_read+0x17c/0x91c
 ksys_read+0x7c/0x134
 do_syscall_64+0x5c/0x90
 entry_SYSCALL_64_after_hwframe+0x4b/0x53
 </TASK>
"""
WARN = f"""\
------------[ cut here ]------------
WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1
Modules linked in:
CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 7.3.4 #2 PREEMPT
pc : iommu_map+0x10/0x20
lr : ptt_map+0x40/0x50 [iommu_ptdump_test]
Call trace:
 iommu_map+0x10/0x20 (P)
 ptt_map+0x40/0x50 [iommu_ptdump_test]
 ptt_write+0x40/0x50 [iommu_ptdump_test]
 vfs_write+0x1/0x2
{ENTRY.replace("read", "write")}---[ end trace 0000000000000000 ]---
"""
PANIC = """\
Kernel panic - not syncing: sysrq triggered crash
CPU: 0 UID: 0 PID: 1 Comm: sh Not tainted 7.3.4 #2 PREEMPT
Call trace:
 show_stack+0x18/0x24 (C)
 dump_stack_lvl+0x38/0x90
 dump_stack+0x18/0x24
 vpanic+0x398/0x3e4
 panic+0x5c/0x60
 sysrq_reset_seq_param_set+0x0/0x10
 __handle_sysrq+0x90/0x1a0
SMP: stopping secondary CPUs
"""
HUNG = """\
INFO: task agent:1 blocked for more than 120 seconds.
      Not tainted 7.3.4 #2
task:agent           state:D stack:0     pid:1     tgid:1     ppid:0      flags:0x00000000
Call trace:
 __switch_to+0xf0/0x1a0 (T)
 __schedule+0x3f4/0xa84
 schedule+0x34/0x104
 schedule_preempt_disabled+0x24/0x40
 __mutex_lock.constprop.0+0x2d4/0x4f0
 ptt_lock_all+0x14/0x20 [iommu_ptdump_test]
 kthread+0x110/0x114
 ret_from_fork+0x10/0x20
"""
UBSAN = """\
------------[ cut here ]------------
UBSAN: shift-out-of-bounds in drivers/iommu/iommu.c:10:5
shift exponent 64 is too large for 64-bit type 'unsigned long'
Call trace:
 show_stack+0x18/0x24 (C)
 dump_stack+0x18/0x24
 ubsan_epilogue+0x10/0x44
 __ubsan_handle_shift_out_of_bounds+0x100/0x150
 ptd_walk+0x44/0x2a0
---[ end trace ]---
"""
KCSAN = """\
==================================================================
BUG: KCSAN: data-race in ptd_walk / stage2_unmap

write (marked) to 0xffff0000052f1000 of 8 bytes by task 12 on cpu 1:
 stage2_unmap+0x10/0x20
==================================================================
"""
NO_TRACE = "WARNING: drivers/iommu/iommu.c:10 at iommu_map+0x10/0x20, CPU#0: init/1\n"
NO_FUNCTION = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n"

REPORTS = {
    OOPS: "oops:devres_node_add:devm_kmalloc:edu_probe:pci_device_probe:really_probe",
    OOPS_X86: "oops:devres_node_add:devm_kmalloc:edu_probe:pci_device_probe:really_probe",
    KASAN: "kasan:ptd_show:seq_read_iter:seq_read:vfs_read:ksys_read",
    CIRCULAR + CHAIN + BACKTRACE: "lockdep:down_read_nested:pciehp_configure_device:pciehp_ist:kthread",
    CIRCULAR + CHAIN: "lockdep:down_read_nested:pciehp_configure_device:pciehp_ist:kthread",
    CIRCULAR: "lockdep:pciehp_configure_device",
    SUSPICIOUS: "lockdep:ptd_walk:ptd_show:seq_read_iter:vfs_read:ksys_read",
    STALL: "rcu-stall:ptd_walk:ptd_show:seq_read_iter:vfs_read:ksys_read",
    STALL_OLD: "rcu-stall:ptd_walk:ptd_show:seq_read_iter:vfs_read:ksys_read",
    LOCKUP_X86: "soft-lockup:ptd_walk:ptd_show:vfs_read:ksys_read",
    WARN: "warning:iommu_map:ptt_map:ptt_write:vfs_write:ksys_write",
    PANIC: "panic:sysrq_reset_seq_param_set:__handle_sysrq",
    HUNG: "hung-task:__mutex_lock:ptt_lock_all:kthread",
    UBSAN: "bug:ptd_walk",
    KCSAN: "kcsan:ptd_walk:stage2_unmap",
    NO_TRACE: "warning:iommu_map",
    NO_FUNCTION: "panic:attempted-to-kill-init",
}


@pytest.mark.parametrize("entry", ["__arm64_sys_finit_module", "__x64_sys_finit_module", "__se_sys_finit_module"])
def test_a_system_call_has_one_name_everywhere(entry: str) -> None:
    report = f"BUG: KASAN: double-free in f+0x1/0x2\nCall trace:\n f+0x1/0x2\n {entry}+0x3/0x4\n"
    assert fingerprint(report) == "kasan:f:sys_finit_module"


def another_run(text: str) -> str:
    """The same fault on another day: times, processes, addresses, offsets and the build differ."""
    text = re.sub(r"\+0x[0-9a-f]+/0x[0-9a-f]+", "+0x77c/0x9f0", text)
    text = re.sub(r"\b(?:ffff)[0-9a-f]{12}\b", "ffff0000deadbe00", text)
    text = re.sub(r"PID: \d+|CPU#?:? ?\d|task[ :]\w+:\d+|#2|7\.3\.4", lambda match: match[0][:-1] + "7", text)
    return "".join(
        f"[  {number + 51}.{number:06}][   T{number + 9}] {line}\n" for number, line in enumerate(text.splitlines())
    )


@pytest.mark.parametrize(("report", "name"), REPORTS.items(), ids=REPORTS.values())
def test_the_function_at_fault_comes_first(report: str, name: str) -> None:
    assert fingerprint(report) == name


@pytest.mark.parametrize(("report", "name"), REPORTS.items(), ids=REPORTS.values())
def test_it_is_the_same_from_run_to_run(report: str, name: str) -> None:
    assert fingerprint(another_run(report)) == name


@pytest.mark.parametrize(("report", "name"), REPORTS.items(), ids=REPORTS.values())
def test_no_number_of_a_run_is_in_it(report: str, name: str) -> None:
    assert re.fullmatch(r"[a-z-]+(:[A-Za-z_][\w$-]*){1,5}", name)


def test_a_cut_report_is_found_whole_on_the_console() -> None:
    whole = CIRCULAR + CHAIN + BACKTRACE
    console = f"[    0.0] Booting Linux\n{whole}[   99.0] later\nCall trace:\n other+0x1/0x2\n"
    assert fingerprint(CIRCULAR, console) == fingerprint(whole)
    assert fingerprint(CIRCULAR, "its beginning has scrolled away") == fingerprint(CIRCULAR)


@pytest.mark.parametrize("text", ["", "nothing of the kind", "Call trace:\n f+0x1/0x2\n"])
def test_what_is_no_report_has_none(text: str) -> None:
    assert fingerprint(text) == ""


def test_other_faults_have_other_names() -> None:
    assert len(set(REPORTS.values())) == len(REPORTS) - 3
