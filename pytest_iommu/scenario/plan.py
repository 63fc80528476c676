# SPDX-License-Identifier: GPL-2.0-only
"""Compile an instance into commands of the test module and the comparisons after them (phases.py).

Mistakes that only the model can detect are ScenarioErrors here: a map over a mapping without ``errno``, or a
hand-written line that contradicts the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_iommu import formats
from pytest_iommu.core.model import Prot, Range
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.yaml_reader import ScenarioError
from pytest_iommu.dialects.io_ptdump import render_range
from pytest_iommu.oracle import Expected, MappingError, TableModel
from pytest_iommu.scenario.amount import Amount
from pytest_iommu.scenario.losses import Losses
from pytest_iommu.scenario.phases import (
    Access,
    Check,
    Dma,
    Expectation,
    Phase,
    Plan,
    Plug,
    RacePlan,
    RaceStep,
    ReadCheck,
    Sample,
    StormPlan,
    StreamCheck,
)
from pytest_iommu.scenario.probing import Probes
from pytest_iommu.scenario.race_words import Hold, Reader, Storm
from pytest_iommu.scenario.schema import (
    AttachStep,
    CheckStep,
    CreateStep,
    DestroyStep,
    DetachStep,
    DmaStep,
    DomainSpec,
    ExpectStep,
    HandLine,
    Instance,
    MapStep,
    PlugStep,
    ProbeStep,
    RaceSpec,
    ReadStep,
    ReplaceStep,
    ResetStep,
    Step,
    StormSpec,
    StreamStep,
    Stretch,
    Suite,
    UnmapStep,
)
from pytest_iommu.scenario.variants import scratch_of

SAMPLES, SAMPLES_UNATTACHED = 24, 6
"""Number of transfers that check a domain at the end: more if the scenario attached the device itself."""


def compile_plan(instance: Instance) -> Plan:
    """Compile an instance. ScenarioError if the scenario contradicts the model."""
    return _Compiler(instance).plan()


def contradictions(suite: Suite) -> list[str]:
    """What compile_plan() has to say of a suite, ``file:line: message`` each; one of every case at most."""
    found: dict[int, str] = {}
    for instance in suite.instances:
        try:
            compile_plan(instance)
        except SetupError as error:
            found.setdefault(instance.case.line, error.message)
    return list(dict.fromkeys(found.values()))


class _Compiler:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._models: dict[str, TableModel] = {}
        self._attached: dict[str, str] = {}
        self._probes = Probes(instance.case.steps)
        self._phases: list[Phase] = []
        self._hand = {name: lines for name, lines in instance.case.hand if name is not None}
        self._begin()

    def plan(self) -> Plan:
        case = self._instance.case
        created = {step.domain for step in case.steps if isinstance(step, CreateStep) and step.errno is None}
        self._command("reset", None, case.line)
        for command in self._probes.loads():
            self._command(command, None, case.line)
        for name, spec in self._instance.domains.items():
            if name not in created:
                self._create(spec, None, case.line)
        for step in case.steps:
            self._step(step)
        race = self._race(case.race) if case.race is not None else None
        storm = self._storm(case.storm) if case.storm is not None else None
        before: list[Phase] = []
        if race is not None or storm is not None:
            self._flush()
            before, self._phases = self._phases, before
        for name, model in self._models.items():
            # A storm leaves an unknown number of empty tables.
            if storm is None or storm.domain != name:
                self._check(name, model, case.line, self._hand.get(name))
        for name in self._hand:
            if name not in self._models:
                raise self._error(case.line, f"`dump` names domain {name}, which does not exist at the end")
        self._sample()
        self._flush()
        if race is None and storm is None:
            return Plan(self._instance, tuple(self._phases))
        return Plan(self._instance, tuple(before), race, storm, tuple(self._phases))

    def _begin(self) -> None:
        self._lines: list[str] = []
        self._expect: dict[int, Expectation] = {}
        self._access: list[Access] = []
        self._checks: list[Check] = []
        self._reads: list[ReadCheck] = []
        self._streams: list[StreamCheck] = []
        self._dma: list[Dma] = []
        self._samples: list[Sample] = []
        self._plugs: list[Plug] = []
        self._losses = Losses(self._attached)

    def _looks(self) -> bool:
        """Whether the phase has reads or checks already, so that a command begins the next phase."""
        return bool(self._access or self._checks or self._reads or self._streams or self._dma or self._samples)

    def _flush(self) -> None:
        if self._plugs or self._lines or self._looks():
            script = "".join(f"{line}\n" for line in self._lines)
            followed = tuple(self._access), tuple(self._checks), tuple(self._reads)
            hardware = tuple(self._streams), tuple(self._dma), tuple(self._samples)
            after = self._losses.of_phase(), tuple(self._attached.items())
            self._phases.append(Phase(tuple(self._plugs), script, self._expect, *followed, *hardware, *after))
        self._begin()

    def _error(self, line: int, message: str) -> ScenarioError:
        return ScenarioError(self._instance.path, line, f"{self._instance.id}: {message}")

    def _command(self, text: str, errno: str | None, line: int) -> None:
        if self._looks():
            self._flush()
        self._lines.append(f"? {text}" if errno else text)
        self._expect[len(self._lines)] = Expectation(text, errno, line)

    def _step(self, step: Step) -> None:
        if isinstance(step, MapStep):
            self._map(step)
        elif isinstance(step, UnmapStep):
            self._unmap(step)
        elif isinstance(step, CreateStep):
            self._create(self._instance.domains[step.domain or ""], step.errno, step.line)
        elif isinstance(step, DestroyStep):
            self._command(f"destroy {step.domain}", step.errno, step.line)
            if step.errno is None:
                self._model(step)
                del self._models[step.domain or ""]
        elif isinstance(step, (AttachStep, DetachStep, ReplaceStep, ResetStep, PlugStep)):
            self._devices(step)
        elif isinstance(step, CheckStep):
            for name in (step.domain,) if step.domain else tuple(self._models):
                self._check(name, self._model(step, name), step.line, None)
        elif isinstance(step, ReadStep):
            self._model(step)
            self._reads.append(ReadCheck(step.domain or "", step.file, step.how, step.line, step.same))
        elif isinstance(step, ExpectStep):
            row = Access(step.domain or "", step.file or "", step.path or "", step.action, step.want, step.line)
            self._access.append(row)
        elif isinstance(step, StreamStep):
            self._streams.append(StreamCheck(step.device, step.config, step.on, step.present, step.line))
        elif isinstance(step, DmaStep):
            self._dma.append(self._transfer(step))
        elif isinstance(step, ProbeStep):
            self._probe(step)

    def _devices(self, step: Step) -> None:
        """Steps that change the attachment of devices."""
        if isinstance(step, AttachStep):
            for device in step.devices:
                self._command(f"attach {step.domain} {device}", step.errno, step.line)
                if step.errno is None:
                    self._attached[device] = step.domain or ""
        elif isinstance(step, DetachStep):
            for device in step.devices:
                self._command(f"detach {device}", step.errno, step.line)
                if step.errno is None:
                    self._attached.pop(device, None)
        elif isinstance(step, ReplaceStep):
            self._command(f"replace {step.domain} {step.device}", step.errno, step.line)
            if step.errno is None:
                self._attached[step.device] = step.domain or ""
        elif isinstance(step, ResetStep):
            self._command("reset", None, step.line)
            self._models.clear()
            self._attached.clear()
        elif isinstance(step, PlugStep):
            if self._lines or self._looks():
                self._flush()
            self._plugs.append(Plug(step.device, step.add, step.line))
            self._attached.pop(step.device, None)
            for command in self._probes.plugged(step):
                self._command(command, None, step.line)

    def _probe(self, step: ProbeStep) -> None:
        """The tables in memory are compared before the transfers: what then goes wrong is not the table's fault."""
        for device in step.devices:
            if device in self._attached:
                self._check(self._attached[device], self._model(step, self._attached[device]), step.line, None)
        try:
            self._dma += self._probes.transfers(step, self._attached, self._models, self._instance.domains)
        except ValueError as problem:
            raise self._error(step.line, str(problem)) from None

    def _transfer(self, step: DmaStep) -> Dma:
        """The model determines the target of the transfer; the scenario determines its result."""
        domain = self._attached.get(step.device)
        if domain is None:
            raise self._error(step.line, f"{step.device} is not attached to a domain here")
        model = self._model(step, domain)
        spec = self._instance.domains[domain]
        end = formats.get(spec.config.format).aperture(spec.config)[1] + 1
        iova = self._amount(step.iova, spec, step.line, end)
        row = next((row for row in model.snapshot().ranges if row.first <= iova <= row.last), None)
        if step.event is None and (row is None or iova + step.size - 1 > row.last):
            raise self._error(step.line, f"0x{iova:x} is not mapped, so the transfer cannot succeed")
        oa = None if row is None else row.oa + iova - row.first
        return Dma(step.device, step.write, iova, step.size, step.event, oa, step.line)

    def _sample(self) -> None:
        """At the end, transfers check every domain that a device can use."""
        busy = set(self._attached)
        for name, model in self._models.items():
            spec = self._instance.domains[name]
            devices = [device for device, domain in self._attached.items() if domain == name]
            if spec.device is None or not (devices or spec.device not in busy):
                continue
            device, limit = (devices[0], SAMPLES) if devices else (spec.device, SAMPLES_UNATTACHED)
            touched = any(isinstance(step, (DmaStep, ProbeStep)) for step in self._instance.case.steps)
            sample = Sample(name, device, model.snapshot(), bool(devices), limit, self._instance.line, touched)
            self._samples.append(sample)

    def _create(self, spec: DomainSpec, errno: str | None, line: int) -> None:
        self._command(spec.command, errno, line)
        if errno is None:
            if spec.name in self._models:
                raise self._error(line, f"domain {spec.name} already exists")
            self._models[spec.name] = TableModel(spec.config)

    def _model(self, step: Step, name: str | None = None) -> TableModel:
        name = name or step.domain or ""
        if name not in self._models:
            raise self._error(step.line, f"domain {name} does not exist here")
        return self._models[name]

    def _amount(self, amount: Amount, spec: DomainSpec, line: int, end: int, size: int = 0) -> int:
        value = amount.value(spec.config, end, size)
        if not 0 <= value < 1 << 64:
            raise self._error(line, f"{amount.text} is outside 64 bits")
        return value

    def _map(self, step: MapStep) -> None:
        spec = self._instance.domains[step.domain or ""]
        end = formats.get(spec.config.format).aperture(spec.config)[1] + 1
        size = self._amount(step.size, spec, step.line, end)
        istep = self._amount(step.istep, spec, step.line, end) if step.istep else size
        pstep = self._amount(step.pstep, spec, step.line, end) if step.pstep else size
        iova = self._amount(step.iova, spec, step.line, end, istep * (step.count - 1) + size)
        pa = self._amount(step.pa, spec, step.line, 1 << spec.config.oas, pstep * (step.count - 1) + size)
        pa = scratch_of(self._instance, pa)
        leaf = self._amount(step.leaf, spec, step.line, end) if step.leaf else None
        if step.remap:
            self._unmap(UnmapStep(step.line, step.domain, iova=step.iova, size=step.size))
        text = f"map {step.domain} 0x{iova:x} 0x{pa:x} 0x{size:x} {_letters(step.prot)}"
        text += f" leaf=0x{leaf:x}" if leaf is not None else ""
        if step.count > 1:
            text += f" count={step.count}"
            text += f" istep=0x{istep:x}" if istep != size else ""
            text += f" pstep=0x{pstep:x}" if pstep != size else ""
        self._command(text, step.errno, step.line)
        if step.errno is None:
            model = self._model(step)
            used = self._losses.using(step.domain or "")
            before = model.snapshot() if used else None
            try:
                for index in range(step.count):
                    model.map(iova + index * istep, pa + index * pstep, size, step.prot, leaf)
            except MappingError as problem:
                raise self._error(step.line, f"the kernel would refuse `{text}`: {problem}") from None
            if before is not None:
                self._losses.add(step.domain or "", step.line, before, model.snapshot(), ())

    def _unmap(self, step: UnmapStep) -> None:
        spec = self._instance.domains[step.domain or ""]
        end = formats.get(spec.config.format).aperture(spec.config)[1] + 1
        size = self._amount(step.size, spec, step.line, end)
        istep = self._amount(step.istep, spec, step.line, end) if step.istep else size
        iova = self._amount(step.iova, spec, step.line, end, istep * (step.count - 1) + size)
        leaf = self._amount(step.leaf, spec, step.line, end) if step.leaf else None
        text = f"unmap {step.domain} 0x{iova:x} 0x{size:x}"
        text += f" leaf=0x{leaf:x}" if leaf is not None else ""
        if step.count > 1:
            text += f" count={step.count}" + (f" istep=0x{istep:x}" if istep != size else "")
        self._command(text, step.errno, step.line)
        if step.errno is None:
            model = self._model(step)
            used = self._losses.using(step.domain or "")
            before = model.snapshot() if used else None
            try:
                for index in range(step.count):
                    model.unmap(iova + index * istep, size, leaf)
            except MappingError as problem:
                raise self._error(step.line, f"the kernel would refuse `{text}`: {problem}") from None
            if before is not None:
                firsts = [iova + index * istep for index in range(step.count)]
                spans = [(first, first + size - 1) for first in firsts]
                self._losses.add(step.domain or "", step.line, before, model.snapshot(), spans)

    def _race(self, spec: RaceSpec) -> RacePlan:
        """Compile a race; during its steps, the models have the state of each moment."""
        self._flush()
        done, self._phases = self._phases, []
        model = self._named(spec.domain, spec.line)
        table = self._instance.domains[spec.domain]
        end = formats.get(table.config.format).aperture(table.config)[1] + 1
        hold = spec.hold
        iova = self._amount(hold.iova, table, hold.line, end) if hold.iova is not None else 0
        states = [model.snapshot().ranges]
        steps: list[RaceStep] = []
        for one in spec.meanwhile:
            if steps and steps[-1].blocked and not steps[-1].wait:
                raise self._error(one.line, "no step can follow a blocked one: it holds the test module's lock")
            if one.step is not None:
                self._step(one.step)
                self._flush()
            ends = spec.domain not in self._models or self._models[spec.domain] is not model
            states.append(() if ends else model.snapshot().ranges)
            after = states[-1] if states[-1] != states[-2] else None
            steps.append(RaceStep(one.line, tuple(self._phases), after, ends, one.step is None, one.blocked))
            self._phases = []
        self._phases = done
        for stretch in self._instance.case.stays:
            self._hold_stretch(stretch, table, end, states, stays=True)
        for stretch in self._instance.case.never:
            self._hold_stretch(stretch, table, end, states, stays=False)
        where = Hold(hold.at, iova, hold.level, hold.how, hold.timeout)
        return RacePlan(spec.line, spec.domain, spec.file, spec.size, where, states[0], tuple(steps))

    def _hold_stretch(
        self, stretch: Stretch, spec: DomainSpec, end: int, states: Sequence[tuple[Range, ...]], stays: bool
    ) -> None:
        """Check the stretches of `stays` and `never` against the model at every moment of the race."""
        size = self._amount(stretch.size, spec, stretch.line, end)
        first = self._amount(stretch.iova, spec, stretch.line, end, size)
        seen = [_within(ranges, first, first + size - 1) for ranges in states]
        if not stays and any(seen):
            raise self._error(stretch.line, f"0x{first:x} is mapped at some time of the race")
        if stays and (len(set(seen)) > 1 or sum(last - begin + 1 for begin, last, _ in seen[0]) != size):
            raise self._error(stretch.line, f"0x{first:x} is not mapped, or changes, during the race")

    def _storm(self, spec: StormSpec) -> StormPlan:
        model = self._named(spec.domain, spec.line)
        table = self._instance.domains[spec.domain]
        end = formats.get(table.config.format).aperture(table.config)[1] + 1
        cell = self._amount(spec.cell, table, spec.line, end)
        gap = self._amount(spec.gap, table, spec.line, end) if spec.gap else 0
        iova = self._amount(spec.iova, table, spec.line, end, (gap or cell) * (spec.cells - 1) + cell)
        storm = Storm(iova, cell, spec.cells, gap, spec.mappers, spec.operations, spec.seed)
        storm = replace(storm, pause=round(spec.pause * 1e6))
        if spec.readers:
            storm = replace(storm, readers=tuple(Reader(file, size) for file, size in spec.readers))
        ranges = model.snapshot().ranges
        if _within(ranges, iova, iova + (gap or cell) * (spec.cells - 1) + cell - 1) and not gap:
            raise self._error(spec.line, "the cells of a storm must not be mapped when it begins")
        return StormPlan(spec.line, spec.domain, storm, ranges)

    def _named(self, name: str, line: int) -> TableModel:
        if name not in self._models:
            raise self._error(line, f"domain {name} does not exist here")
        return self._models[name]

    def _check(self, name: str, model: TableModel, line: int, hand: tuple[HandLine, ...] | None) -> None:
        expected = model.snapshot()
        if hand is not None:
            self._hold(name, expected, hand)
        done = [check for check in self._checks if check.domain == name]
        if done and (hand is None or done[0].hand is not None):
            return  # nothing has happened since
        self._checks = [check for check in self._checks if check.domain != name]
        self._checks.append(Check(name, expected, line, hand))

    def _hold(self, name: str, expected: Expected, hand: tuple[HandLine, ...]) -> None:
        """Check the hand-written lines against the model: they must agree."""
        for row, want in zip(hand, expected.ranges, strict=False):
            have = row.range
            same = (have.first, have.last, have.oa, have.level, have.leaf, have.prot)
            if same != (want.first, want.last, want.oa, want.level, want.leaf, want.prot) or (
                row.flags and have.flags != want.flags
            ):
                wanted = " ".join(render_range(want).split())
                raise self._error(row.line, f"this line of domain {name} is not what the model expects: {wanted}")
        if len(hand) != len(expected.ranges):
            line = hand[-1].line if hand else self._instance.line
            raise self._error(
                line,
                f"the model has {len(expected.ranges)} ranges in domain {name}, the hand-written dump has {len(hand)}",
            )


def _within(ranges: Sequence[Range], first: int, last: int) -> tuple[tuple[int, int, Range], ...]:
    """Return the mappings from ``first`` to ``last``: each overlap, with the line as it would be if it began there."""
    return tuple(
        (
            max(row.first, first),
            min(row.last, last),
            # Neighbours of a stretch may change: only the stretch itself counts.
            replace(row, first=max(row.first, first), last=min(row.last, last), oa=row.oa + max(first - row.first, 0)),
        )
        for row in ranges
        if row.first <= last and first <= row.last
    )


def _letters(prot: Prot) -> str:
    return str(prot).replace("-", "") or "-"
