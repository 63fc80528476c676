# SPDX-License-Identifier: GPL-2.0-only
"""What a test needs of the machine, and is skipped without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.settings import Settings
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.scenario import load
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


@pytest.mark.parametrize(
    ("where", "machine"),
    [
        ("formats: [amdv1]", "mine"),
        ("stages: [s1]", "smmuv3"),
        ("formats: [amdv1], machines: [smmuv3s1]", "mine"),
        ("formats: [amdv1], machines: [smmuv3, smmuv3s1]", "smmuv3"),
        ("formats: [amdv1], needs: {machine: smmuv3}", "smmuv3"),
        ("formats: [amdv1], needs: {devices: [edu0]}", "smmuv3"),
    ],
)
def test_software_tables_run_on_any_machine(where: str, machine: str, tmp_path: Path) -> None:
    path = tmp_path / "a.iommu.yaml"
    path.write_text(f"suite: a\ncases:\n  - {{name: b, rules: [RNG-1], {where}, do: [{{check: {{}}}}]}}\n")
    settings = Settings("qemu", tmp_path, machines=("mine", "other"))
    run = cast("Run", SimpleNamespace(settings=settings))
    assert Run.key(run, load(path).instances[0]) == Key(machine, "plain")
