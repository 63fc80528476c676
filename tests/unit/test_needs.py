# SPDX-License-Identifier: GPL-2.0-only
"""What a test needs of the machine, and is skipped without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.session.run import Run

KEY = Key("smmuv3", "plain")


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("10.0.2", "machine smmuv3 has no testdev0 with QEMU 10.0.2 (on PATH)"),
        ("11.1.3", None),
        # A recording: made with a QEMU that had it, or the test is not in it.
        ("", None),
    ],
)
def test_a_device_that_only_a_newer_qemu_has(version: str, missing: str | None) -> None:
    kernel = SimpleNamespace(qemu=Qemu((), version, origin="on PATH"), config=None)
    run = cast("Run", SimpleNamespace(machine=machines.get, kernels={KEY: kernel} if version else {}))
    assert Run.lacks(run, KEY, ["edu0", "testdev0"]) == missing
    assert (Run.lacks(run, KEY, ["edu9", "edu1"]) or "").startswith("machine smmuv3 has no edu9")
