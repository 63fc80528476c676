# SPDX-License-Identifier: GPL-2.0-only
"""A guest that ended badly: what it is asked afterwards must not hide how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import CommandError, Iommu
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, KernelCrash
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.guest import ops


class Crashing:
    """A guest that crashes when it is first asked, and is closed afterwards."""

    name = "crashing"
    memory = None

    def __init__(self) -> None:
        self.asked = 0

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
        self.asked += 1
        if self.asked == 1:
            raise KernelCrash("oops", Evidence())
        raise GuestLost("the guest was closed", Evidence())


@pytest.fixture
def handle() -> GuestHandle:
    guests = SimpleNamespace(take=lambda key, fresh: Crashing())
    return GuestHandle(guests, Key("smmuv3", "plain"))  # type: ignore[arg-type]


def test_a_clean_up_does_not_hide_a_crash(handle: GuestHandle) -> None:
    with pytest.raises(KernelCrash):
        try:
            handle.run([ops.sleep(0)])
        finally:
            handle.run([ops.sleep(0)])
    assert not handle.alive


def test_a_fresh_guest_is_alive(handle: GuestHandle) -> None:
    with pytest.raises(KernelCrash):
        handle.run([ops.sleep(0)])
    handle.fresh()
    assert handle.alive
    with pytest.raises(KernelCrash):
        handle.run([ops.sleep(0)])


class Refusing:
    """A guest whose test module refuses every command in the same way."""

    name = "refusing"
    memory = None

    def __init__(self, errno: str) -> None:
        self._status = f"1 error {errno} not here\n".encode()

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
        return Reply(tuple(Result(len(self._status), self._status) for _ in batch))


@pytest.mark.parametrize(
    ("errno", "outcome"), [("EOPNOTSUPP", pytest.skip.Exception), ("ENOMEM", CommandError)], ids=["lacks", "fails"]
)
def test_a_kernel_that_lacks_a_kind_of_table_is_skipped(errno: str, outcome: type[BaseException]) -> None:
    guests = SimpleNamespace(take=lambda key, fresh: Refusing(errno), remember=lambda guest: None)
    iommu = Iommu(GuestHandle(guests, Key("smmuv3", "plain")))  # type: ignore[arg-type]
    with pytest.raises(outcome, match="domain d0 format=amdv1 .*not here"):
        iommu.table("amdv1")
