# SPDX-License-Identifier: GPL-2.0-only
"""Run a scenario's plan on a guest and compare.

A phase is one round trip if all its domains exist, two if it creates some: their debugfs ids are known only from the
status of the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check import directory, platform, reading
from pytest_iommu.check.plugging import plug
from pytest_iommu.check.witnesses import accounting
from pytest_iommu.check.witnesses.accounting import Accounting
from pytest_iommu.check.witnesses.attachments import Attachments
from pytest_iommu.check.witnesses.dma import Done
from pytest_iommu.check.witnesses.in_ram import forget, in_ram
from pytest_iommu.check.witnesses.stream_attachments import StreamAttachments
from pytest_iommu.check.witnesses.streams import Streams, Wanted
from pytest_iommu.check.witnesses.vtd_file import VtdFile, path_of
from pytest_iommu.core.outcomes import CheckFailed, GuestLost, KernelCrash, KernelHang, Verdict
from pytest_iommu.core.protocol import Guest, Op, Reply, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.guest.testmodule import MODULE, command_ops, lacks, parse_groups, parse_status, status_text
from pytest_iommu.oracle.context_table import ContextTable

if TYPE_CHECKING:
    from pytest_iommu.check.races.window import Window
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.oracle import Expected
    from pytest_iommu.scenario import Instance, Phase, Plan, RacePlan, RaceStep, StormPlan

_UNMAPS = re.compile(r"^\s*\??\s*unmap\s+(?P<name>\S+)", re.MULTILINE)
_MAKES = re.compile(r"^\s*\??\s*domain\s+(?P<name>\S+)", re.MULTILINE)


class Scenario:
    """One scenario on one guest. ``problems`` collects the failures; a failed phase is the last one.

    execute() raises the exceptions of pytest_iommu.core.outcomes, and skips what this kernel cannot do. ``compared`` is
    called with every comparison. ``accounted`` is the size of a page if the kernel's count of the pages of page tables
    is to be checked, 0 if not.
    """

    def __init__(
        self,
        instance: Instance,
        guest: Guest,
        machine: Machine,
        dialect: Dialect,
        compared: reading.Compared = reading.ignore_comparison,
        accounted: int = 0,
    ) -> None:
        self._instance = instance
        self._guest = guest
        self._machine = machine
        self._dialect = dialect
        self._compared = compared
        self._accounting = Accounting(self._send, accounted, guest) if accounted and guest.memory is not None else None
        self._in_ram = in_ram(guest, machine)
        self._smmu = self._in_ram.smmu if self._in_ram is not None else None
        self._hardware = any(domain.hardware for domain in instance.domains.values())
        self._attachments = self._watch()
        self._groups: dict[str, str] | None = None
        self._later: list[CheckFailed] = []
        self._done = Done(self._send, machine, guest.memory, self._in_ram.iommu if self._in_ram is not None else None)
        self._ids: dict[str, str] = {}
        self._unmapped: set[str] = set()
        self._scripts: list[str] = []
        self._plugged: dict[str, bool] = {}
        self.problems: list[CheckFailed] = []
        self.files: dict[str, bytes] = {}

    def _watch(self) -> Attachments | None:
        """The witness of the IOMMU's entries, where a device can be attached to a domain of the scenario."""
        if not self._hardware or self._in_ram is None or self._in_ram.iommu is None:
            return None
        if self._smmu is None:
            return Attachments(self._machine, self._in_ram.iommu)
        return StreamAttachments(self._machine, self._smmu)

    def execute(self) -> None:
        """Run all phases. CheckFailed lists all differences."""
        needed = self._instance.needs.dialect
        if needed and needed != self._dialect.name:
            pytest.skip(f"requires dialect {needed}, but this kernel's dump has dialect {self._dialect.name}")
        plan = self._compiled()
        if not self._dialect.files:
            self._without_dump(plan)
        try:
            for _ in range(self._instance.repeat):
                self._accounted(plan)
        except (KernelCrash, KernelHang, GuestLost):
            self._plugged.clear()  # no other test gets this guest
            raise
        finally:
            self._as_it_was()

    def _compiled(self) -> Plan:
        """Compile for this guest's domains; skips what only their sizes make impossible."""
        from pytest_iommu.scenario import ScenarioError, compile_plan

        written = self._instance
        self._instance = platform.placed(written, self._guest, self._machine)
        try:
            plan = compile_plan(self._instance)
            self._hold_board(plan)
            return plan
        except ScenarioError as error:
            if written.machine in written.case.machines:
                compile_plan(written)  # a mistake of the scenario itself is an error
            sizes = {f"{one.ias} bits of IOVA, {one.oas} of PA" for one in _hardware(self._instance)}
            pytest.skip(f"does not fit this kernel's domains ({'; '.join(sorted(sizes))}): {error.problem}")

    def _hold_board(self, plan: Plan) -> None:
        """Skip a case that asks for what another board has, and was not written for this one."""
        if self._instance.machine in self._instance.case.machines:
            return
        meanwhile = plan.race.steps if plan.race is not None else ()
        phases = [*plan.phases, *plan.after, *(phase for step in meanwhile for phase in step.phases)]
        for one in (one for phase in phases for one in phase.dma):
            if one.event is None and one.oa is not None and not self._machine.in_scratch(one.oa, one.size):
                pytest.skip(f"line {one.line} does DMA to 0x{one.oa:x}, which is not memory of {self._machine.name}")
        if self._machine.smmu is None and any(phase.streams for phase in phases):
            pytest.skip(f"asks for stream table entries, which {self._machine.name} has not")

    def _accounted(self, plan: Plan) -> None:
        """Run the plan once, and twice if the kernel's count of the pages of page tables is wrong (TAB-6)."""
        phases = [*plan.phases, *plan.after]
        if self._accounting is None or any(phase.plugs for phase in phases):
            # The default domain of a device that is plugged has a table, too.
            accounting.forget(self._guest)
            self._once(plan)
            return

        def run() -> list[Expected] | None:
            self._once(plan)
            exact = plan.race is None and plan.storm is None and phases
            return [check.expected for check in phases[-1].checks] if exact else None

        wrong = self._accounting.check(run)
        if wrong is not None:
            self.problems.append(wrong)
            self._fail()

    def _once(self, plan: Plan) -> None:
        self._phases(plan.phases)
        if plan.race is not None:
            self._race(plan.race)
        if plan.storm is not None:
            self._storm(plan.storm)
        self._phases(plan.after)
        if self._later:
            self._fail()

    def _without_dump(self, plan: Plan) -> None:
        """Skip what nobody can judge on a kernel that has no dump."""
        reads = [*plan.phases, *plan.after]
        if plan.race is not None:
            pytest.skip("needs a dump to be read while the table changes; this kernel has none")
        if any(phase.reads or phase.access for phase in reads):
            pytest.skip("is about the files of a dump; this kernel has none")
        if self._in_ram is None:
            pytest.skip("this kernel has no dump, and the guest's memory cannot be read")

    def _phases(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            self._phase(phase)
            if self.problems:
                self._fail()

    def _race(self, plan: RacePlan) -> None:
        """Hold a reader and run the steps that must happen meanwhile."""
        from pytest_iommu.check.races.held import DumpFile
        from pytest_iommu.check.races.window import Window

        config = self._instance.domains[plan.domain].config
        path = self._where().path(plan.domain, plan.file)
        place = DumpFile(plan.domain, path, plan.file, config, plan.start, plan.chunk)
        gdb = capabilities(self._guest).gdb
        window = Window(self._guest, gdb, self._machine, self._dialect, place, plan.hold)
        try:
            window.open()
            try:
                for step in plan.steps:
                    self._meanwhile(window, step)
            except BaseException:
                window.abandon()
                raise
            window.close()
        except CheckFailed as error:
            self.files |= error.files
            self.problems.append(error)
        if self.problems:
            self._fail()

    def _meanwhile(self, window: Window, step: RaceStep) -> None:
        if step.wait:
            window.grace_period(step.blocked)
        for phase in step.phases:
            for one in phase.plugs:
                self._plug(one.device, one.add)
            lines = phase.script.splitlines()
            if lines:
                self._scripts.append(f"{phase.script.rstrip()}   # line {step.line}, while a reader is held\n")
            for number, line in enumerate(lines, 1):
                last = number == len(lines)
                after, ends = (step.after, step.ends) if last else (None, False)
                if step.blocked and last:
                    window.block(line, after, ends=ends)
                    continue
                values = window.command(line, after, ends)
                made = _MAKES.match(line)
                if made is not None:
                    self._ids[made["name"]] = values.get("id", directory.NONE)
                    self._find_directories()
            self._phase(replace(phase, plugs=(), script=""))
            if self.problems:
                raise self.problems.pop()

    def _storm(self, plan: StormPlan) -> None:
        """Run a storm over a domain."""
        from pytest_iommu.check.races import storm
        from pytest_iommu.check.races.end_state import in_memory

        if self._guest.memory is None:
            pytest.skip("no two storms are the same, so a recording has none")
        config = self._instance.domains[plan.domain].config
        directory = self._where().path(plan.domain, "").rstrip("/")
        table = storm.StormTable(plan.domain, directory, config, plan.start)
        readers = plan.storm.readers if self._dialect.files else ()
        memory = in_memory(self._send, self._in_ram, plan.domain, config)
        outcome = storm.run(self._guest.run, self._dialect, table, replace(plan.storm, readers=readers), memory)
        for failure in outcome.failures:
            self.files |= failure.files
        self.problems += outcome.failures
        if self._dialect.files and not self.problems:
            self._after_storm(plan, directory)
        if self.problems:
            self._fail()

    def _after_storm(self, plan: StormPlan, directory: str) -> None:
        """The dump of the table must be what it was before the storm."""
        (left,) = self._send([ops.read_file(f"{directory}/page_table")]).results
        if self._dialect.parse({"page_table": ops.text_of(left)}).ranges != plan.start:
            self.files[f"{plan.domain}.page_table.txt"] = left.data
            what = "the table after the storm differs from the one before it"
            self.problems.append(CheckFailed(what, ("RNG-1",), verdict=Verdict.UNDECIDED))

    def _phase(self, phase: Phase) -> None:
        # The id of a new domain is only in the status, which takes a second round trip; without one, a single trip
        # does.
        for one in phase.plugs:
            self._plug(one.device, one.add)
        makes = {match["name"] for match in _MAKES.finditer(phase.script)}
        self._unmapped |= {match["name"] for match in _UNMAPS.finditer(phase.script)}
        batch = command_ops(phase.script) if phase.script else []
        followed = {check.domain for check in phase.checks} | {read.domain for read in phase.reads}
        followed |= {access.domain for access in phase.access}
        at_once = not (makes & followed)
        # Read even without access to memory, so that a recording sees the same batches.
        looks = self._hardware and bool(phase.script or phase.plugs)
        groups = self._device_groups(bool(phase.plugs)) if looks else {}
        attachments = self._attachments if looks else None
        if attachments is not None:
            attachments.before(groups)
        after = self._after(phase) if at_once else []
        reply = self._send([*batch, *(op for job in after for op in job.ops)])
        results = list(reply.results)
        if batch:
            self._commands(phase, results[:2])
            if self.problems:
                return
        if attachments is not None:
            # What DMA then does says more, and comes first.
            self._later += attachments.after(phase)
            # Of two tables with one id, DMA goes by whichever is cached.
            self.problems += attachments.shared(phase)
        results = results[len(batch) :]
        if not at_once:
            after = self._after(phase)
            results = list(self._send([op for job in after for op in job.ops]).results)
        for job in after:
            self.problems += job.judge(results[: len(job.ops)], self.files)
            del results[: len(job.ops)]
        if phase.streams and self._dialect.files:
            self._streams(phase)
        if not self.problems:
            self.problems += self._done.steps(phase.dma)
            for sample in phase.samples:
                unmapped = sample.domain in self._unmapped
                self.problems += self._done.sample(sample, self._proved(phase, sample.domain), unmapped)

    def _proved(self, phase: Phase, domain: str) -> bool:
        """Whether this phase has found a domain's table in memory, and nothing wrong with it."""
        found = self._in_ram is not None and domain in self._in_ram.walked
        return found and not self.problems and any(check.domain == domain for check in phase.checks)

    def _device_groups(self, changed: bool) -> dict[str, str]:
        if changed or self._groups is None:
            (listed,) = self._send([ops.read_file(f"{MODULE}/devices")]).results
            self._groups = parse_groups(ops.text_of(listed)) if listed.ok else {}
        return self._groups

    def _plug(self, device: str, add: bool) -> None:
        """Like run.plug(), but remembered for _as_it_was()."""
        plug(self._guest, device, add)
        self._plugged[device] = add

    def _as_it_was(self) -> None:
        """Restore the devices that the guest booted with, for the next test."""
        for device, there in self._plugged.items():
            if there is self._machine.device(device).hotplug:
                self._plug(device, not there)

    def _streams(self, phase: Phase) -> None:
        streams = Streams(self._send, self._machine, self._smmu)
        ids = {**self._ids, "-": "-"}
        wanted = [
            Wanted(one.device, one.config, ids.get(one.domain, "-") if one.domain else None, one.present)
            for one in phase.streams
        ]
        self.problems += streams.check(wanted)
        self.files |= streams.files

    def _send(self, batch: Sequence[Op]) -> Reply:
        return self._guest.run(batch, self._instance.timeout) if batch else Reply(())

    def _commands(self, phase: Phase, results: Sequence[Result]) -> None:
        from pytest_iommu.scenario import command_failure

        self._scripts.append(phase.script)
        text = status_text(results)
        status = parse_status(text)
        made = False
        lines = phase.script.splitlines()
        for number, row in status.items():
            words = lines[number - 1].lstrip("? ").split()
            if words[0] == "reset":
                self._ids.clear()
                forget(self._guest)
            elif words[0] == "destroy" and row.errno is None:
                forget(self._guest, words[1])
            elif words[0] == "domain" and row.errno is None:
                self._ids[words[1]] = row.values.get("id", directory.NONE)
                made = True
                domain = self._instance.domains.get(words[1])
                if domain is not None and domain.hardware:
                    self.problems += platform.hold(domain.name, row.values, domain.config)
            elif reason := lacks(" ".join(words), row.errno, row.message):
                pytest.skip(reason)
        if made:
            self._find_directories()
        wrong = command_failure(phase, text)
        if wrong is not None:
            self.files["status.txt"] = text.encode()
            self.problems.append(wrong)

    def _find_directories(self) -> None:
        self._ids = directory.find(lambda batch: self._send(batch).results, self._dialect, self._ids)

    def _after(self, phase: Phase) -> list[reading.Job]:
        """Return the reads that follow the commands."""
        where = self._where()
        jobs = [reading.access_job(access, where) for access in phase.access]
        jobs += [reading.check_job(check, where, self._compared) for check in phase.checks]
        jobs += [reading.read_job(read, where) for read in phase.reads]
        if self._in_ram is not None and isinstance(self._in_ram.iommu, ContextTable):
            jobs += self._of_vtd(phase, self._in_ram.iommu)
        return jobs

    def _of_vtd(self, phase: Phase, iommu: ContextTable) -> Iterator[reading.Job]:
        """Read what VT-d's own debugfs says of the devices that are on the domains."""
        for check in phase.checks:
            device = next((device for device, domain in phase.attached if domain == check.domain), None)
            if device is None:
                continue
            path = path_of(self._machine.device(device).address)
            file = VtdFile(device, check.domain, path, check.expected)
            yield reading.Job(file.ops, partial(_judge_vtd, file, iommu))

    def _where(self) -> reading.Where:
        return reading.Where(self._ids, self._dialect, self._in_ram, frozenset(self._unmapped))

    def artefacts(self) -> dict[str, bytes]:
        """Return the last texts that were read, and all commands, by file name."""
        return {**self.files, "commands.txt": "\n".join(self._scripts).encode()}

    def _fail(self) -> None:
        raise reading.joined([*self.problems, *self._later], self.artefacts())


def _hardware(instance: Instance) -> list[TableConfig]:
    return [domain.config for domain in instance.domains.values() if domain.hardware]


def _judge_vtd(
    file: VtdFile, iommu: ContextTable, results: Sequence[Result], files: dict[str, bytes]
) -> list[CheckFailed]:
    return file.check(results, iommu, files)
