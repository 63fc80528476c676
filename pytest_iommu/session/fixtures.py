# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures for tests in Python: a guest, domains in it, their dumps, and the check that all witnesses agree.

Every project where this package is installed imports this file; what a fixture needs is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.check.iommu_handle import Domain, Iommu
    from pytest_iommu.check.races.race import Race
    from pytest_iommu.core.model import Dump
    from pytest_iommu.core.settings import Settings
    from pytest_iommu.scenario.race_words import Hold
    from pytest_iommu.session.run import Run


def _run(config: pytest.Config) -> Run:
    """This process's Run, also for a fixture that a test asks for while it runs."""
    from pytest_iommu.session.activation import activate
    from pytest_iommu.session.run import RUN

    activate(config)
    return config.stash[RUN]


@pytest.fixture(scope="session")
def iommu_settings(pytestconfig: pytest.Config) -> Settings:
    """What the user chose; frozen."""
    return _run(pytestconfig).settings


@pytest.fixture
def iommu_guest(request: pytest.FixtureRequest) -> GuestHandle:
    """A live guest of this worker: ``run(batch)``, ``read(path)``, ``console``, ``fresh()``.

    One that crashes, hangs or is tainted is replaced before the next test.
    """
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.session import marks
    from pytest_iommu.session.lifecycle import key_of
    from pytest_iommu.session.run import NO_TARGET

    item = request.node
    run = _run(request.config)
    if run.settings.target is None:
        pytest.skip(NO_TARGET)
    key = key_of(item)
    if key.kernel not in run.allowed:
        pytest.skip(f"needs {key}: --iommu-machine={key.machine} --iommu-flavour={key.flavour}")
    needs = marks.needs_of(item)
    reason = run.lacks(key, needs.devices, needs.config)
    if reason:
        pytest.skip(reason)
    handle = GuestHandle(run, key, fresh=marks.fresh(item))
    if needs.dialect is not None and not run.dialects.chosen(needs.dialect):
        pytest.skip(f"needs dialect {needs.dialect}: --iommu-dialect leaves it out")
    if needs.dialect in {one.name for one in run.dialects.texts}:
        if needs.dialect not in {one.name for one in handle.spoken}:
            pytest.skip(f"needs dialect {needs.dialect}, of which this kernel has no files")
    elif needs.dialect is not None and needs.dialect != handle.dialect.name:
        pytest.skip(f"needs dialect {needs.dialect}, this kernel speaks {handle.dialect.name}")
    return handle


@pytest.fixture
def iommu(iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> Iterator[Iommu]:
    """Makes domains in the guest; at the end everything it made is freed, and must be gone from debugfs."""
    from pytest_iommu.check.iommu_handle import Iommu
    from pytest_iommu.session.hookcalls import listener

    made = Iommu(iommu_guest, listener(request.node))
    yield made
    made.finish()


@pytest.fixture
def iommu_dump(iommu: Iommu) -> Callable[[Domain], Dump]:
    """Reads and parses everything that a domain's directory says."""
    return iommu.dump


@pytest.fixture
def iommu_check(iommu: Iommu) -> Callable[[Domain], None]:
    """Compares a domain's dump with what its mappings must look like; fails with the rule's id."""
    return iommu.check


@pytest.fixture
def iommu_race(iommu: Iommu, iommu_guest: GuestHandle) -> Callable[..., Race]:
    """Holds a reader of a domain: ``with iommu_race(domain, Hold("leaf-loaded", 0x1000)) as race: race.unmap(...)``.

    ``file`` and ``chunk`` say what it reads, and how many bytes a read(2). The test is marked
    ``iommu_boot_mode("held")``.
    """

    def start(domain: Domain, hold: Hold, file: str = "page_table", chunk: int = 0) -> Race:
        from pytest_iommu.check.races.race import Race

        return Race(iommu_guest, iommu, domain, hold, file, chunk)

    return start
