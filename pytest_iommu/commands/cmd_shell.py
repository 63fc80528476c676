# SPDX-License-Identifier: GPL-2.0-only
"""A human in the guest: the same machine and kernel as the tests have, with busybox on the console.

pexpect serves here, where there is only a stream to be passed on; no prompt is ever parsed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.session.options import OPTIONS

if TYPE_CHECKING:
    from pytest_iommu.targets.qemu import Boot

USED = (
    *("machine", "flavour", "kernel", "image", "modules", "cache", "qemu", "config", "append", "qemu-arg", "make-arg"),
    "offline",
)
HINT = "Ctrl-A X ends the guest; Ctrl-A C is QEMU's monitor."
CONSOLE = (
    *("-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"),
    *("-mon", "chardev=console,mode=readline"),
)


def shell_command(boot: Boot, tree: str = "") -> list[str]:
    """QEMU's command line for a guest whose console is our terminal; its agent has nobody to talk to.

    ``tree`` is the path of the board's device tree where it is not QEMU's own.
    """
    append = " ".join(filter(None, [boot.append, "iommu.shell=1"]))
    return replace(boot, append=append).command(CONSOLE, tree=tree)


def main(argv: Sequence[str]) -> int:
    """``pytest-iommu shell``: options as pytest's, with or without their ``--iommu-``."""
    from pytest_iommu.core import machines
    from pytest_iommu.images import Progress, prepare
    from pytest_iommu.targets.qemu import boot_of

    settings = parse(argv)
    machine = machines.get(settings.machine)
    made = prepare(settings, machine, settings.flavour, Progress(sys.stderr), shell=True)
    print(made.describe(), flush=True)
    return interact(boot_of(settings, machine, made))


def parse(argv: Sequence[str]) -> Settings:
    """The settings of a shell: pytest's options where they mean something here."""
    parser = argparse.ArgumentParser(prog="pytest-iommu shell", description=HINT)
    for option in OPTIONS:
        if option.name not in USED:
            continue
        flags = (f"--{option.name}", option.flag)
        if option.kind == "flag":
            parser.add_argument(*flags, dest=option.key, action="store_true", help=option.help)
        elif option.kind in ("list", "paths"):
            kind = Path if option.kind == "paths" else str
            parser.add_argument(*flags, dest=option.key, action="append", default=[], type=kind, help=option.help)
        else:
            kind = Path if option.kind == "path" else str
            default = option.default if option.kind == "text" else None
            parser.add_argument(*flags, dest=option.key, default=default, type=kind, help=option.help)
    given = parser.parse_args(argv)
    here = Path.cwd()
    return Settings(
        target="qemu",
        cache=paths.require_cache(given.iommu_cache or paths.default_cache()),
        where=here,
        folder=here,
        # As a run's: of several, the first is the default.
        machines=tuple(given.iommu_machine.split(",")),
        flavours=tuple(given.iommu_flavour.split(",")),
        kernel=given.iommu_kernel,
        image=given.iommu_image,
        modules=given.iommu_modules,
        qemu=given.iommu_qemu,
        config=tuple(given.iommu_config),
        append=given.iommu_append,
        qemu_args=tuple(given.iommu_qemu_arg),
        make_args=tuple(given.iommu_make_arg),
        offline=given.iommu_offline,
    )


def interact(boot: Boot) -> int:
    """Boot a guest on this terminal and return QEMU's exit status. SetupError without a terminal or setpriv."""
    import pexpect

    if not sys.stdin.isatty():
        raise SetupError("a shell needs a terminal; stdin is none")
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
