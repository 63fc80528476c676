# SPDX-License-Identifier: GPL-2.0-only
"""Which dialects there are in this run, and which of them each kernel speaks: by its files, or by its configuration."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.dialects.no_dump import NO_DUMP
from pytest_iommu.dialects.text_dialect import TextDialect
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Guest
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.session.run import Run

OWN = "io_ptdump"
"""The dialect of the reference implementation."""
OPTION = "IOMMU_PTDUMP_DEBUGFS"
"""Its option, without ``CONFIG_``."""


class Dialects:
    """The dialects of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._of: dict[Key, Dialect] = {}
        self._spoken: dict[Key, tuple[TextDialect, ...]] = {}

    @cached_property
    def _all(self) -> tuple[Dialect | TextDialect, ...]:
        config = self._run.config
        return tuple(one for found in config.hook.pytest_iommu_dialects(config=config) for one in found)

    @property
    def dumps(self) -> tuple[Dialect, ...]:
        """Those of dumps with files for each domain; other plugins' first, they know their kernel better."""
        return tuple(one for one in self._all if not isinstance(one, TextDialect))

    @property
    def texts(self) -> tuple[TextDialect, ...]:
        """Those of other kernels' files."""
        return tuple(one for one in self._all if isinstance(one, TextDialect))

    def chosen(self, name: str) -> bool:
        """Whether --iommu-dialect leaves that one in."""
        named = self._run.settings.dialects
        return not named or name in named

    def check_names(self) -> None:
        """SetupError for a dialect of --iommu-dialect that there is not."""
        known = [one.name for one in self._all]
        for name in self._run.settings.dialects:
            if name not in known:
                raise SetupError(f"--iommu-dialect: no dialect {name!r}; there are: {', '.join(known)}")

    def of(self, key: Key, guest: Guest) -> Dialect:
        """What the dump of the guest's kernel is written in: NO_DUMP without one.

        CheckFailed (LAY-1) where there is none although the reference implementation was built in.
        """
        if key not in self._of:
            names = guest.run([ops.list_directory(DEBUGFS)]).results[0]
            entries = {name.rstrip("/@") for name in names.data.decode().splitlines()} if names.ok else set()
            self._of[key] = next((one for one in self.dumps if self.chosen(one.name) and one.probe(entries)), NO_DUMP)
        found = self._of[key]
        if found is NO_DUMP and any(self.chosen(one.name) for one in self.dumps):
            what = f"no page-table dump in {DEBUGFS} that any dialect knows"
            kernel = self._run.kernels.get(key.kernel)
            if kernel is not None and kernel.reference and self._run.lacks(key, config=[OPTION]) is None:
                raise CheckFailed(f"{what}, but the reference implementation was built in", ("LAY-1",))
        return found

    def spoken(self, key: Key, guest: Guest) -> tuple[TextDialect, ...]:
        """The dialects of other kernels of which the guest's kernel has files; asked once, after boot."""
        if key not in self._spoken:
            from pytest_iommu.check.spoken import spoken

            with suppress(CheckFailed):  # a dump of its own that must be there, and is not, is for others to say
                self.of(key, guest)
            chosen = [one for one in self.texts if self.chosen(one.name)]
            self._spoken[key] = spoken(lambda batch: guest.run(batch).results, chosen)
        return self._spoken[key]

    def known(self, key: Key) -> Dialect | None:
        """What a kernel's dump is written in, however it was booted; None if it may have one that no test has seen."""
        for booted in (key.kernel, key):
            if booted in self._of:
                return self._of[booted]
        lines = self._run.kernel_config(key)
        others = any(one.name != OWN for one in self.dumps)
        return None if others or lines is None or f"CONFIG_{OPTION}=y" in lines else NO_DUMP

    def known_spoken(self, key: Key) -> str:
        """The dialects that a guest's kernel was found to speak, by name; empty if no test has asked."""
        if key not in self._spoken:
            return ""
        own = self._of.get(key, NO_DUMP)
        return ", ".join([own.name] * bool(own.files) + [one.name for one in self._spoken[key]]) or "none"

    def configured(self, key: Key) -> str:
        """The dialects that a kernel's configuration brings, with the rules of each; empty if that is unknown."""
        lines = self._run.kernel_config(key)
        if lines is None:
            return ""
        own = {OWN: "abi.md"} if f"CONFIG_{OPTION}=y" in lines else {}
        texts = {
            one.name: " ".join(one.rules)
            for one in self.texts
            if lines & {f"CONFIG_{option}=y" for option in one.options}
        }
        return ", ".join(f"{name} ({rules})" for name, rules in {**own, **texts}.items() if self.chosen(name)) or "none"
