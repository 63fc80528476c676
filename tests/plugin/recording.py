# SPDX-License-Identifier: GPL-2.0-only
"""Makes recordings for the replay target: what a kernel, without faults or with one, answers to scenarios."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_iommu.check.runner import Scenario
from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, IommuError
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.guest.ops import Code
from pytest_iommu.guest.testmodule import MODULE
from pytest_iommu.oracle.lookups import answer
from pytest_iommu.scenario import Instance, Phase, compile_plan, load
from pytest_iommu.targets.recording import Recorder, begin

Alter = Callable[[str, str, str], str]
"""(case, file, text) -> what the kernel says instead."""

ENOENT, EIO, EINVAL = -2, -5, -22


class TruthfulKernel:
    """A guest that answers as the model says; ``alter`` makes it lie, ``endings`` (case -> outcome) makes it die."""

    name = "truthful"
    memory = None

    def __init__(self, alter: Alter, endings: Mapping[str, IommuError]) -> None:
        self._alter = alter
        self._endings = endings
        self._ids: dict[str, str] = {}
        self._next = 0
        self._status = b""
        self._texts: dict[str, dict[str, str]] = {}
        self._mapped: dict[str, Sequence[Range]] = {}
        self._case = ""
        self._phases: list[Phase] = []

    def expect(self, instance: Instance) -> None:
        """The scenario that comes next."""
        self._case = instance.case.name
        self._phases = list(compile_plan(instance).phases) * instance.repeat

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        if self._case in self._endings and any(op.code == Code.WRITE_FILE for op in ops):
            raise self._endings[self._case]
        return Reply(tuple(self._one(op) for op in ops))

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass

    def evidence(self) -> Evidence:
        return Evidence()

    def _one(self, op: Op) -> Result:
        if op.code == Code.LIST:
            return Result(1, b"domains/")
        if op.code == Code.WRITE_FILE and not op.path.startswith(MODULE):
            return Result(EINVAL)  # LAY-5
        if op.code == Code.WRITE_FILE:
            self._command(op.data.decode())
            return Result(len(op.data))
        if op.path.endswith("/status"):
            return Result(len(self._status), self._status)
        number, file = op.path.split("/")[-2:]
        texts = next((texts for name, texts in self._texts.items() if self._ids.get(name) == number), None)
        if op.code != Code.READ_FILE or texts is None:
            return Result(ENOENT)
        data = self._alter(self._case, file, texts[file]).encode()
        return Result(len(data), data)

    def _command(self, script: str) -> None:
        if script.startswith(("dma ", "probe ")):
            # transfers, which nobody judges where there is no memory to look into
            self._status = "".join(f"{number} ok\n" for number, _ in enumerate(script.splitlines(), 1)).encode()
            return
        if script.startswith("translate "):
            self._status = "".join(f"{self._translate(line)}\n" for line in enumerate(script.splitlines(), 1)).encode()
            return
        phase = self._phases.pop(0)
        assert phase.script == script
        rows = []
        for number, want in phase.expect.items():
            made = re.match(r"domain (\S+)", want.text)
            if want.text == "reset":
                self._ids.clear()
            if made and want.errno is None:
                self._next += 1
                self._ids[made[1]] = str(self._next)
            tail = f" id={self._next}" if made else ""
            rows.append(f"{number} error {want.errno} refused\n" if want.errno else f"{number} ok{tail}\n")
        self._status = "".join(rows).encode()
        self._texts = {check.domain: render(check.expected.dump()) for check in phase.checks}
        self._mapped = {check.domain: check.expected.ranges for check in phase.checks}

    def _translate(self, line: tuple[int, str]) -> str:
        """What iova_to_phys() says; it does not lie where a dump does."""
        number, (_, domain, *iovas) = line[0], line[1].split()
        mapped = self._mapped.get(domain, ())
        return f"{number} ok pa={','.join(f'{answer(mapped, int(iova, 0)):#x}' for iova in iovas)}"


def as_it_is(case: str, file: str, text: str) -> str:
    """A kernel without faults."""
    return text


def record(
    directory: Path,
    scenarios: Path,
    alter: Alter = as_it_is,
    endings: Mapping[str, IommuError] | None = None,
    flavour: str = "plain",
    worker: str = "main",
) -> None:
    """Record what the kernel answers to every scenario of a file."""
    begin(directory)
    recorder = Recorder(directory, worker, test=str)  # nobody's: for whichever test asks
    kernel = TruthfulKernel(alter, endings or {})
    for instance in load(scenarios).instances:
        key = Key(instance.machine, flavour)
        guest = recorder.watch(kernel, key)
        kernel.expect(instance)
        guest.run([Op(Code.LIST, path="/sys/kernel/debug/iommu")])
        try:
            Scenario(instance, guest, machines.get(instance.machine), IO_PTDUMP).execute()
        except (CheckFailed, IommuError):
            pass  # that is what is to be replayed
    recorder.close()
