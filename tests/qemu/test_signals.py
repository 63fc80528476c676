# SPDX-License-Identifier: GPL-2.0-only
"""A signal ends a run with guests: they are gone, and nothing is left in the directory for temporary files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_iommu.core.settings import Settings
from pytest_iommu.targets.qemu import Boot

TEST = """
import os, pathlib, signal, time

def test_it(iommu_guest):
    pathlib.Path("qemu").write_text(str(iommu_guest._guest.child.pid))
    os.kill(os.{process}(), signal.{name})
    while True:
        signal.pause()  # until the controller ends this worker
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("workers", "process"), [("-n0", "getpid"), ("-n2", "getppid"), ("-n2", "getpid")])
def test_no_guest_is_left(
    boot: Boot,
    pytester: pytest.Pytester,
    iommu_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    workers: str,
    process: str,
    name: str,
) -> None:
    pytester.makepyfile(TEST.format(process=process, name=name))
    temporary = pytester.mkdir("tmp")
    monkeypatch.setenv("TMPDIR", str(temporary))
    there_too = [word for word in iommu_settings.given if not word.startswith(("--iommu-target=", "--iommu-machine="))]
    options = ("--iommu-target=qemu", *there_too, f"--iommu-cache={iommu_settings.cache}", "--iommu-json=r.json")
    result = pytester.runpytest_subprocess(*options, workers)
    assert result.ret in (2, 129, 143)
    assert not Path("/proc", (pytester.path / "qemu").read_text()).exists()
    assert list(temporary.iterdir()) == []
    told = json.loads((pytester.path / "r.json").read_text())
    assert {test["id"]: test["kind"] for test in told["tests"] if test["outcome"] == "failed"}[
        "pytest-iommu::run"
    ] == "interrupted"
