# SPDX-License-Identifier: GPL-2.0-only
"""Run generated scenarios on a guest, each in one round trip, and report the smallest one that fails.

The batch that creates a domain also reads its files. Domain ids are assigned in order, so the next id follows from the
last one. If the guess was wrong, the files are read again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_iommu.check import directory, reading
from pytest_iommu.check.generate.drawn import Action
from pytest_iommu.check.generate.resolve import resolve
from pytest_iommu.check.generate.written import Variant, written
from pytest_iommu.check.reading import Compared, ignore_comparison
from pytest_iommu.core.outcomes import CheckFailed, IommuError
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest.testmodule import command_ops, parse_status, status_text

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.scenario import Instance, Phase

NAME = "generated.iommu.yaml"
RULES = ("TAB-1", "TAB-2", "TAB-3", "TAB-4", "RNG-1", "RNG-2", "RNG-3", "LVL-1", "LVL-2", "PRT-1", "ENT-1", "ENT-2")
"""The rules that generated scenarios test."""
TIMEOUT = 20.0


class ScenarioGuest(Protocol):
    """What a search needs of a guest; check.handles.GuestHandle provides it."""

    @property
    def dialect_or_none(self) -> Dialect: ...
    @property
    def in_ram(self) -> InRam | None: ...
    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply: ...


class Ended(BaseException):
    """The guest is gone or the test is skipped, so there is nothing to shrink. Passes through hypothesis."""

    def __init__(self, cause: BaseException, text: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.text = text


@dataclass(slots=True)
class Search:
    """A search for failing scenarios of one variant. ``folder`` holds the current scenario file."""

    guest: ScenarioGuest
    variant: Variant
    machine: str
    folder: Path
    compared: Compared = ignore_comparison
    #: makes an instance fit the guest's domains
    place: Callable[[Instance], Instance] = field(default=lambda instance: instance)
    executed: int = 0
    _verdicts: dict[str, CheckFailed | None] = field(default_factory=dict)
    _failed: tuple[str, CheckFailed] | None = None
    _last_id: int | None = None

    def run(self, examples: int, seed: int, again: str = "") -> None:
        """Run ``examples`` scenarios. CheckFailed with the smallest one that fails; other exceptions pass unchanged.

        ``again`` is the line that tells how to generate the same scenarios again.
        """
        from pytest_iommu.check.generate.strategies import search

        config = self._config()
        # one seed per variant, so that they do not all try the same
        own = zlib.crc32(f"{seed} {self.variant.id}".encode())
        try:
            search(lambda actions: self._example(config, actions), examples, own, self.folder)
        except CheckFailed:
            pass
        except Ended as ended:
            if isinstance(ended.cause, IommuError):
                ended.cause.message += f"\n\nThe scenario that was running:\n\n{ended.text}\n{again}"
            raise ended.cause from None
        if self._failed is not None:
            raise self._shown(*self._failed, again) from None

    def execute(self, text: str) -> CheckFailed | None:
        """Run one scenario file on the guest and return its failure, if any. Raises skips and the end of the guest."""
        from pytest_iommu.scenario import compile_plan, load

        path = self.folder / NAME
        path.write_text(text, encoding="utf-8")
        (instance,) = load(path).instances
        (phase,) = compile_plan(self.place(instance)).phases
        self.executed += 1
        guessed = str(self._last_id + 1) if self._last_id is not None else "-"
        jobs = self._jobs(phase, guessed)
        results = self._send([*command_ops(phase.script), *_ops(jobs)])
        files = {"commands.txt": phase.script.encode(), NAME: text.encode()}
        status = status_text(results[:2])
        wrong = self._refused(phase, status, files)
        if wrong is not None:
            return wrong
        made = [row.values["id"] for row in parse_status(status).values() if "id" in row.values]
        ids = {check.domain: made[0] if made else directory.NONE for check in phase.checks}
        number = next(iter(directory.find(self._send, self.guest.dialect_or_none, ids).values()), directory.NONE)
        self._last_id = int(number) if number.isdecimal() else None
        read = results[2:]
        if number != guessed:
            jobs = self._jobs(phase, number)
            read = self._send(_ops(jobs))
        problems: list[CheckFailed] = []
        for job in jobs:
            problems += job.judge(read[: len(job.ops)], files)
            read = read[len(job.ops) :]
        return reading.joined(problems, files) if problems else None

    def _config(self) -> TableConfig:
        """Return the configuration of the variant's table on this machine."""
        from pytest_iommu.scenario import load

        path = self.folder / NAME
        path.write_text(written(self.variant, self.machine, RULES[:1], []), encoding="utf-8")
        (instance,) = load(path).instances
        return self.place(instance).domains["d"].config

    def _example(self, config: TableConfig, actions: list[Action]) -> None:
        text = written(self.variant, self.machine, RULES, resolve(config, actions))
        if text not in self._verdicts:
            try:
                self._verdicts[text] = self.execute(text)
            except BaseException as error:
                # also pytest's skip, but not an interrupt by the user
                raise error if isinstance(error, KeyboardInterrupt) else Ended(error, text) from None
        verdict = self._verdicts[text]
        if verdict is not None:
            self._failed = text, verdict
            raise verdict

    def _jobs(self, phase: Phase, number: str) -> list[reading.Job]:
        ids = {check.domain: number for check in phase.checks}
        unmapped = frozenset(ids) if "\nunmap " in phase.script else frozenset()
        where = reading.Where(ids, self.guest.dialect_or_none, self.guest.in_ram, unmapped)
        return [reading.check_job(check, where, self.compared) for check in phase.checks]

    def _send(self, batch: Sequence[Op]) -> Sequence[Result]:
        return self.guest.run(batch, TIMEOUT).results

    def _refused(self, phase: Phase, status: str, files: reading.Files) -> CheckFailed | None:
        """Return the failure of a command, if any; skips if this kernel does not support the table."""
        import pytest

        from pytest_iommu.scenario import command_failure

        lines = phase.script.splitlines()
        for number, row in parse_status(status).items():
            if row.errno == "EOPNOTSUPP" and lines[number - 1].startswith("domain"):
                pytest.skip(f"this kernel cannot execute it: {lines[number - 1]}: {row.message}")
        files["status.txt"] = status.encode()
        return command_failure(phase, status, files)

    def _shown(self, text: str, error: CheckFailed, again: str) -> CheckFailed:
        """Return the failure for the report: with the scenario, limited to the rules that it breaks."""
        fails = self.execute(text) is not None
        named = [rule for rule in error.rules if rule]
        text = text.replace(f"rules: [{', '.join(RULES)}]", f"rules: [{', '.join(named or RULES)}]")
        parts = [
            error.message,
            f"the smallest failing scenario of {self.executed} that were run (it also runs as a *.iommu.yaml file):",
            text.rstrip(),
            again,
        ]
        if not fails:
            parts.insert(1, "It passed when it was run again: the failure depends on more than the scenario.")
        return error.told("\n\n".join(parts), {NAME: text.encode()})


def _ops(jobs: Sequence[reading.Job]) -> list[Op]:
    return [op for job in jobs for op in job.ops]
