# SPDX-License-Identifier: GPL-2.0-only
"""The tests of a run, one row each: what rules.json, the JSON, the KTAP and JUnit's additions are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

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

OUTCOMES = ("passed", "failed", "skipped", "xfailed", "not-run")
"""How a test ends. xfailed: it failed as expected; not-run: the run, or the program it is a part of, ended before."""

RUN_ROW = "pytest-iommu::run"
"""The row of what is about no test: a run that was cut short, a known issue that nothing met."""

_OF_PYTEST = ("passed", "failed", "skipped")
"""Outcomes of reports that say how a test ended. Plugins have others, as ``rerun`` of one that is run again."""

_WORSE = {"passed": 0, "skipped": 1, "not-run": 1, "xfailed": 2, "failed": 3}


@dataclass(slots=True)
class Row:
    """One test. ``reason`` is why it was skipped, not run or expected to fail; ``kind`` how it failed.

    ``verdict`` is whose fault the failure shows, ``broke`` the rules it found broken, ``known`` the name of the known
    issue it met, ``text`` the whole failure, ``seconds`` the host's time. ``made``: pytest has no report of it.
    ``kernel`` is what its guest says of that.
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
    """How many tests of one rule ended how. An expected failure counts as skipped."""

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
    """What a run came to: the reports of its tests and of failed collectors, and what was to be run, in order.

    ``ended`` says why a run ended early, empty when it did not.
    """

    reports: list[pytest.TestReport] = field(default_factory=list)
    collectors: list[pytest.CollectReport] = field(default_factory=list)
    collected: dict[str, Collected] = field(default_factory=dict)
    ended: str = ""

    def rows(self) -> list[Row]:
        """A row for every test, those that did not run included, in the order of collection."""
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
        """Why the tests did not run that are left."""
        last = next((report.nodeid for report in reversed(self.reports) if report.failed), "")
        after = f"the run ended after {last}" if last else "the run ended"
        return f"not run: {after}" + (f": {self.ended}" if self.ended else "")


def rows_of(reports: Iterable[pytest.TestReport]) -> dict[str, Row]:
    """The tests, sorted; of the three reports of a test the worst says how it ended."""
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
        # It failed, and once more when what it had made was freed.
        row.text = f"{row.text}\n\n{_text(report)}"
    if row.outcome and _WORSE[outcome] <= _WORSE[row.outcome]:
        # Of two failures the one counts that says something of the kernel.
        told = outcome == row.outcome == "failed" and row.kind in INFRASTRUCTURE and kind not in INFRASTRUCTURE
        if not told:
            return
    row.outcome = outcome
    row.reason = reason(report) if report.skipped else ""
    row.kind = kind
    row.verdict = properties.get(VERDICT, "") if kind else ""
    row.text = _text(report) if outcome in ("failed", "xfailed") else ""


def per_rule(rows: Iterable[Row]) -> dict[str, Count]:
    """Rule -> how its tests ended: those that are about it, and those that found it broken.

    The terminal's table, rules.json and rules.md are all made of this. A test that did not run says nothing of a rule.
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


def _text(report: pytest.TestReport) -> str:
    """Our own text of the failure where there is one, else pytest's."""
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
    """The guests that tests ran on: name, machine, flavour, and in words kernel and QEMU, None where nobody knows.

    ``kernels`` maps the name, machine/flavour, to those words; where it does not, a guest may have told its kernel. How
    a guest was booted does not tell guests apart here.
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
