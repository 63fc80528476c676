# SPDX-License-Identifier: GPL-2.0-only
"""What the user chose, in one frozen object; session/options.py makes it of command line and ini file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_iommu.core.known_issues import Known

RELEASE_SEED = 100
"""What scenarios are generated from by default. It is the version (0.1.0): the same everywhere, new with a release."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the user chose. Paths are absolute; ``folder`` is where this run's artefacts go.

    ``target`` is None when no target was given, else its name, and ``target_argument`` what followed its colon.
    ``where`` is the directory that pytest was started in. ``kernel`` is the user's own tree; without one ``series`` is
    that of Debian's linux-source, e.g. ``6.12``, and is empty for the newest with hooks.
    """

    target: str | None
    cache: Path
    where: Path = Path()
    folder: Path = Path()
    target_argument: str = ""
    machines: tuple[str, ...] = ("smmuv3",)
    flavours: tuple[str, ...] = ("plain",)
    dialects: tuple[str, ...] = ()
    """The dialects that are looked for; none named: all."""
    kernel: Path | None = None
    series: str = ""
    image: Path | None = None
    modules: Path | None = None
    qemu: str = "auto"
    config: tuple[Path, ...] = ()
    append: str = ""
    qemu_args: tuple[str, ...] = ()
    make_args: tuple[str, ...] = ()
    keep: str = "failed"
    reference: str = "auto"
    offline: bool = False
    listing: bool = False
    record: Path | None = None
    strict: bool = False
    report: Path | None = None
    json: Path | None = None
    ktap: Path | None = None
    known: tuple[Known, ...] = ()
    examples: int = 300
    seed: int = RELEASE_SEED
    given: tuple[str, ...] = field(default=())
    """Our options as they were given, for the line that runs a test again."""
    program: tuple[str, ...] = ("pytest",)
    """How pytest was started."""
    pytest_options: tuple[str, ...] = ()
    """Those of pytest's own options that the same line repeats."""

    @property
    def machine(self) -> str:
        """The default machine: the first one."""
        return self.machines[0]

    @property
    def flavour(self) -> str:
        """The default kernel flavour: the first one."""
        return self.flavours[0]
