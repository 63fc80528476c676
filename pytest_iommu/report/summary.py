# SPDX-License-Identifier: GPL-2.0-only
"""The summary by rule. Rules, outcome and artefacts of a test travel in report.user_properties, which survive xdist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

RULES = "iommu_rules"
"""Property: the rules a test is about, by comma."""
BROKEN = "iommu_broken"
"""Property: the rules that a failure broke, by comma."""
KIND = "iommu_outcome"
"""Property: the kind of a failure, as in pytest_iommu.outcomes."""
RETRIED = "iommu_retried"
"""Property: why the first guest of a test was lost."""
GUEST = "iommu_guest"
"""Property: the guest a test runs on, as machine/flavour, and /manner where it is booted in another."""
KERNEL = "iommu_kernel"
"""Property: what the guest of a test says of its kernel, where nobody here had it built."""
FINGERPRINT = "iommu_fingerprint"
"""Property: the name of the kernel report that a failure met, as report/fingerprint.py makes it."""
NOT_RUN = "not-run"
"""KIND of a test whose program ended before it: it is skipped to pytest, and has seen nothing of the kernel."""
KNOWN = "iommu_known"
"""Property: the name of the known issue that a failure is."""

INFRASTRUCTURE = ("setup-error", "guest-lost")
"""Kinds that say nothing of the kernel."""


@dataclass(slots=True)
class Count:
    """How many tests of one rule ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(slots=True)
class Tally:
    """What the reports of a run add up to."""

    rules: dict[str, Count] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    retried: list[str] = field(default_factory=list)
    skips: Counter[str] = field(default_factory=Counter)
    tests: int = 0
    checked: int = 0
    other_failures: int = 0

    def add(self, report: pytest.TestReport) -> None:
        """Count one report; of a test's three, the one that says how it ended."""
        properties = {str(name): str(value) for name, value in report.user_properties}
        if report.when != "call" and report.passed:
            return
        if report.failed:
            kind = properties.get(KIND)
            self.kinds[kind or "fail"] += 1
            self.other_failures += kind not in INFRASTRUCTURE
        if RULES not in properties:
            return
        if report.when != "teardown":
            self.tests += 1
        if RETRIED in properties:
            self.retried.append(f"{report.nodeid}: {properties[RETRIED]}")
        declared = split(properties[RULES])
        if report.failed:
            self._failed(split(properties.get(BROKEN, "")), properties.get(KIND))
        else:
            # An expected failure has seen the kernel, too.
            self.checked += report.passed or properties.get(KIND, NOT_RUN) not in (*INFRASTRUCTURE, NOT_RUN)
            if report.skipped:
                self.skips[reason(report)] += 1
            for rule in declared:
                count = self.rules.setdefault(rule, Count())
                count.passed += report.passed
                count.skipped += report.skipped

    def _failed(self, broken: Iterable[str], kind: str | None) -> None:
        self.checked += kind not in INFRASTRUCTURE
        for rule in broken:
            self.rules.setdefault(rule, Count()).failed += 1

    @property
    def only_infrastructure(self) -> bool:
        """Whether there are failures and none of them says anything of the kernel."""
        return bool(self.kinds) and not self.other_failures

    @property
    def nothing_checked(self) -> bool:
        """Whether not one test compared anything."""
        return self.checked == 0


def table(tally: Tally, known: Mapping[str, str], later: Collection[str] = ()) -> list[str]:
    """The lines of the table; ``known`` maps every rule to its one line, in abi.md's order; ``later`` need no test."""
    if not tally.rules:
        return []
    lines = [f"{'rule':<8} {'passed':>6} {'failed':>6} {'skipped':>7}"]
    order = [*known, *sorted(set(tally.rules) - set(known))]
    for rule in order:
        count = tally.rules.get(rule)
        if count is not None:
            line = f"{rule:<8} {count.passed:>6} {count.failed:>6} {count.skipped:>7}  {known.get(rule, '')}"
            lines.append(line.rstrip())
    unseen = [rule for rule in known if rule not in tally.rules]
    missed = [rule for rule in unseen if rule not in later]
    if missed:
        lines.append(f"no test of this run is about: {' '.join(missed)}")
    if len(unseen) > len(missed):
        lines.append(f"not covered yet: {' '.join(rule for rule in unseen if rule in later)}")
    return lines


def split(text: str) -> tuple[str, ...]:
    """The rules of a property."""
    return tuple(word for word in text.split(",") if word)


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped, or failed as expected."""
    known = getattr(report, "wasxfail", "")
    if known:
        return str(known).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
