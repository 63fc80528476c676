# SPDX-License-Identifier: GPL-2.0-only
"""Runs a scenario's plan on a guest and compares.

A phase is one round trip where the guest knows all its domains, two where it makes some: their debugfs ids are only
known from the status of the commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_iommu import reading
from pytest_iommu.guest import ops
from pytest_iommu.outcomes import CheckFailed, SetupError
from pytest_iommu.targets.protocol import Guest, Op, Reply, Result

if TYPE_CHECKING:
    from pytest_iommu.collect import ScenarioItem
    from pytest_iommu.run import Run
    from pytest_iommu.scenario import Phase

MODULE = "/sys/kernel/debug/iommu_ptdump_test"
_STATUS = re.compile(r"^(?P<line>\d+) (?:ok(?P<values>.*)|error (?P<errno>\w+) ?(?P<message>.*))$")
_MAKES = re.compile(r"^\s*\??\s*domain\s+(?P<name>\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Status:
    """What became of one command: ``errno`` is None when it passed, else the errno's name."""

    line: int
    errno: str | None = None
    message: str = ""
    values: dict[str, str] = field(default_factory=dict)


def parse_status(text: str) -> dict[int, Status]:
    """The module's status file, by command line. SetupError when a line is none of a status."""
    found: dict[int, Status] = {}
    for row in text.splitlines():
        match = _STATUS.match(row)
        if match is None:
            raise SetupError(f"the test module's status has a line that is none: {row!r}")
        values = dict(word.partition("=")[::2] for word in (match["values"] or "").split())
        found[int(match["line"])] = Status(int(match["line"]), match["errno"], match["message"] or "", values)
    return found


def command_ops(script: str) -> list[Op]:
    """Give the test module a batch of commands and read what became of them."""
    return [ops.write_file(f"{MODULE}/control", script.encode()), ops.read_file(f"{MODULE}/status")]


def status_text(results: Sequence[Result]) -> str:
    """The status, from the results of command_ops(). SetupError when the module is not there."""
    written, status = results
    if not status.ok:
        name = ops.errno_name(status.value)
        raise SetupError(f"the test module iommu_ptdump_test is not loaded: reading its status fails with {name}")
    if not written.ok and not status.data:
        raise SetupError(f"the test module refuses the whole batch: {ops.errno_name(written.value)}")
    return reading.text_of(status)


class Scenario:
    """One scenario on one guest. ``problems`` collects what is wrong; a phase that went wrong ends it."""

    def __init__(self, run: Run, item: ScenarioItem, guest: Guest) -> None:
        self._run = run
        self._item = item
        self._guest = guest
        self._instance = item.instance
        self._dialect = run.dialect(item.key(), guest)
        self._ids: dict[str, str] = {}
        self._scripts: list[str] = []
        self.problems: list[CheckFailed] = []
        self.files: dict[str, bytes] = {}

    def execute(self) -> None:
        """Run all phases. CheckFailed with everything that differs."""
        from pytest_iommu.scenario import compile_plan

        needed = self._instance.needs.dialect
        if needed and needed != self._dialect.name:
            pytest.skip(f"needs dialect {needed}, this kernel speaks {self._dialect.name}")
        plan = compile_plan(self._instance)
        for _ in range(self._instance.repeat):
            for phase in plan.phases:
                self._phase(phase)
                if self.problems:
                    self._fail()

    def _phase(self, phase: Phase) -> None:
        # What the commands make has its id only in their status: a second round trip then, else one for all.
        makes = {match["name"] for match in _MAKES.finditer(phase.script)}
        batch = command_ops(phase.script) if phase.script else []
        followed = {check.domain for check in phase.checks} | {read.domain for read in phase.reads}
        followed |= {access.domain for access in phase.access}
        at_once = not (makes & followed)
        after = self._after(phase) if at_once else []
        reply = self._send([*batch, *(op for job in after for op in job.ops)])
        results = list(reply.results)
        if batch:
            self._commands(phase, results[:2])
            if self.problems:
                return
        results = results[len(batch) :]
        if not at_once:
            after = self._after(phase)
            results = list(self._send([op for job in after for op in job.ops]).results)
        for job in after:
            self.problems += job.judge(results[: len(job.ops)], self.files)
            del results[: len(job.ops)]

    def _send(self, batch: Sequence[Op]) -> Reply:
        return self._guest.run(batch, self._instance.timeout) if batch else Reply(())

    def _commands(self, phase: Phase, results: Sequence[Result]) -> None:
        from pytest_iommu.scenario import verify_status

        self._scripts.append(phase.script)
        text = status_text(results)
        status = parse_status(text)
        lines = phase.script.splitlines()
        for number, row in status.items():
            words = lines[number - 1].lstrip("? ").split()
            if words[0] == "reset":
                self._ids.clear()
            elif words[0] == "domain" and row.errno is None:
                self._ids[words[1]] = row.values.get("id", "-")
            elif words[0] == "domain" and row.errno == "EOPNOTSUPP":
                pytest.skip(f"this kernel cannot make it: {' '.join(words)}: {row.message}")
        wrong = verify_status(phase, text)
        if wrong:
            self.files["status.txt"] = text.encode()
            self.problems.append(CheckFailed("\n".join(wrong)))

    def _after(self, phase: Phase) -> list[reading.Job]:
        """What is read once the commands are done."""
        where = reading.Where(self._ids, self._dialect)
        jobs = [reading.access_job(access, where) for access in phase.access]
        jobs += [reading.check_job(check, where, self._compared) for check in phase.checks]
        jobs += [reading.read_job(read, where) for read in phase.reads]
        return jobs

    def _compared(self, comparison: object) -> None:
        self._item.ihook.pytest_iommu_compared(item=self._item, comparison=comparison)

    def _fail(self) -> None:
        self.files["commands.txt"] = "\n".join(self._scripts).encode()
        raise reading.joined(self.problems, self.files)


def run_instance(run: Run, item: ScenarioItem, guest: Guest) -> None:
    """Run one variant of a case. Raises the exceptions of pytest_iommu.outcomes; skips what this kernel cannot do."""
    Scenario(run, item, guest).execute()
