# SPDX-License-Identifier: GPL-2.0-only
"""The tests of a run, one row each: the data of rules.json, the JSON, the KTAP and the additions to JUnit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from pytest_iommu.core.rules import TABLES, of_dump
from pytest_iommu.report.summary import (
    BROKEN,
    FINGERPRINT,
    GUEST,
    INFRASTRUCTURE,
    KERNEL,
    KIND,
    KNOWN,
    NOT_RUN,
    RETRIED,
    RULES,
    VERDICT,
    reason,
    split,
)

PAGE_TABLES, DUMP = "page-tables", "dump"
"""What a run may judge: the tables that the kernel writes, and the dump that shows them."""

OUTCOMES = ("passed", "failed", "skipped", "xfailed", "not-run")
"""Outcomes of a test. xfailed: it failed as expected; not-run: the run, or its kselftest program, ended before it."""

RUN_ROW = "pytest-iommu::run"
"""The row of what is about no test: a run that was cut short, a known issue that nothing met."""

_OF_PYTEST = ("passed", "failed", "skipped")
"""Outcomes of pytest reports that say how a test ended. Plugins add others, such as ``rerun``."""

_WORSE = {"passed": 0, "skipped": 1, "not-run": 1, "xfailed": 2, "failed": 3}


@dataclass(slots=True)
class Row:
    """One test. ``reason`` explains a skip, a test not run or an expected failure; ``kind`` is the kind of failure.

    ``verdict`` names the place of the fault, ``broke`` the rules found broken, ``known`` the known issue that matched.
    ``text`` is the whole failure, ``seconds`` is host time. ``made``: pytest has no report of it. ``kernel`` is the
    guest's description of its kernel.
    """

    nodeid: str
    outcome: str = ""
    reason: str = ""
    kind: str = ""
    rules: tuple[str, ...] = ()
    broke: tuple[str, ...] = ()
    guest: str = ""
    fingerprint: str = ""
    known: str = ""
    retried: str = ""
    text: str = ""
    seconds: float = 0.0
    made: bool = False
    kernel: str = ""
    verdict: str = ""


@dataclass(slots=True)
class Count:
    """The outcomes of the tests of one rule. An expected failure counts as skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Collected:
    """What is known of a test before it runs."""

    rules: tuple[str, ...] = ()
    guest: str = ""


@dataclass(slots=True)
class Finished:
    """The results of a run: the reports of its tests and of failed collectors, and the collected tests in order.

    ``ended`` says why a run ended early, empty if it did not.
    """

    reports: list[pytest.TestReport] = field(default_factory=list)
    collectors: list[pytest.CollectReport] = field(default_factory=list)
    collected: dict[str, Collected] = field(default_factory=dict)
    ended: str = ""

    def rows(self) -> list[Row]:
        """Return a row for every test, including those that did not run, in the order of collection."""
        found = {one.nodeid: _collector(one) for one in self.collectors}
        found |= rows_of(self.reports)
        why = self.not_run
        for nodeid, known in self.collected.items():
            if nodeid not in found:
                found[nodeid] = Row(nodeid, "not-run", why, rules=known.rules, guest=known.guest, made=True)
        places = {nodeid: place for place, nodeid in enumerate(self.collected)}
        return sorted(found.values(), key=lambda row: (places.get(row.nodeid, -1), row.nodeid))

    @property
    def not_run(self) -> str:
        """Return why the remaining tests did not run."""
        last = next((report.nodeid for report in reversed(self.reports) if report.failed), "")
        after = f"the run ended after {last}" if last else "the run ended"
        return f"not run: {after}" + (f": {self.ended}" if self.ended else "")


def rows_of(reports: Iterable[pytest.TestReport]) -> dict[str, Row]:
    """Group the reports by test; of the three reports of a test the worst one determines its outcome."""
    rows: dict[str, Row] = {}
    seconds: dict[str, float] = {}
    for report in reports:
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + getattr(report, "duration", 0.0)
        if report.outcome not in _OF_PYTEST:
            continue
        if report.when not in ("setup", "teardown") or not report.passed:
            _add(rows.setdefault(report.nodeid, Row(report.nodeid)), report)
    for row in rows.values():
        row.seconds = seconds[row.nodeid]
    return dict(sorted(rows.items()))


def _add(row: Row, report: pytest.TestReport) -> None:
    properties = {str(name): str(value) for name, value in report.user_properties}
    row.rules = row.rules or split(properties.get(RULES, ""))
    row.guest = row.guest or properties.get(GUEST, "")
    row.kernel = row.kernel or properties.get(KERNEL, "")
    row.retried = row.retried or properties.get(RETRIED, "")
    row.fingerprint = row.fingerprint or properties.get(FINGERPRINT, "")
    row.known = row.known or properties.get(KNOWN, "")
    row.broke = tuple(dict.fromkeys([*row.broke, *split(properties.get(BROKEN, ""))]))
    kind = properties.get(KIND, "fail" if report.failed else "")
    outcome: str = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
    if report.skipped and kind == NOT_RUN:
        outcome, kind = NOT_RUN, ""
    if row.outcome == outcome == "failed":
        # It failed, and failed again when its objects were freed.
        row.text = f"{row.text}\n\n{_text(report)}"
    if row.outcome and _WORSE[outcome] <= _WORSE[row.outcome]:
        # Of two failures, the one that says something about the kernel counts.
        told = outcome == row.outcome == "failed" and row.kind in INFRASTRUCTURE and kind not in INFRASTRUCTURE
        if not told:
            return
    row.outcome = outcome
    row.reason = reason(report) if report.skipped else ""
    row.kind = kind
    row.verdict = properties.get(VERDICT, "") if kind else ""
    row.text = _text(report) if outcome in ("failed", "xfailed") else ""


def per_rule(rows: Iterable[Row]) -> dict[str, Count]:
    """Return rule -> outcomes of its tests: those marked with it, and those that found it broken.

    The terminal's table, rules.json and rules.md all use this. A test that did not run says nothing about a rule.
    """
    found: dict[str, Count] = {}
    for row in rows:
        if row.outcome == "not-run":
            continue
        for rule in dict.fromkeys([*row.rules, *row.broke]):
            count = found.setdefault(rule, Count())
            count.passed += row.outcome == "passed"
            count.failed += row.outcome == "failed"
            count.skipped += row.outcome in ("skipped", "xfailed")
    return found


def judged(rules: Mapping[str, Count]) -> tuple[str, ...]:
    """Return what the tests of per_rule()'s rules judged: PAGE_TABLES and DUMP, each if a test of it has a verdict."""
    seen = [rule for rule, count in rules.items() if count.passed or count.failed]
    found = {PAGE_TABLES: any(rule in TABLES for rule in seen), DUMP: any(of_dump(rule) for rule in seen)}
    return tuple(part for part, any_of_it in found.items() if any_of_it)


def judged_text(parts: Collection[str]) -> str:
    """The same in words, for people; empty where nothing was judged."""
    if not parts:
        return ""
    if PAGE_TABLES not in parts:
        return "judged: the dump, not the kernel's page tables"
    return f"judged: the kernel's page tables{' and the dump' if DUMP in parts else ', no dump'}"


def _text(report: pytest.TestReport) -> str:
    """Return our own text of the failure if there is one, else pytest's."""
    own = [text for title, text in report.sections if title == "iommu"]
    return own[0] if own else str(report.longrepr or "")


def _collector(report: pytest.CollectReport) -> Row:
    if report.skipped:
        return Row(report.nodeid, "skipped", _skipped(report))
    return Row(report.nodeid, "failed", kind="setup-error", text=str(report.longrepr))


def _skipped(report: pytest.CollectReport) -> str:
    told = report.longrepr
    return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")


def guests_of(rows: Iterable[Row], kernels: Mapping[str, tuple[str, str]]) -> list[dict[str, str | None]]:
    """Return the guests that tests ran on: name, machine, flavour, descriptions of kernel and QEMU (None: unknown).

    ``kernels`` maps the name, machine/flavour, to those descriptions; otherwise a guest may have reported its kernel.
    Boot modes are not distinguished here.
    """
    ran: dict[tuple[str, ...], str] = {}
    for row in rows:
        if row.guest and row.outcome not in ("skipped", "not-run"):
            name = tuple(row.guest.split("/")[:2])
            ran[name] = ran.get(name) or row.kernel
    found: list[dict[str, str | None]] = []
    for machine, flavour in sorted(ran):
        words, qemu = kernels.get(f"{machine}/{flavour}") or (ran[machine, flavour] or None, None)
        found.append({"machine": machine, "flavour": flavour, "kernel": words, "qemu": qemu})
    return found
