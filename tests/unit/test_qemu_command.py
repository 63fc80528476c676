# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line, as a boot mode asks for it."""

from __future__ import annotations

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.boot_modes import BOOT_MODES
from pytest_iommu.targets.qemu import Boot


@pytest.mark.parametrize(
    ("mode", "icount", "accel"),
    [
        ("functional", "shift=2,sleep=off", None),
        ("races", None, None),
        ("held", None, "tcg,thread=single"),
        ("counted", "shift=0,sleep=off", None),
    ],
)
def test_which_threads_run_the_processors(mode: str, icount: str | None, accel: str | None) -> None:
    """An icount has one thread by itself; vCPUs of guests for storms have one each, which is QEMU's default."""
    argv = Boot(machines.get("smmuv3"), ["qemu"], "Image", "initrd", boot_mode=BOOT_MODES[mode]).command(())
    assert (after(argv, "-icount"), after(argv, "-accel")) == (icount, accel)


@pytest.mark.parametrize(
    ("mode", "counted"),
    [("functional", True), ("counted", True), ("lockdown", True), ("races", False), ("held", False)],
)
@pytest.mark.parametrize("machine", ["vtd", "vtdsm2", "amd"])
def test_words_for_a_clock_of_instructions_are_for_no_other(machine: str, mode: str, counted: bool) -> None:
    """Where time is the host's, Linux on x86 may use the local APIC's timer."""
    boot = Boot(machines.get(machine), ["qemu"], "Image", "initrd", boot_mode=BOOT_MODES[mode])
    assert ("noapictimer" in boot.words.split()) == counted == bool(boot.icount)


def after(argv: list[str], option: str) -> str | None:
    """The value of an option."""
    return argv[argv.index(option) + 1] if option in argv else None
