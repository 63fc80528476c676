# SPDX-License-Identifier: GPL-2.0-only
"""Shards: by machine and flavour, about 25 items each, every test in exactly one."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from pytest_iommu.session import scheduler
from pytest_iommu.session.collect import guest_of
from pytest_iommu.session.scheduler import PYTHON_SHARD, SHARD, WORKER, fitting, next_scope, scopes
from pytest_iommu.targets.qemu import HEADROOM


def ids(count: int, variant: str, file: str = "a/ranges.iommu.yaml") -> list[str]:
    return [f"{file}::ranges::case-{number}[{variant}]" for number in range(count)]


def test_the_guest_of_a_node_id() -> None:
    assert guest_of("x.iommu.yaml::ranges::case[smmuv3-s1-4k]") == "smmuv3"
    assert guest_of("x.iommu.yaml::ranges::case[smmuv3-amdv1-levels2@debug]") == "smmuv3@debug"


def test_one_machine_gives_work_to_several_workers() -> None:
    sizes = Counter(scopes(ids(SHARD * 2 + 1, "smmuv3-s1-4k")).values())
    assert sorted(sizes.values()) == [1, SHARD, SHARD]


def test_stages_share_a_guest_and_flavours_do_not() -> None:
    found = scopes([*ids(2, "smmuv3-s1-4k"), *ids(2, "smmuv3-s2-4k"), *ids(1, "smmuv3-s1-4k@debug")])
    assert len(set(found.values())) == 2


def test_shards_run_across_files() -> None:
    assert len(set(scopes([*ids(3, "smmuv3-s1"), *ids(3, "smmuv3-s1", "b.iommu.yaml")]).values())) == 1


def test_tests_in_python_are_shards_of_their_file() -> None:
    files = [f"t/test_{name}.py::test_{number}" for name in "ab" for number in range(PYTHON_SHARD + 1)]
    found = scopes(files)
    assert Counter(found.values()) == {
        "t/test_a.py 0": PYTHON_SHARD,
        "t/test_a.py 1": 1,
        "t/test_b.py 0": PYTHON_SHARD,
        "t/test_b.py 1": 1,
    }


def test_a_program_of_the_kselftest_is_one_piece_of_work() -> None:
    files = [f"c/k.iommu-ksft::{program}::case-{number}" for program in ("a", "b.sh") for number in range(SHARD * 3)]
    assert Counter(scopes(files).values()) == {"c/k.iommu-ksft::a": SHARD * 3, "c/k.iommu-ksft::b.sh": SHARD * 3}


def test_the_first_verdicts_are_scenarios_and_long_work_comes_next() -> None:
    """Two workers that take what is next until nothing is left."""
    queue = ["c/k.iommu-ksft::a", "c/k.iommu-ksft::b", "smmuv3 0", "t/a.py 0", "smmuv3 1", "t/a.py 1", "smmuv3 2"]
    taken = []
    while queue:
        taken.append(next_scope(queue, taken[-2] if len(taken) > 1 else ""))
        queue.remove(taken[-1])
    assert taken == [
        *("smmuv3 0", "smmuv3 1", "c/k.iommu-ksft::b", "c/k.iommu-ksft::a"),
        *("t/a.py 1", "t/a.py 0", "smmuv3 2"),
    ]
    assert next_scope(["t/a.py 0", "t/a.py 1"], "") == "t/a.py 1"
    assert next_scope(["c/k.iommu-ksft::a"], "") == "c/k.iommu-ksft::a"


def test_a_worker_stays_with_its_machine() -> None:
    """One that has no more work there goes to the machine of which most is left."""
    queue = ["vtd 0", "amd 0", "riscv 0", "vtd 1", "amd 1", "vtd 2", "riscv 1", "vtd 3", "riscv 2", "vtd 4"]
    taken: list[str] = []
    while queue:
        taken.append(next_scope(queue, taken[-2] if len(taken) > 1 else ""))
        queue.remove(taken[-1])
    assert taken[:5] == [f"vtd {number}" for number in range(5)]
    assert taken[5:] == ["riscv 0", "amd 0", "riscv 1", "amd 1", "riscv 2"]


def test_workers_are_as_many_as_there_is_memory_for() -> None:
    guest = 512 << 20
    one = WORKER + 2 * (guest + HEADROOM)
    assert fitting(8, None, guest) == 8
    assert fitting(8, 100 * one, guest) == 8
    assert fitting(8, 3 * one, guest) == 3
    assert fitting(8, 3 * one - 1, guest) == 2
    assert fitting(8, 0, guest) == 1


@pytest.mark.parametrize(
    ("target", "machines", "named", "workers"),
    [
        ("qemu", "small", "", 3),
        ("qemu", "small,large", "", 1),
        ("qemu", "small", "7", 64),
        ("replay:x", "small", "", 64),
        ("", "small", "", 64),
    ],
)
def test_auto_asks_what_the_machines_take(
    monkeypatch: pytest.MonkeyPatch, target: str, machines: str, named: str, workers: int
) -> None:
    small, large = 256 << 20, 1 << 30
    monkeypatch.setattr(scheduler, "available_memory", lambda: 3 * (WORKER + 2 * (small + HEADROOM)))
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    if named:
        monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", named)
    found = [[SimpleNamespace(name="small", memory=small), SimpleNamespace(name="large", memory=large)]]
    config = SimpleNamespace(
        getoption={"iommu_target": target, "iommu_machine": None}.get,
        getini={"iommu_target": "", "iommu_machine": machines}.get,
        hook=SimpleNamespace(pytest_iommu_machines=lambda config: found),
    )
    assert scheduler.auto_workers(config, 64) == workers  # type: ignore[arg-type]
