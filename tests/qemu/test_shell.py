# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu shell``, as a human has it: the guest's console on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pexpect
import pytest

from pytest_iommu.guest.shell import parse, shell_command
from pytest_iommu.settings import Settings
from pytest_iommu.targets.qemu import Boot


def test_a_shell_in_the_guest(boot: Boot, iommu_settings: Settings) -> None:
    if iommu_settings.offline:
        pytest.skip("a shell's busybox may have to be fetched, --iommu-offline")
    try:
        for end in os.openpty():
            os.close(end)
    except OSError as error:
        pytest.skip(f"a shell needs a terminal: {error}")
    arguments = [word for word in iommu_settings.given if not word.startswith("--iommu-target")]
    child = pexpect.spawn(
        sys.executable, ["-m", "pytest_iommu.cli", "shell", *arguments], timeout=180, encoding="utf-8"
    )
    try:
        child.expect("Run /init as init process")
        child.expect(r"# ")
        child.sendline('ls /sys/kernel/debug/iommu_ptdump_test; echo do"ne"')
        child.expect("control")
        child.expect("done")
        child.send("\x01x")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0


def test_the_same_guest_as_tests_have(boot: Boot) -> None:
    command = shell_command(boot)
    assert boot.machine.qemu_machine in " ".join(command)
    assert [word for word in command if "iommu.shell=1" in word]
    for device in boot.machine.devices:
        assert (device.argument in command) is not device.hotplug


def test_options_are_those_of_pytest() -> None:
    assert parse(["--iommu-append=quiet"]) == parse(["--append=quiet"])
    several = parse(["--iommu-machine=smmuv3,smmuv3ids", "--iommu-flavour=plain,debug"])
    assert (several.machine, several.flavour) == ("smmuv3", "plain")


def test_without_a_terminal_it_says_so() -> None:
    code = (
        "from pytest_iommu.guest import shell\n"
        "from pytest_iommu.outcomes import SetupError\n"
        "try: shell.interact(None)\n"
        "except SetupError as error: print(error)\n"
    )
    argv = [sys.executable, "-c", code]
    said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "needs a terminal" in said.stdout
