# SPDX-License-Identifier: GPL-2.0-only
"""KVM is used where a probe guest has run under it, and not because /dev/kvm opens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.boot_modes import BOOT_MODES
from pytest_iommu.targets import kvm
from pytest_iommu.targets.qemu import Boot

RUNS = f"exit {kvm._ENDED}"
UNDER_KVM = ["-accel", kvm.KVM]


@pytest.fixture(autouse=True)
def pc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A host of the right kind, with a /dev/kvm that opens."""
    monkeypatch.setattr(kvm.platform, "machine", lambda: kvm.ARCH)
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    kvm._why_not.cache_clear()
    yield
    kvm._why_not.cache_clear()


@pytest.fixture
def boot(tmp_path: Path) -> Callable[..., Boot]:
    """How to start a guest with a QEMU that does this, and writes down what it was asked for."""

    def make(does: str, machine: str = "vtd", mode: str = "races", *arguments: str) -> Boot:
        program = tmp_path / "qemu"
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{does}\n')
        program.chmod(0o755)
        found = machines.get(machine)
        return Boot(found, [str(program)], "Image", "initrd", arguments=arguments, boot_mode=BOOT_MODES[mode])

    return make


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


def test_a_probe_guest_ran(boot: Callable[..., Boot], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It had the machine's board and processor, and is run once."""
    caplog.set_level(logging.INFO)
    made = boot(RUNS)
    assert made.clock == made.clock == UNDER_KVM
    (line,) = asked(tmp_path)
    assert f"-accel {kvm.KVM} -machine q35 -cpu max,la57=off" in line
    assert caplog.messages == ["guests run under KVM: a probe guest has run"]


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("exec sleep 60", "still runs"),
        ("echo no such processor >&2; exit 1", "ended with status 1: no such processor"),
        ("exit 0", "ended with status 0"),
    ],
    ids=["hangs", "refused", "wrong-end"],
)
def test_a_kvm_that_opens_and_does_not_work(
    does: str,
    why: str,
    boot: Callable[..., Boot],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kvm, "TIMEOUT", 0.5 if "sleep" in does else 30.0)
    caplog.set_level(logging.INFO)
    assert "-accel" not in boot(does).command(())
    (said,) = caplog.messages
    assert said.startswith("guests run under TCG: ")
    assert said.endswith(f"opens, but a guest that only has to end does not run under it: QEMU {why}")


def test_no_kvm(
    boot: Callable[..., Boot], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "none"))
    assert boot(RUNS).clock == []
    assert caplog.messages == [f"guests run under TCG: there is no {tmp_path}/none"]
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    ("machine", "mode", "arguments", "want"),
    [
        ("vtd", "functional", (), ["-icount", "shift=2,sleep=off"]),
        ("vtd", "held", (), ["-accel", "tcg,thread=single"]),
        ("smmuv3", "races", (), []),
        ("vtd", "races", ("-accel", "tcg"), []),
    ],
    ids=["counted-time", "one-thread", "another-processor", "the-user-chose"],
)
def test_what_kvm_is_not_for(
    machine: str, mode: str, arguments: tuple[str, ...], want: list[str], boot: Callable[..., Boot], tmp_path: Path
) -> None:
    assert boot(RUNS, machine, mode, *arguments).clock == want
    assert asked(tmp_path) == [], "it does not even ask"


def test_another_host(boot: Callable[..., Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.platform, "machine", lambda: "aarch64")
    assert boot(RUNS).clock == []
    assert asked(tmp_path) == []
