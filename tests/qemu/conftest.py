# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the qemu target with a real QEMU and kernel: run with --iommu-target=qemu, else skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.virtual import VirtualGuest
from pytest_iommu.session.lifecycle import key_of
from pytest_iommu.session.run import RUN
from pytest_iommu.targets.qemu import Boot, QemuTarget, boot_of


@pytest.fixture
def boot(iommu_guest: object, request: pytest.FixtureRequest) -> Boot:
    """How the run's guests are started; asking for iommu_guest has the kernel prepared, or skips."""
    run = request.config.stash[RUN]
    if run.settings.target != "qemu":
        pytest.skip("needs --iommu-target=qemu")
    key = key_of(request.node)
    run.pool.pause()
    return boot_of(run.settings, run.machine(key.machine), run.kernels[key.kernel], key.boot_mode)


@pytest.fixture
def guest(boot: Boot) -> Iterator[VirtualGuest]:
    """A guest of our own, to be mistreated."""
    made = QemuTarget(boot).start()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of pytest that a test starts is no worker of this one."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
        monkeypatch.delenv(name)
