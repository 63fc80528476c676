# SPDX-License-Identifier: GPL-2.0-only
"""Generated scenarios: they can all be run, are the same everywhere, and what fails becomes a small file that fails."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from buggy_kernel import Item, each, joins
from model_guest import ModelGuest

from pytest_iommu.check.generate.drawn import Action
from pytest_iommu.check.generate.drive import NAME, OF_TABLES, Search
from pytest_iommu.check.generate.resolve import DrawnStep, resolve
from pytest_iommu.check.generate.written import VARIANTS, Variant, shares, written
from pytest_iommu.check.runner import Scenario
from pytest_iommu.core import machines
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.core.outcomes import CheckFailed, KernelCrash
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.guest.ops import Code
from pytest_iommu.oracle import MappingError, TableModel
from pytest_iommu.scenario import Instance, compile_plan, load

pytest.importorskip("hypothesis")
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
software = pytest.mark.parametrize(
    "variant", [one for one in VARIANTS if not one.attached], ids=lambda variant: variant.id
)
S1, AMD, X86 = VARIANTS[0], VARIANTS[2], VARIANTS[4]


def config_of(variant: Variant, folder: Path) -> TableConfig:
    path = folder / NAME
    path.write_text(written(variant, "smmuv3", OF_TABLES[:1], []))
    return load(path).instances[0].domains["d"].config


def searching(guest: ModelGuest, variant: Variant, folder: Path) -> Search:
    """A search on a guest without an IOMMU."""

    def judge(instance: Instance) -> None:
        Scenario(instance, cast(Any, guest), machines.get("smmuv3"), IO_PTDUMP).execute()

    return Search(judge, variant, "smmuv3", folder)


def drawn(examples: int, seed: int, folder: Path) -> list[list[Action]]:
    from pytest_iommu.check.generate.strategies import search

    found: list[list[Action]] = []
    search(found.append, examples, seed, folder)
    return found


def carried_out(config: TableConfig, steps: Sequence[DrawnStep]) -> TableModel:
    """The steps in a model, written independently of the resolver."""
    model = TableModel(config)
    for step in steps:
        errno = None
        try:
            for iova, pa in step.calls():
                if step.word in ("unmap", "remap"):
                    model.unmap(iova, step.size, step.leaf)
                if step.pa is not None:
                    model.map(iova, pa, step.size, Prot.from_letters(step.prot or ""), step.leaf)
        except MappingError as refused:
            errno = refused.errno
        assert errno == step.errno
    return model


@every_variant
def test_the_file_says_what_was_generated(variant: Variant, tmp_path: Path) -> None:
    config = config_of(variant, tmp_path)
    path = tmp_path / NAME
    for actions in drawn(12, 3, tmp_path):
        steps = resolve(config, actions)
        path.write_text(written(variant, "smmuv3", OF_TABLES, steps))
        (instance,) = load(path).instances
        phase = compile_plan(instance).phases[-1]
        (check,) = phase.checks
        assert instance.case.rules == OF_TABLES
        assert check.expected == carried_out(config, steps).snapshot()
        refused = [want.errno for want in phase.expect.values() if want.errno]
        assert refused == [step.errno for step in steps if step.errno]


@software
def test_a_sound_kernel_passes(variant: Variant, tmp_path: Path) -> None:
    search = searching(ModelGuest(config_of(variant, tmp_path)), variant, tmp_path)
    search.run(8, 1)
    assert search.executed >= 7


def test_what_is_generated_is_worth_it(tmp_path: Path) -> None:
    """Most scenarios fill more than a batch and more than one line, and some commands are refused."""
    config = config_of(S1, tmp_path)
    scenarios = [resolve(config, actions) for actions in drawn(60, 1, tmp_path)]
    tables = [carried_out(config, steps).snapshot() for steps in scenarios]
    assert sum(len(table.entries) > 64 for table in tables) > 25
    assert sum(len(table.ranges) > 1 for table in tables) > 36
    assert {step.word for steps in scenarios for step in steps} == {"map", "unmap", "remap"}
    assert {step.errno for steps in scenarios for step in steps} >= {None, "EEXIST", "ENOENT", "EINVAL", "ERANGE"}
    last = (1 << config.ias) - 1
    assert sum(any(run.last == last for run in table.runs) for table in tables) > 6
    assert all(sum(run.count for run in table.runs) <= 720 for table in tables)


def ends_at_a_batch(before: Item, size: int, after: Item) -> bool:
    return after.index % 64 != 0 and joins(before, size, after)


def last_page_lost(items: list[Item]) -> list[Item]:
    return [item for item in items if item.last not in ((1 << 47) - 1, (1 << 64) - 1)]


def block_at_level_0(item: Item) -> Item:
    return replace(item, level=0) if item.size == 2 << 20 else item


def always_writable(item: Item) -> Item:
    return replace(item, prot=replace(item.prot, write=True))


def run_by_hand(path: Path, guest: ModelGuest) -> CheckFailed:
    """What the runner of scenario files says of this one."""
    (instance,) = load(path).instances
    with pytest.raises(CheckFailed) as failed:
        Scenario(instance, cast(Any, guest), machines.get("smmuv3"), IO_PTDUMP).execute()
    return failed.value


@pytest.mark.parametrize(
    ("rule", "faults", "steps"),
    [
        ("RNG-3", {"join": ends_at_a_batch}, 2),
        ("RNG-1", {"fault": last_page_lost}, 1),
        ("LVL-1", {"fault": each(block_at_level_0)}, 1),
        ("PRT-1", {"fault": each(always_writable)}, 1),
    ],
)
def test_a_fault_is_found_and_becomes_a_small_file(
    rule: str, faults: dict[str, Callable[..., Any]], steps: int, tmp_path: Path
) -> None:
    config = config_of(X86, tmp_path)
    search = searching(ModelGuest(config, **faults), X86, tmp_path)
    with pytest.raises(CheckFailed) as failed:
        search.run(shares(300)[X86.id], 100, "generated by --iommu-seed=100")
    assert failed.value.rules == (rule,)
    text = failed.value.files[NAME].decode()
    assert text.rstrip() in failed.value.message
    assert failed.value.message.endswith("generated by --iommu-seed=100")

    path = tmp_path / "pasted.iommu.yaml"
    path.write_text(text)
    (case,) = load(path).cases
    assert case.rules == (rule,)
    assert len(case.steps) <= steps, text
    again = run_by_hand(path, ModelGuest(config, **faults))
    assert (again.rules, again.related) == (failed.value.rules, failed.value.related)


def test_a_refusal_that_is_another_one_fails(tmp_path: Path) -> None:
    class Lenient(ModelGuest):
        def _change(self, word: str, plain: list[str], options: dict[str, int]) -> None:
            try:
                super()._change(word, plain, options)
            except MappingError as error:
                if error.errno != "EEXIST":
                    raise

    search = searching(Lenient(config_of(X86, tmp_path)), X86, tmp_path)
    with pytest.raises(CheckFailed, match="got success, expected EEXIST") as failed:
        search.run(38, 1)
    assert failed.value.files[NAME].count(b"map: ") == 2


def test_a_kernel_that_dies_is_not_asked_again(tmp_path: Path) -> None:
    class Mortal(ModelGuest):
        def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
            if self.batches == 4:
                raise KernelCrash("kernel BUG at mm/slub.c")
            return super().run(batch, timeout)

    guest = Mortal(config_of(X86, tmp_path))
    with pytest.raises(KernelCrash) as crashed:
        searching(guest, X86, tmp_path).run(38, 1, "generated by --iommu-seed=1")
    assert crashed.value.message.startswith("kernel BUG at mm/slub.c\n")
    assert "suite: generated" in crashed.value.message
    assert crashed.value.message.endswith("generated by --iommu-seed=1")
    assert guest.batches == 4


def test_a_table_that_a_kernel_does_not_have_is_skipped(tmp_path: Path) -> None:
    class Without(ModelGuest):
        def _one(self, op: Op) -> Result:
            text = b"1 ok\n2 error EOPNOTSUPP no CONFIG_AMD_IOMMU\n"
            return Result(len(text), text) if op.code != Code.WRITE_FILE else Result(1)

    with pytest.raises(pytest.skip.Exception, match="cannot execute it: domain d .*: no CONFIG_AMD_IOMMU"):
        searching(Without(config_of(AMD, tmp_path)), AMD, tmp_path).run(20, 1)


def digest(seed: int, folder: Path) -> str:
    config = config_of(AMD, folder)
    texts = [written(AMD, "smmuv3", OF_TABLES, resolve(config, actions)) for actions in drawn(40, seed, folder)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def test_a_seed_gives_the_same_in_every_process(tmp_path: Path) -> None:
    program = f"import test_generate, pathlib; print(test_generate.digest(5, pathlib.Path({str(tmp_path)!r})))"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == digest(5, tmp_path) != digest(6, tmp_path)


@pytest.mark.parametrize("examples", [0, 1, 13, 300, 5000])
def test_examples_are_dealt_out(examples: int) -> None:
    dealt = shares(examples)
    assert sum(dealt.values()) == examples
    assert dealt["s1"] == dealt["s2"] or examples == 1
    assert max(dealt.values()) <= 2 * min(dealt.values()) + 2


def test_nothing_is_left_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, elsewhere = tmp_path / "here", tmp_path / "there"
    inside.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(inside)
    guest = ModelGuest(config_of(X86, elsewhere), join=ends_at_a_batch)
    with pytest.raises(CheckFailed):
        searching(guest, X86, elsewhere).run(38, 100)
    assert not list(inside.iterdir())
