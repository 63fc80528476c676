# SPDX-License-Identifier: GPL-2.0-only
"""The guests of the measurements: how long one boots, and what a reader of a file does to a writer of commands."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_iommu.core import machines
from pytest_iommu.core.boot_modes import FUNCTIONAL, RACES
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.testmodule import MODULE, command_ops, parse_status, status_text
from pytest_iommu.images import Progress, artefacts
from pytest_iommu.targets.qemu import QemuTarget, boot_of

GROUPS, CONTROL = "/sys/fs/cgroup", f"{MODULE}/control"
WRITER, READER = 0, 1
PATIENCE = 900
"""Seconds that a job may take; none of these figures is a limit."""


def target(cache: Path, machine: str, flavour: str = "plain", mode: str = FUNCTIONAL) -> QemuTarget:
    """What boots that machine; a kernel or QEMU that is missing is made first."""
    found, settings = machines.get(machine), Settings(None, cache)
    made = artefacts.prepare(settings, found, flavour, Progress(sys.stderr))
    return QemuTarget(boot_of(settings, found, made, mode))


def boot_seconds(cache: Path, machine: str, flavour: str = "plain") -> float:
    """Median of five boots, from starting QEMU to the agent's HELLO."""
    one = target(cache, machine, flavour)
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        one.start().close()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


class BenchGuest:
    """A booted guest. Times are seconds of its clock."""

    def __init__(self, cache: Path, machine: str, flavour: str = "plain", mode: str = RACES) -> None:
        self._guest = target(cache, machine, flavour, mode).start()

    def close(self) -> None:
        """End the guest."""
        self._guest.close()

    def run(self, batch: Sequence[Op]) -> Sequence[Result]:
        """Execute a batch; what the kernel reports meanwhile is printed."""
        reply = self._guest.run(batch, PATIENCE)
        if reply.kmsg:
            print(f"  the kernel says: {reply.kmsg.strip().splitlines()[0]}", file=sys.stderr)
        return reply.results

    def commands(self, script: str) -> list[dict[str, str]]:
        """Give the test module commands; what each of them answers. SystemExit if one fails."""
        status = parse_status(status_text(self.run(command_ops(script))))
        for one in status.values():
            if one.errno:
                raise SystemExit(f"command {one.line} fails with {one.errno} {one.message}")
        return [dict(status[line].values) for line in sorted(status)]

    def once(self, commands: str, read: str | None = None) -> float:
        """How long the commands take on processor 0; a reader goes round and round in the file ``read`` on 1."""
        if read is not None:
            self.run([jobs.start_reader(READER, read, rounds=0, keep=False, cpu=1), ops.sleep(20)])
        (call,) = self._writer([jobs.start_writer(WRITER, CONTROL, commands.encode(), cpu=0)])
        self.run([jobs.reset_jobs()])
        return call

    def while_read(self, commands: str, path: str, cpu: int = 1) -> list[float]:
        """How long the commands take on processor 0, each time, while the file is read once on processor ``cpu``."""
        return self._writer(
            [
                jobs.start_writer(WRITER, CONTROL, commands.encode(), cpu=0, rounds=0),
                jobs.await_rounds([WRITER], 1, PATIENCE * 1000),
                jobs.start_reader(READER, path, keep=False, cpu=cpu),
                jobs.wait_job(READER, PATIENCE * 1000),
                jobs.signal_job(WRITER, jobs.Signal.STOP),
            ]
        )

    def _writer(self, batch: Sequence[Op]) -> list[float]:
        results = self.run([*batch, jobs.wait_job(WRITER, PATIENCE * 1000)])
        for result in results:
            if not result.ok:
                raise SystemExit(f"a job ends with {ops.errno_name(result.value)}")
        return [(call.end - call.begin) / 1e9 for call in jobs.split_calls(results[-1].data)]

    def read(self, path: str, cpu: int = 1) -> jobs.Digest:
        """Read a file once."""
        batch = [jobs.start_reader(READER, path, keep=False, cpu=cpu), jobs.wait_job(READER, PATIENCE * 1000)]
        started, done = self.run(batch)
        if not (started.ok and done.ok):
            raise SystemExit(f"reading {path} fails with {ops.errno_name(done.value)}")
        return jobs.split_digest(done.data)

    def peak(self, path: str) -> int:
        """The most memory that a process of its own ever has while it reads a file, the kernel's for it included."""
        folder = f"{GROUPS}/reader-{time.monotonic_ns()}"
        self.run([ops.write_file(f"{GROUPS}/cgroup.subtree_control", b"+memory"), ops.mkdir(folder)])
        *results, peak = self.run(
            [
                # The agent goes in and out again: its child stays.
                ops.write_file(f"{folder}/cgroup.procs", b"0"),
                jobs.start_reader(READER, path, keep=False),
                ops.write_file(f"{GROUPS}/cgroup.procs", b"0"),
                jobs.wait_job(READER, PATIENCE * 1000),
                ops.read_file(f"{folder}/memory.peak"),
            ]
        )
        if not all(result.ok for result in (*results, peak)):
            raise SystemExit(f"reading {path} in a control group fails")
        return int(ops.text_of(peak))
