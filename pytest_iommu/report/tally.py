# SPDX-License-Identifier: GPL-2.0-only
"""Totals of a run's rows: the table of rules, the reasons of skips, and whether anything was checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pytest_iommu.report.rows import Count, Row, per_rule
from pytest_iommu.report.summary import INFRASTRUCTURE

REASONS = 5
"""Maximum number of lines with reasons of skips."""
REASON_WIDTH = 160
LOW_SHARE = 0.05
"""A run that checked a smaller share of its tests says so in its last line."""

_HINT = re.compile(r": --iommu-.*", re.DOTALL)
_NAME_OR_NUMBER = re.compile(r"\w*\d\w*")


@dataclass(slots=True)
class Tally:
    """Counts of a run's tests. ``tests`` are those with a rule or a guest, ``checked`` those that examined the kernel.

    ``kinds`` counts the failures of all tests by kind, ``retried`` has a line for every test whose guest was lost,
    ``skips`` counts the reasons.
    """

    rules: dict[str, Count] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    retried: list[str] = field(default_factory=list)
    skips: Counter[str] = field(default_factory=Counter)
    tests: int = 0
    checked: int = 0

    @property
    def only_infrastructure(self) -> bool:
        """Whether there are failures and none of them says anything about the kernel."""
        return bool(self.kinds) and set(self.kinds) <= set(INFRASTRUCTURE)

    @property
    def nothing_checked(self) -> bool:
        """Whether not a single test compared anything."""
        return self.checked == 0

    @property
    def hardly_checked(self) -> str:
        """Return text for the run's last line: how many tests checked something, if few did; otherwise empty."""
        if self.checked >= LOW_SHARE * self.tests:
            return ""
        return f"checked {self.checked} of {self.tests} IOMMU tests"


def tally(rows: Iterable[Row]) -> Tally:
    """Count the tests of a run."""
    rows = list(rows)
    found = Tally(rules=per_rule(rows))
    for row in rows:
        if row.outcome == "failed":
            found.kinds[row.kind] += 1
        if not (row.rules or row.guest) or row.outcome == "not-run":
            continue
        found.tests += 1
        found.checked += _checked(row)
        if row.outcome == "skipped":
            found.skips[row.reason] += 1
        if row.retried:
            found.retried.append(f"{row.nodeid}: {row.retried}")
    return found


def _checked(row: Row) -> bool:
    """Whether a test examined the kernel; an expected failure did, if the failure was one of ours."""
    if row.outcome == "xfailed":
        return row.kind not in ("", *INFRASTRUCTURE)
    return row.outcome == "passed" or (row.outcome == "failed" and row.kind not in INFRASTRUCTURE)


def table(rules: Mapping[str, Count], known: Mapping[str, str], later: Collection[str] = ()) -> list[str]:
    """Return the lines of the table; ``known`` maps rules to their text, in abi.md's order; ``later`` need no test."""
    if not rules:
        return []
    lines = [f"{'rule':<8} {'passed':>6} {'failed':>6} {'skipped':>7}"]
    for rule in [*known, *sorted(set(rules) - set(known))]:
        count = rules.get(rule)
        if count is not None:
            line = f"{rule:<8} {count.passed:>6} {count.failed:>6} {count.skipped:>7}  {known.get(rule, '')}"
            lines.append(line.rstrip())
    unseen = [rule for rule in known if rule not in rules]
    missed = [rule for rule in unseen if rule not in later]
    if missed:
        lines.append(f"no test of this run is about: {' '.join(missed)}")
    if len(unseen) > len(missed):
        lines.append(f"not covered yet: {' '.join(rule for rule in unseen if rule in later)}")
    return lines


def reasons(skips: Mapping[str, int]) -> list[str]:
    """Return the most common reasons and their number of tests, merging those that differ only in names and numbers."""
    groups: dict[str, Counter[str]] = {}
    for reason, count in skips.items():
        line = reason.partition("\n")[0]
        groups.setdefault(_NAME_OR_NUMBER.sub("#", _HINT.sub("", line)), Counter())[line] += count
    ordered = sorted(groups.values(), key=lambda group: (-group.total(), min(group)))
    shown = ordered if len(ordered) <= REASONS else ordered[: REASONS - 1]
    lines = [f"{group.total()} skipped: {_reason(group)}" for group in shown]
    rest = ordered[len(shown) :]
    if rest:
        count = sum(group.total() for group in rest)
        lines.append(f"{count} skipped for {len(rest)} other reasons: pytest -rs lists them")
    return lines


def _reason(group: Counter[str]) -> str:
    """Return the most common of similar reasons, on one line, and the number of the others."""
    first = min(group, key=lambda reason: (-group[reason], reason))
    text = first if len(first) <= REASON_WIDTH else f"{first[: REASON_WIDTH - 4]} ..."
    others = len(group) - 1
    return text + (f" (and {others} similar reason{'s' if others > 1 else ''})" if others else "")
