# SPDX-License-Identifier: GPL-2.0-only
"""Every key of a scenario file changes what is seen of it, and is in docs/scenarios.md.

The keys are taken from the reader itself: a new one without a row in scenario_changes.py fails here.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recording import ENOENT, TruthfulKernel, as_it_is
from scenario_changes import CHANGES

from pytest_iommu import conformance
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.core.settings import Settings
from pytest_iommu.core.yaml_reader import Fields, Value
from pytest_iommu.dialects import DIALECTS
from pytest_iommu.guest.ops import Code
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.scenario import Instance, ScenarioError, compile_plan, load
from pytest_iommu.scenario.steps import READERS
from pytest_iommu.session.collect import ScenarioItem
from pytest_iommu.session.run import RUN, Run
from pytest_iommu.targets.registry import BUILTIN

MANUAL = Path(__file__).parents[2] / "docs" / "scenarios.md"
PLANNED = (
    *("race", "reader", "hold", "wait", "a step meanwhile", "storm", "a reader of a storm"),
    *("check", "read", "how", "dma", "probe", "expect"),
)
"""Contexts that the kernel of these tests cannot act out: there the compiled plan has to differ."""


class Traced(TruthfulKernel):
    """Answers as the model says, and notes all that it is asked."""

    def __init__(self, instance: Instance, trace: list[object]) -> None:
        super().__init__(as_it_is, {})
        self.expect(instance)
        self._trace = trace
        self.devices = SimpleNamespace(
            add=lambda device: trace.append(("add", device)), remove=lambda device: trace.append(("remove", device))
        )

    def run(self, ops: Any, timeout: float = 10.0) -> Reply:
        self._trace.append((timeout, [(op.code, op.path, op.data) for op in cast("list[Op]", ops)]))
        return super().run(ops, timeout)

    def _one(self, op: Op) -> Result:
        known = (op.code == Code.LIST and op.path == DEBUGFS) or op.code == Code.READ_FILE
        if known or (op.code == Code.WRITE_FILE and op.path.startswith(MODULE)):
            return super()._one(op)
        return Result(ENOENT)


@pytest.fixture
def recorded_fields(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Context -> keys, of all mappings that the reader reads of scenario files from now on."""
    found: dict[str, set[str]] = {}
    original = Value.fields

    def fields(self: Value, known: Any, what: str) -> Fields:
        if self.path.name.endswith(".iommu.yaml"):
            found.setdefault(context_of(what, known), set()).update(known)
        return original(self, known, what)

    monkeypatch.setattr(Value, "fields", fields)
    return found


def context_of(what: str, known: Any) -> str:
    if what.startswith("domain "):
        return "domain"
    return "a reader of a storm" if what == "reader" and "cpu" not in known else what


def seen(folder: Path, text: str, planned: bool) -> list[object]:
    """What comes of a scenario file: its tests, what they ask of a guest, and how they end; or the mistake in it."""
    path = folder / "x.iommu.yaml"
    path.write_text(text)
    found: list[object] = []
    try:
        suite = load(path)
        for instance in suite.instances:
            plan = compile_plan(instance)
            found += [suite.name, instance.id, instance.rules]
            found += [repr((plan.phases, plan.race, plan.storm, plan.after))] if planned else []
            found += run(folder, instance)
    except ScenarioError as error:
        found.append(error.message)
    return found


def run(folder: Path, instance: Instance) -> list[object]:
    trace: list[object] = []
    kernel_config = folder / "config"
    kernel_config.write_text("CONFIG_MEMCG=y\n")
    hook = SimpleNamespace(
        pytest_iommu_machines=lambda config: [[machines.get(name) for name in machines.names()]],
        pytest_iommu_dialects=lambda config: [DIALECTS],
        pytest_iommu_targets=lambda config: [BUILTIN],
        pytest_iommu_guest_started=lambda guest: trace.append("boot"),
    )
    config = SimpleNamespace(hook=hook, stash={})
    chosen = Settings("qemu", folder, folder, folder, machines=("smmuv3",), flavours=("plain", "debug"))
    mine = Run(cast(Any, config), chosen)
    config.stash[RUN] = mine
    kernel = SimpleNamespace(qemu=Qemu((), "10.0.2", origin=""), config=kernel_config, reference=False)
    mine.kernels = {key: cast(Any, kernel) for key in mine.allowed}
    mine.pool._start = lambda key: Traced(instance, trace)
    item: Any = SimpleNamespace(
        config=config,
        instance=instance,
        files={},
        user_properties=[],
        ihook=SimpleNamespace(pytest_iommu_compared=lambda **_: None),
    )
    item.key = lambda: mine.key(instance)
    trace.append(item.key())
    try:
        ScenarioItem.setup(item)
        mine.pool.take(item.key())  # somebody was here before
        ScenarioItem.runtest(item)
    except (pytest.skip.Exception, CheckFailed, SetupError) as error:
        trace.append(f"{type(error).__name__}: {error}")
    return trace


@pytest.mark.parametrize(("context", "key"), CHANGES, ids=["-".join(pair).replace(" ", "_") for pair in CHANGES])
def test_a_key_changes_what_is_seen(tmp_path: Path, context: str, key: str) -> None:
    first, second = (seen(tmp_path, text, context in PLANNED) for text in CHANGES[context, key])
    assert first != second
    assert "has no key" not in f"{first} {second}"


def test_every_key_has_a_row(tmp_path: Path, recorded_fields: dict[str, set[str]]) -> None:
    for path in sorted((Path(conformance.__file__).parent / "scenarios").glob("*.iommu.yaml")):
        load(path)
    for pair in CHANGES.values():
        for text in pair:
            seen(tmp_path, text, False)
    known = {(context, key) for context, keys in recorded_fields.items() for key in keys}
    known.add(("a step meanwhile", "blocked"))  # taken out before the step is read
    assert known == set(CHANGES)


def test_the_manual_has_every_key() -> None:
    text = MANUAL.read_text()
    words = set(re.findall(r"[\w-]+", text.partition("## Python")[0]))
    assert {key for _, key in CHANGES} <= words
    first = {name: _first_column(text, name) for name in ("## A case", "## Steps", "## Races")}
    assert first["## A case"] == {key for context, key in CHANGES if context == "a case"} - {"stays", "never"}
    assert first["## Steps"] == set(READERS)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for step in READERS:
        told = " ".join(row for row in rows if step in re.findall(r"\w+", row.split("|")[1]))
        keys = {key for context, key in CHANGES if context == step} - {"domain", "errno"}
        assert keys <= set(re.findall(r"\w+", told)), step
    assert first["## Races"] == {"domain", "reader", "hold", "meanwhile", "stays", "never"}


def _first_column(text: str, section: str) -> set[str]:
    """The words of the first column of a section's table; `check: {...}` is check, `hold: at` is hold."""
    rows = text.partition(f"{section}\n")[2].partition("\n## ")[0].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| ")][1:]
    return {word.partition(":")[0].strip() for cell in cells for word in cell.split(",")}
