# SPDX-License-Identifier: GPL-2.0-only
"""Run generated scenarios on a guest, as files are run, and report the smallest one that fails."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_iommu.check.generate.drawn import Action
from pytest_iommu.check.generate.resolve import resolve
from pytest_iommu.check.generate.written import Variant, written
from pytest_iommu.core.outcomes import CheckFailed, IommuError

if TYPE_CHECKING:
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.scenario import Instance

NAME = "generated.iommu.yaml"
OF_TABLES = ("TAB-1", "TAB-2", "TAB-3", "TAB-4", "RNG-1", "RNG-2", "RNG-3", "LVL-1", "LVL-2", "PRT-1", "ENT-1", "ENT-2")
"""The rules that generated scenarios test."""
OF_DEVICES = ("TLB-4", "HW-1", "HW-3", "ISO-1", "ISO-2")
"""Those that they test with a device on the domain."""


class Ended(BaseException):
    """The guest is gone or the test is skipped, so there is nothing to shrink. Passes through hypothesis."""

    def __init__(self, cause: BaseException, text: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.text = text


@dataclass(slots=True)
class Search:
    """A search for failing scenarios of one variant. ``folder`` holds the current scenario file."""

    #: runs one scenario on the guest; CheckFailed is its failure
    judge: Callable[[Instance], None]
    variant: Variant
    machine: str
    folder: Path
    #: makes an instance fit the guest's domains
    place: Callable[[Instance], Instance] = field(default=lambda instance: instance)
    executed: int = 0
    _verdicts: dict[str, CheckFailed | None] = field(default_factory=dict)
    _failed: tuple[str, CheckFailed] | None = None

    def run(self, examples: int, seed: int, again: str = "") -> None:
        """Run ``examples`` scenarios. CheckFailed with the smallest one that fails; other exceptions pass unchanged.

        ``again`` is the line that tells how to generate the same scenarios again.
        """
        from pytest_iommu.check.generate.strategies import search

        config = self._config()
        # one seed per variant, so that they do not all try the same
        own = zlib.crc32(f"{seed} {self.variant.id}".encode())
        try:
            search(lambda actions: self._example(config, actions), examples, own, self.folder)
        except CheckFailed:
            pass
        except Ended as ended:
            if isinstance(ended.cause, IommuError):
                ended.cause.message += f"\n\nThe scenario that was running:\n\n{ended.text}\n{again}"
            raise ended.cause from None
        if self._failed is not None:
            raise self._shown(*self._failed, again) from None

    def execute(self, text: str) -> CheckFailed | None:
        """Run one scenario file on the guest and return its failure, if any. Raises skips and the end of the guest."""
        self.executed += 1
        try:
            self.judge(self._read(text))
        except CheckFailed as failed:
            return failed
        return None

    def _read(self, text: str) -> Instance:
        from pytest_iommu.scenario import load

        path = self.folder / NAME
        path.write_text(text, encoding="utf-8")
        (instance,) = load(path).instances
        return instance

    def _config(self) -> TableConfig:
        """Return the configuration of the variant's table on this machine."""
        instance = self._read(written(self.variant, self.machine, OF_TABLES[:1], []))
        return self.place(instance).domains["d"].config

    def _example(self, config: TableConfig, actions: list[Action]) -> None:
        steps = resolve(config, actions)
        if self.variant.attached:
            # The aperture of a driver's domain is the lower half of a table that has two.
            steps = [step for step in steps if step.iova < 1 << 63]
        text = written(self.variant, self.machine, OF_TABLES, steps)
        if text not in self._verdicts:
            try:
                self._verdicts[text] = self.execute(text)
            except BaseException as error:
                # also pytest's skip, but not an interrupt by the user
                raise error if isinstance(error, KeyboardInterrupt) else Ended(error, text) from None
        verdict = self._verdicts[text]
        if verdict is not None:
            self._failed = text, verdict
            raise verdict

    def _shown(self, text: str, error: CheckFailed, again: str) -> CheckFailed:
        """Return the failure for the report: with the scenario, limited to the rules that it breaks."""
        fails = self.execute(text) is not None
        named = [rule for rule in error.rules if rule]
        text = text.replace(f"rules: [{', '.join(OF_TABLES)}]", f"rules: [{', '.join(named or OF_TABLES)}]")
        parts = [
            error.message,
            f"the smallest failing scenario of {self.executed} that were run (it also runs as a *.iommu.yaml file):",
            text.rstrip(),
            again,
        ]
        if not fails:
            parts.insert(1, "It passed when it was run again: the failure depends on more than the scenario.")
        return error.told("\n\n".join(parts), {NAME: text.encode()})
