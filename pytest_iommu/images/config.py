# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration: combined fragments, and a check that the kernel accepted them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_iommu.core import flavours
from pytest_iommu.core.machines import Machine
from pytest_iommu.core.outcomes import SetupError

_SET = re.compile(r"^CONFIG_(\w+)=(.*)$")
_NOW = {"PROC_SYSCTL": "SYSCTL"}
"""Symbols renamed in newer kernels; a fragment sets both names."""
_UNSET = re.compile(r"^# CONFIG_(\w+) is not set$")


def parse(path: Path) -> dict[str, str]:
    """Return a fragment's symbols, without CONFIG_; ``n`` if unset. SetupError with file and line for other text."""
    symbols = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        line = line.rstrip()
        if found := _SET.match(line):
            symbols[found[1]] = found[2]
        elif found := _UNSET.match(line):
            symbols[found[1]] = "n"
        elif line and not line.startswith("#"):
            raise SetupError(f"{path}:{number}: neither CONFIG_<symbol>=<value> nor a comment: {line!r}")
    return symbols


def merged(machine: Machine, flavour: str, extra: Sequence[Path]) -> dict[str, str]:
    """The machine's fragments, the flavour's on top, the user's last. SetupError when the flavour is unknown."""
    symbols: dict[str, str] = {}
    for path in [*map(flavours.shipped, machine.config), flavours.fragment(flavour), *extra]:
        symbols.update(parse(path))
    return symbols


def text(symbols: Mapping[str, str]) -> str:
    """Render as a file for KCONFIG_ALLCONFIG."""
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"
        for name, value in sorted(symbols.items())
    )


def not_taken(wanted: Mapping[str, str], config: Path) -> list[str]:
    """Return the symbols that Kconfig did not accept: unknown ones, or ones with a missing dependency."""
    have = parse(config)
    lost = {name for name, value in wanted.items() if have.get(name, "n") != value}
    return sorted(name for name in lost if _NOW.get(name) not in wanted.keys() - lost)
