# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu shell``, as a human has it: the guest's console on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest

from pytest_iommu.commands.cmd_shell import shell_command
from pytest_iommu.core.settings import Settings
from pytest_iommu.targets.qemu import Boot


@pytest.fixture
def shell(boot: Boot, iommu_settings: Settings) -> Iterator[pexpect.spawn]:
    """A shell whose prompt has come; all that was shown before is in ``before``."""
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
        child.expect(r"\n[^\n]*# ")
        yield child
    finally:
        child.close(force=True)


def test_a_shell_says_where_things_are(shell: pexpect.spawn) -> None:
    greeting = shell.before
    for words in (
        "/sys/kernel/debug/iommu/domains/ID/{info,page_table,entries,stats}",
        "/sys/kernel/debug/iommu_ptdump_test/control",
        "exit, Ctrl-D or poweroff",
    ):
        assert words in greeting
    # What it says can be typed.
    tries = [line.partition("  ")[2].strip() for line in greeting.splitlines() if "  " in line]
    for line in (line.removeprefix("to try it").strip() for line in tries):
        if line.startswith(("cd ", "echo ", "cat ")):
            shell.sendline(line)
    shell.sendline('echo do"ne"')
    shell.expect("0x0000000000001000-0x0000000000001fff 0x0000000041000000 ")
    shell.expect("done")
    assert "error" not in shell.before


@pytest.mark.parametrize("leave", ["exit\n", "\x04", "poweroff\n", "reboot\n", "\x01x"])
def test_the_guest_ends_with_its_shell(shell: pexpect.spawn, leave: str) -> None:
    shell.send(leave)
    shell.expect(pexpect.EOF, timeout=60)
    shell.close()
    assert shell.exitstatus == 0


def test_the_same_guest_as_tests_have(boot: Boot) -> None:
    command = shell_command(boot)
    assert boot.machine.qemu_machine in " ".join(command)
    assert [word for word in command if "iommu.shell=1" in word]
    for device in boot.machine.devices:
        assert (device.argument in command) is not device.hotplug


def test_without_a_terminal_it_says_so() -> None:
    code = (
        "from pytest_iommu.commands import cmd_shell as shell\n"
        "from pytest_iommu.core.outcomes import SetupError\n"
        "try: shell.interact(None)\n"
        "except SetupError as error: print(error)\n"
    )
    argv = [sys.executable, "-c", code]
    said = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "needs a terminal" in said.stdout
