# SPDX-License-Identifier: GPL-2.0-only
"""An instance -> what is to be done: commands of the test module, and what is compared after them.

A phase is one write to the module's control file and what is read after it. Mistakes that only the model can see (a map
over a mapping without ``errno``, a hand-written line that the model contradicts) are ScenarioErrors here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_iommu import formats
from pytest_iommu.model import Prot
from pytest_iommu.oracle import Expected, MappingError, TableModel
from pytest_iommu.scenario.amount import Amount
from pytest_iommu.scenario.reader import ScenarioError
from pytest_iommu.scenario.schema import (
    AttachStep,
    CheckStep,
    CreateStep,
    DestroyStep,
    DetachStep,
    DomainSpec,
    ExpectStep,
    HandLine,
    Instance,
    MapStep,
    ReadHow,
    ReadStep,
    ResetStep,
    Step,
    UnmapStep,
)

_STATUS = re.compile(r"(\d+) (?:ok\b.*|error (\w+)\s*(.*))")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a command must give: ``errno`` by name, or None for success. ``line`` is that of the scenario."""

    text: str
    errno: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Check:
    """Compare a domain's dump with ``expected``; ``hand`` are the hand-written lines, where the case has some."""

    domain: str
    expected: Expected
    line: int
    hand: tuple[HandLine, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadCheck:
    """Read a file of a domain in that way; the pieces must be those of one plain read."""

    domain: str
    file: str
    how: ReadHow
    line: int
    same: bool = True


@dataclass(frozen=True, slots=True)
class Access:
    """Try an access; ``want`` is `ok`, an errno's name, `true` or `false` (exists), or an octal mode.

    ``path`` is absolute, or empty: then it is ``file`` of ``domain``, or without file the domain's directory.
    """

    domain: str
    file: str
    path: str
    action: str
    want: str
    line: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One write of ``script`` (may be empty) to the control file, then the access, checks and reads."""

    script: str
    expect: dict[int, Expectation]
    access: tuple[Access, ...]
    checks: tuple[Check, ...]
    reads: tuple[ReadCheck, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All phases of an instance, in order. The first begins with `reset`."""

    instance: Instance
    phases: tuple[Phase, ...]


def compile_plan(instance: Instance) -> Plan:
    """What to do for an instance. ScenarioError where the scenario contradicts the model."""
    return _Compiler(instance).plan()


def verify_status(phase: Phase, text: str) -> list[str]:
    """What differs between the module's status file and the phase's expectations, a message each."""
    outcomes: dict[int, tuple[str | None, str]] = {}
    for row in text.splitlines():
        match = _STATUS.fullmatch(row)
        if match is not None:
            outcomes[int(match[1])] = (match[2], match[3] or "")
    wrong: list[str] = []
    for number, want in phase.expect.items():
        errno, message = outcomes.get(number, ("none", "was not executed"))
        if errno != want.errno:
            got = f"{errno} ({message})" if errno else "success"
            wrong.append(f"line {want.line}: `{want.text}` gives {got}, should give {want.errno or 'success'}")
    return wrong


class _Compiler:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._models: dict[str, TableModel] = {}
        self._phases: list[Phase] = []
        self._hand = {name: lines for name, lines in instance.case.hand if name is not None}
        self._begin()

    def plan(self) -> Plan:
        case = self._instance.case
        created = {step.domain for step in case.steps if isinstance(step, CreateStep) and step.errno is None}
        self._command("reset", None, case.line)
        for name, spec in self._instance.domains.items():
            if name not in created:
                self._create(spec, None, case.line)
        for step in case.steps:
            self._step(step)
        for name, model in self._models.items():
            self._check(name, model, case.line, self._hand.get(name))
        for name in self._hand:
            if name not in self._models:
                raise self._error(case.line, f"`dump` is about domain {name}, which is gone at the end")
        self._flush()
        return Plan(self._instance, tuple(self._phases))

    def _begin(self) -> None:
        self._lines: list[str] = []
        self._expect: dict[int, Expectation] = {}
        self._access: list[Access] = []
        self._checks: list[Check] = []
        self._reads: list[ReadCheck] = []

    def _flush(self) -> None:
        if self._lines or self._access or self._checks or self._reads:
            script = "".join(f"{line}\n" for line in self._lines)
            followed = tuple(self._access), tuple(self._checks), tuple(self._reads)
            self._phases.append(Phase(script, self._expect, *followed))
        self._begin()

    def _error(self, line: int, message: str) -> ScenarioError:
        return ScenarioError(self._instance.path, line, f"{self._instance.id}: {message}")

    def _command(self, text: str, errno: str | None, line: int) -> None:
        if self._access or self._checks or self._reads:
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
        elif isinstance(step, AttachStep):
            for device in step.devices:
                self._command(f"attach {step.domain} {device}", step.errno, step.line)
        elif isinstance(step, DetachStep):
            for device in step.devices:
                self._command(f"detach {device}", step.errno, step.line)
        elif isinstance(step, ResetStep):
            self._command("reset", None, step.line)
            self._models.clear()
        elif isinstance(step, CheckStep):
            for name in (step.domain,) if step.domain else tuple(self._models):
                self._check(name, self._model(step, name), step.line, None)
        elif isinstance(step, ReadStep):
            self._model(step)
            self._reads.append(ReadCheck(step.domain or "", step.file, step.how, step.line, step.same))
        elif isinstance(step, ExpectStep):
            row = Access(step.domain or "", step.file or "", step.path or "", step.action, step.want, step.line)
            self._access.append(row)

    def _create(self, spec: DomainSpec, errno: str | None, line: int) -> None:
        self._command(spec.command, errno, line)
        if errno is None:
            if spec.name in self._models:
                raise self._error(line, f"domain {spec.name} is there already")
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
            try:
                for index in range(step.count):
                    model.map(iova + index * istep, pa + index * pstep, size, step.prot, leaf)
            except MappingError as problem:
                raise self._error(step.line, f"`{text}` would be refused: {problem}") from None

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
            try:
                for index in range(step.count):
                    model.unmap(iova + index * istep, size, leaf)
            except MappingError as problem:
                raise self._error(step.line, f"`{text}` would be refused: {problem}") from None

    def _check(self, name: str, model: TableModel, line: int, hand: tuple[HandLine, ...] | None) -> None:
        expected = model.snapshot()
        if hand is not None:
            self._hold(name, expected, hand)
        done = [check for check in self._checks if check.domain == name]
        if done and (hand is None or done[0].hand is not None):
            return  # nothing was done since
        self._checks = [check for check in self._checks if check.domain != name]
        self._checks.append(Check(name, expected, line, hand))

    def _hold(self, name: str, expected: Expected, hand: tuple[HandLine, ...]) -> None:
        """The hand-written lines hold the model: they must agree."""
        for row, want in zip(hand, expected.ranges, strict=False):
            have = row.range
            same = (have.first, have.last, have.oa, have.level, have.leaf, have.prot)
            if same != (want.first, want.last, want.oa, want.level, want.leaf, want.prot) or (
                row.flags and have.flags != want.flags
            ):
                raise self._error(row.line, f"this line of domain {name} is not what the model expects: {want}")
        if len(hand) != len(expected.ranges):
            line = hand[-1].line if hand else self._instance.line
            raise self._error(line, f"domain {name} has {len(expected.ranges)} ranges, not {len(hand)}")


def _letters(prot: Prot) -> str:
    return str(prot).replace("-", "") or "-"
