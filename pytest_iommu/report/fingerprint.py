# SPDX-License-Identifier: GPL-2.0-only
"""A name for a kernel report that is the same in every run: its kind and the functions closest to the cause.

kasan:ptd_show:seq_read_iter:seq_read:vfs_read:ksys_read

It contains no offsets, addresses, processes or times, and nothing that differs between architectures: the frames of the
reporting code are left out, and the path of a system call ends where the assembler code begins.
"""

from __future__ import annotations

import re

from pytest_iommu.guest.console import splats

FRAMES = 5
_WORDS = 6

_STAMP = r"(?:<\d+>)?(?:\[ *\d+\.\d+\] *)?(?:\[ *[TC]\d+\] *)?"
_NAME = r"(?P<name>[A-Za-z_][\w$]*)(?:\.[\w.]+)?"
_OFFSET = r"\+0x[0-9a-f]+/0x[0-9a-f]+"
_TRACE = re.compile(rf"^{_STAMP} *Call [Tt]race: *$", re.MULTILINE)
_CHAIN = re.compile(rf"^{_STAMP} *-> #0 \(.*$", re.MULTILINE)
# A frame with a question mark is only a value found on the stack.
_FRAME = re.compile(
    rf"^{_STAMP} *(?:\[<[0-9a-f]+>\] )?{_NAME}{_OFFSET}(?: \[[^\]]*\])?(?: \([A-Z]+\))? *$", re.MULTILINE
)
_STACK = re.compile(rf"^{_STAMP} *<(?P<end>/?)(?:IRQ|NMI|SOFTIRQ)> *$")
_PC = re.compile(rf"^{_STAMP}(?:pc|epc|RIP) ?: (?:0010:)?{_NAME}{_OFFSET}", re.MULTILINE)
_LR = re.compile(rf"^{_STAMP}lr : {_NAME}{_OFFSET}", re.MULTILINE)
_AT = re.compile(rf"\b(?:at:?|in) {_NAME}{_OFFSET}")
_RACE = re.compile(r"(?<= in )[A-Za-z_]\w*|(?<= / )[A-Za-z_]\w*")
_STOP = re.compile(
    rf"---\[ end |^{_STAMP}={{20,}}|^{_STAMP}(?:Allocated|Freed) by task|^{_STAMP}(?:Last potentially|Second to last)|"
    rf"^{_STAMP}Kernel panic|^{_STAMP} *Call [Tt]race:|^{_STAMP}-> #|^{_STAMP}other info that might",
    re.MULTILINE,
)

# Functions that print a report or detect the fault: the same for all faults of a kind, but different per architecture.
_REPORTER = re.compile(
    r"(?:__)?(?:dump_|show_)(?:stack|backtrace|regs)\w*|print_\w+|(?:__)?k[am]san_\w+|(?:__)?(?:hw)?asan_\w+|"
    r"check_region_inline|(?:end|start)_report|kmem_report_\w+|\w*ubsan_\w+|v?panic|nmi_panic|check_panic_on_warn|"
    r"__warn\w*|warn_slowpath\w*|report_bug|\w*bug_handler|handle_bug|(?:__)?die\w*|oops_\w+|page_fault_oops|"
    r"exc_\w+|asm_exc_\w+|(?:__)?do_(?:kernel_fault|translation_fault|page_fault|mem_abort|trap\w*)|"
    r"el1h?_\w+|lockdep_\w+|check_(?:noncircular|prev\w*|irq_usage|wait_context|deadlock)|validate_chain|"
    r"(?:__)?lock_(?:acquire|release|acquired)|mark_(?:lock|usage|held_locks)\w*|valid_state|(?:__)?might_(?:sleep|resched)|"
    r"(?:__)?debug_(?:print_object|object_\w+|check_no_obj_freed)|__schedule_bug|bad_page\w*|(?:__)?schedule|__switch_to|"
    r"schedule_preempt_disabled|sched_show_task|rcu_(?:dump_cpu_stacks|check_gp\w*|sched_clock_irq)|watchdog_\w+"
)
_ENTRY = re.compile(
    r"el0\w*|do_el0_\w+|invoke_syscall\w*|el0_svc_common|do_syscall_\w+|x64_sys_call|entry_SYSCALL\w*|ret_from_\w+|"
    r"do_trap_ecall_u|handle_exception|__primary_switched|asm_\w+"
)
_INTERRUPT = re.compile(r"el1h_64_\w+|asm_(?:sysvec|exc_nmi|common_interrupt)\w*|gic_handle_irq|call_on_irq_stack")
_SYSCALL = re.compile(r"__(?:\w+64|\w+32|arm|riscv|se|do|s390x?)_(?:compat_)?sys_(?=\w)")


def fingerprint(splat: str, console: str = "") -> str:
    """Return the fingerprint of a kernel report: its kind and up to five functions, joined by colons.

    ``splat`` is the report as far as it was stored, ``console`` the console, which may have all of it. Empty for a text
    that is not a kernel report.
    """
    found = next(splats(splat), None)
    if found is None:
        return ""
    text = _whole(found.title, splat, console)
    if found.kind == "kcsan":
        names = _RACE.findall(found.title)
    else:
        names = _frames(text, found.kind) or [match["name"] for match in [_AT.search(found.title)] if match]
    # x86 prints BUG where other architectures print an oops.
    kind = "oops" if found.title.startswith("BUG: kernel NULL pointer") else found.kind
    return ":".join([kind, *(names[:FRAMES] or _words(found.title))])


def _whole(title: str, splat: str, console: str) -> str:
    """Return the report from its title on, from the console if it is there."""
    for text in (console, splat):
        start = text.find(title)
        if start >= 0:
            return text[start:]
    return splat


def _frames(text: str, kind: str) -> list[str]:
    """Return the functions of a report, the one closest to the cause first."""
    trace, chain = _TRACE.search(text), _CHAIN.search(text)
    begin = trace or chain
    head = text[: trace.start()] if trace else text
    names = _listed(text[begin.end() :], kind) if begin else []
    counter = _PC.search(head) if not chain else None
    if counter is not None and not _REPORTER.fullmatch(counter["name"]) and names[:1] != [counter["name"]]:
        names.insert(0, counter["name"])
    caller = _LR.search(head)
    if len(names) == 1 and begin is None and caller is not None and caller["name"] != names[0]:
        names.append(caller["name"])
    if not names and not begin:
        names = [match["name"] for match in [_AT.search(text)] if match]
    return names


def _listed(text: str, kind: str) -> list[str]:
    """Return the following frames, without those of the reporting code and of interrupts that detected the fault."""
    stop = _STOP.search(text)
    names: list[str] = []
    aside: list[str] = []
    inside = False
    for line in (text[: stop.start()] if stop else text).splitlines():
        stack, frame = _STACK.match(line), _FRAME.match(line)
        if stack is not None:
            inside = not stack["end"]
        elif frame is not None:
            (aside if inside else names).append(_plain(frame["name"]))
    if kind in ("rcu-stall", "soft-lockup"):
        last = max((number for number, name in enumerate(names, 1) if _INTERRUPT.fullmatch(name)), default=0)
        names = names[last:] or names
    return _own(names) if kind in ("rcu-stall", "soft-lockup") else _own(aside) or _own(names)


def _own(names: list[str]) -> list[str]:
    """Return the frames between the reporting code and the kernel entry."""
    first = next((number for number, name in enumerate(names) if not _REPORTER.fullmatch(name)), len(names))
    found: list[str] = []
    for name in names[first:]:
        if _ENTRY.fullmatch(name):
            break
        if found[-1:] != [name]:
            found.append(name)
    return found


def _plain(name: str) -> str:
    return _SYSCALL.sub("sys_", name)


def _words(title: str) -> list[str]:
    """Return the words of a title without any function, except those with digits or in brackets, which may differ."""
    bare = re.sub(r"\[[^\]]*\]|\([^)]*\)|\S*\d\S*", " ", title.partition(":")[2] or title)
    return ["-".join(re.findall(r"[A-Za-z_]+", bare)[:_WORDS]).lower()]
