# SPDX-License-Identifier: GPL-2.0-only
"""A human in the guest: the same machine and kernel as the tests have, with busybox on the console.

pexpect only passes a stream on here; it logs in for the serial target (targets/console_shell.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_iommu.commands import with_pytest
from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pytest_iommu.session.run import Run
    from pytest_iommu.targets.qemu import Boot

USED = (*with_pytest.KERNEL, "machine", "flavour", "image", "modules", "qemu", "append", "qemu-arg")
HINT = "Ctrl-A X ends the guest; Ctrl-A C is QEMU's monitor."
CONSOLE = (
    *("-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"),
    *("-mon", "chardev=console,mode=readline"),
)


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("shell", help="Open a shell in the guest that tests run in.", description=HINT)
    with_pytest.add_options(parser, *USED)
    parser.set_defaults(run=partial(with_pytest.call, command=shell))


def shell_command(boot: Boot, tree: str = "") -> list[str]:
    """QEMU's command line for a guest whose console is our terminal; its agent is not connected.

    ``tree`` is the path of the board's device tree where it is not QEMU's own.
    """
    append = " ".join(filter(None, [boot.append, "iommu.shell=1"]))
    return replace(boot, append=append).command(CONSOLE, tree=tree)


def shell(run: Run) -> int:
    """Boot the guest of the first machine and flavour that were chosen, on this terminal."""
    from pytest_iommu.images import Progress, prepare
    from pytest_iommu.targets.qemu import boot_of

    key = run.allowed[0]
    machine = run.machine(key.machine)
    made = prepare(run.settings, machine, key.flavour, Progress(sys.stderr), shell=True)
    print(made.describe(), flush=True)
    return interact(boot_of(run.settings, machine, made))


def interact(boot: Boot) -> int:
    """Boot a guest on this terminal and return QEMU's exit status. SetupError without a terminal or setpriv."""
    import pexpect

    if not sys.stdin.isatty():
        raise SetupError("a shell needs a terminal, and stdin is not one")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SetupError("setpriv (util-linux) is not on PATH: QEMU could outlive us")
    print(HINT, flush=True)
    size = shutil.get_terminal_size()
    board = boot.device_tree()
    with tempfile.NamedTemporaryFile(prefix="pytest-iommu-", suffix=".dtb") as tree:
        tree.write(board or b"")
        tree.flush()
        child = pexpect.spawn(
            setpriv,
            ["--pdeathsig", "KILL", *shell_command(boot, tree.name if board else "")],
            env={**os.environ, **boot.env},
            dimensions=(size.lines, size.columns),
        )
        try:
            # Without an escape character of its own every key goes to the guest, Ctrl-] as well.
            child.interact(escape_character=None)
        finally:
            child.close(force=True)
    return int(child.exitstatus or 0)
