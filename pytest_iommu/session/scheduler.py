# SPDX-License-Identifier: GPL-2.0-only
"""Distribution over xdist workers: by machine and flavour, in shards, so that guests are reused and all cores work.

xdist's own loadgroup does nothing with pytest 9.2 (pytest-dev/pytest-xdist#1386), and one group a machine would put
a single-machine run on one worker.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from pytest_iommu.core import paths
from pytest_iommu.core.limits import available_memory
from pytest_iommu.session.collect import guest_of
from pytest_iommu.session.pool import LIMIT
from pytest_iommu.targets.qemu import HEADROOM

SHARD, PYTHON_SHARD = 25, 8
"""Items a shard, of scenarios and of tests in Python: a second's work, small against a run and large against a boot."""

WORKER = 160 << 20
"""Bytes that a worker's own process takes."""


def scopes(nodeids: Iterable[str]) -> dict[str, str]:
    """The scope of every node id: a program of the kselftest; a scenario's machine and flavour, or a test's
    file, and the shard of it.
    """
    seen: Counter[str] = Counter()
    found: dict[str, str] = {}
    for nodeid in nodeids:
        path = nodeid.partition("::")[0]
        if _of_program(nodeid):
            # One run of the program is for all of them.
            found[nodeid] = nodeid.rpartition("::")[0]
            continue
        group, size = (guest_of(nodeid), SHARD) if path.endswith(paths.SCENARIOS) else (path, PYTHON_SHARD)
        found[nodeid] = f"{group} {seen[group] // size}"
        seen[group] += 1
    return found


def fitting(workers: int, available: int | None, guest: int) -> int:
    """How many of the workers there is memory for, at least one; all sizes in bytes, ``guest`` that of the largest."""
    if available is None:
        return workers
    return max(1, min(workers, available // (WORKER + LIMIT * (guest + HEADROOM))))


def auto_workers(config: pytest.Config, cores: int) -> int:
    """The number of workers for -n auto with guests in QEMU: ``cores``, limited by memory.

    It is asked for before pytest_configure: there are no settings yet.
    """
    target = config.getoption("iommu_target") or config.getini("iommu_target")
    if target != "qemu" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return cores
    names = (config.getoption("iommu_machine") or config.getini("iommu_machine")).split(",")
    found = [machine for machines in config.hook.pytest_iommu_machines(config=config) for machine in machines]
    sizes = [machine.memory for machine in found if machine.name in [name.strip() for name in names]]
    return fitting(cores, available_memory(), max(sizes, default=0))


def _of_program(name: str) -> bool:
    """Whether a node id, or a scope, is of the kselftest."""
    return name.partition("::")[0].endswith(paths.PROGRAMS)


def next_scope(queue: Iterable[str], last: str) -> str:
    """What a worker gets next, of all that is left; ``last`` is what it has had last, empty for nothing.

    It begins with scenarios: the first verdict comes as soon as a guest has booted. Then comes what takes longest, and
    left for the end one worker would do it alone: programs of the kselftest, then tests in Python, the smallest shard
    before, for what boots another kernel or a guest of its own is among them. Of scenarios it goes on with its
    machine, or with that of which most is left: with more machines than guests of a worker each change is a boot.
    """
    left = list(queue)
    programs = [scope for scope in left if _of_program(scope)]
    files = [scope for scope in left if ".py " in scope]
    scenarios = [scope for scope in left if scope not in {*programs, *files}]
    if not scenarios or (last and (programs or files)):
        return (programs or files)[-1]
    groups = Counter(map(_group, scenarios))
    wanted = _group(last) if _group(last) in groups else max(groups, key=groups.__getitem__)
    return next(scope for scope in scenarios if _group(scope) == wanted)


def _group(scope: str) -> str:
    return scope.rpartition(" ")[0]


class GuestScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no type marker
    """LoadScopeScheduling with our scopes; a test that killed its worker is not run again."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._scopes: dict[str, str] = {}

    def schedule(self) -> None:
        """Compute the scopes once all workers agree on the collection, then distribute."""
        if self.collection is None:
            self._scopes = scopes(next(iter(self.registered_collections.values()), []))
        super().schedule()

    def _assign_work_unit(self, node: WorkerController) -> None:
        had = next(reversed(self.assigned_work.get(node, {})), "")
        self.workqueue.move_to_end(next_scope(self.workqueue, had), last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker's work back. The test it died of counts as run: it would kill the next worker as well."""
        units = self.assigned_work.get(node, {})
        pending = [(unit, nodeid) for unit in units.values() for nodeid, done in unit.items() if not done]
        if not pending:
            super().remove_node(node)
            return None
        unit, crashed = pending[0]
        unit[crashed] = True
        del self.assigned_work[node]
        self.workqueue.update({scope: unit for scope, unit in units.items() if not all(unit.values())})
        for other in self.nodes:
            self._reschedule(other)
        return str(crashed)

    def _split_scope(self, nodeid: str) -> str:
        return self._scopes.get(nodeid) or str(super()._split_scope(nodeid))
