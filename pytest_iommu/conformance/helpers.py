# SPDX-License-Identifier: GPL-2.0-only
"""What several files of the suite use: kinds of domains, held readers, memory, the file groups, a second guest."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.dialects import IO_PTDUMP, DumpSyntaxError
from pytest_iommu.dialects.groups import GroupLine, parse_groups
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE, DomainRow, parse_domains
from pytest_iommu.images import Progress
from pytest_iommu.oracle import TableModel
from pytest_iommu.session.run import RUN

FILES = ("info", "page_table", "entries", "stats")
#: stage of a hardware domain, or format of a software table
KINDS = ("s1", "s2", "amdv1", "vtdss", "x86_64", "riscv_64", "arm_64_lpae_s1", "arm_64_lpae_s2")
MEMINFO = "/proc/meminfo"
KMEMLEAK = "/sys/kernel/debug/kmemleak"
#: milliseconds; kmemleak says nothing of what is younger than five seconds
AGE = 6000
#: seconds of the host for two scans, each of which goes over all of the kernel's memory twice
PATIENCE = 240
GROUPS = "/sys/fs/cgroup"
FREED = "VT-d's debugfs reads tables that were freed (docs/findings.md)"
#: the agent's job that writes under a limit, and how long it may take, in seconds
WRITER, WRITING = 0, 60


def make(iommu: Iommu, kind: str, granule: int | None = None) -> Domain:
    """A domain of one of KINDS; with ``granule`` skips where a hardware domain has another one."""
    return iommu.domain(stage=kind, granule=granule) if kind in ("s1", "s2") else iommu.table(kind)


def reads_freed_tables(guest: GuestHandle) -> bool:
    """Whether VT-d's debugfs does so in this kernel: the reference implementation selects RCU for these tables."""
    return not guest.dialect_or_none.files


def await_stuck(guest: GuestHandle, job: int, name: str) -> None:
    """Wait until a held reader is held. AssertionError when it is not."""
    deadline = Deadline(20)
    state = ""
    while not deadline.over:
        state = ops.text_of(guest.run([jobs.job_state(job)]).results[0])
        if " held=1" in state:
            return
        time.sleep(0.01)
    raise AssertionError(f"the reader of {name} is not held: {state}")


def in_memory(guest: GuestHandle, domain: TableModel, row: DomainRow) -> tuple[Range, ...]:
    """The ranges of a table as the SMMU finds it in memory, by way of the device that is attached."""
    if guest.in_ram is None:
        pytest.skip("needs a guest whose memory the host can see")
    texts = guest.in_ram.texts(domain.config, row)
    assert texts is not None
    return IO_PTDUMP.parse({"page_table": texts["page_table"]}).ranges or ()


def assert_table_in_memory(guest: GuestHandle, domain: Domain) -> None:
    """The table that the SMMU finds in memory is what was mapped."""
    row = parse_domains(guest.read(f"{MODULE}/domains").decode())[domain.name]
    assert in_memory(guest, domain.model, row) == domain.model.snapshot().ranges


def meminfo(text: bytes) -> dict[str, int]:
    """The fields of MEMINFO's text that are sizes, in bytes."""
    return {name.decode(): int(size) << 10 for name, size in re.findall(rb"(?m)^(\w+):\s+(\d+) kB$", text)}


def scan_twice(guest: GuestHandle) -> str:
    """What kmemleak lists after two scans. It says in the log that there is something new: that fails the test."""
    wait = [ops.sleep(AGE), ops.write_file(KMEMLEAK, b"scan")]
    *scans, listed = guest.run([*wait, *wait, ops.read_file(KMEMLEAK)], PATIENCE).results
    assert all(result.ok for result in scans), "kmemleak does not scan: it ran out of memory, or is off"
    return ops.text_of(listed)


def limited(guest: GuestHandle, folder: str, op: Op, limit: int | None = None) -> int:
    """Run a writer in a control group of its own, under a limit in bytes; its value, or -errno."""
    # The agent goes in and out again: its child stays, and what it had is charged elsewhere.
    batch = [ops.mkdir(folder)]
    if limit is not None:
        batch += [ops.write_file(f"{folder}/memory.max", str(limit).encode())]
    batch += [ops.write_file(f"{folder}/cgroup.procs", b"0"), op, ops.write_file(f"{GROUPS}/cgroup.procs", b"0")]
    results = guest.run(batch, WRITING).results
    assert all(result.ok for result in results), [ops.errno_name(result.value) for result in results]
    (ended,) = guest.run([jobs.wait_job(WRITER, WRITING * 1000)], 2 * WRITING).results
    return ended.value


def groups(guest: GuestHandle) -> tuple[GroupLine, ...]:
    """The lines of groups. Skips where the dump has no such file."""
    (result,) = guest.run([ops.read_file(f"{DEBUGFS}/groups")]).results
    if ops.errno_name(result.value) == "ENOENT":
        pytest.skip("this kernel's dump has no file groups")
    assert result.ok, ops.errno_name(result.value)
    try:
        return parse_groups(ops.text_of(result))
    except DumpSyntaxError as error:
        raise CheckFailed(str(error), (error.rule,), verdict=Verdict.DUMP) from error


def group_line(guest: GuestHandle, device: str) -> GroupLine:
    """The one line of a device of the machine that is not about a PASID."""
    name = f"0000:{guest.machine.device(device).address}"
    found = [row for row in groups(guest) if row.device == name and row.pasid is None]
    if len(found) != 1:
        raise CheckFailed(f"{name} has {len(found)} lines in groups", ("GRP-1",), verdict=Verdict.DUMP)
    return found[0]


def beside(item: pytest.Item, guest: GuestHandle, flavour: str) -> GuestHandle:
    """A guest of that flavour; the pool keeps two. Skips where the run does not have the flavour."""
    run = item.config.stash[RUN]
    key = replace(guest.key, flavour=flavour)
    if key.kernel not in run.allowed:
        pytest.skip(f"needs {key} beside {guest.key}: --iommu-flavour={flavour},{guest.key.flavour}")
    run.prepare([key.kernel], Progress(sys.stdout))
    return GuestHandle(run, key)


def without_and_with(item: pytest.Item, guest: GuestHandle) -> tuple[Iommu, Iommu]:
    """Makers of domains in this guest, whose kernel has no dump, and in one whose kernel has: what differs is its cost.

    Skips where the kernels are not that: a ready image is the same whatever flavour it is called.
    """
    other = beside(item, guest, "plain")
    for one, has in ((guest, False), (other, True)):
        if one.run([ops.stat(f"{DEBUGFS}/domains")]).results[0].ok != has:
            pytest.skip(f"the kernel of {one.key} has {'no' if has else 'a'} dump")
    made = Iommu(guest), Iommu(other)
    for iommu in made:
        iommu.reset()
    return made
