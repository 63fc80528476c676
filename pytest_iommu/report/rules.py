# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-report: what became of every rule, as rules.json (its schema: docs/report.md) and, to be read, rules.md.

Made of the tests' reports alone, and sorted: the same run gives the same files with any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_iommu.report.summary import BROKEN, GUEST, KIND, RULES, reason, split

SCHEMA = 1
"""Raised when a field changes its meaning or goes; a new field raises nothing."""

_WORSE = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(slots=True)
class Row:
    """One test: how it ended, with the reason of a skip or the kind of a failure, and the rules that it broke."""

    nodeid: str
    outcome: str = ""
    reason: str = ""
    rules: tuple[str, ...] = ()
    broke: tuple[str, ...] = ()
    guest: str = ""


def rows_of(reports: Iterable[pytest.TestReport]) -> dict[str, Row]:
    """The tests, sorted; of the three reports of a test the worst says how it ended."""
    rows: dict[str, Row] = {}
    for report in reports:
        if report.when in ("setup", "teardown") and report.passed:
            continue
        properties = {str(name): str(value) for name, value in report.user_properties}
        row = rows.setdefault(report.nodeid, Row(report.nodeid))
        row.rules = row.rules or split(properties.get(RULES, ""))
        row.guest = row.guest or properties.get(GUEST, "")
        row.broke = tuple(dict.fromkeys([*row.broke, *split(properties.get(BROKEN, ""))]))
        if not row.outcome or _WORSE[report.outcome] > _WORSE[row.outcome]:
            row.outcome = report.outcome
            row.reason = reason(report) if report.skipped else properties.get(KIND, "") if report.failed else ""
    return dict(sorted(rows.items()))


def outcome_of(rule: str, rows: Mapping[str, Row], later: Mapping[str, str]) -> str:
    """What became of a rule. It passed only if a test of it did; where all failed, of whatever it was, it failed."""
    own = {row.outcome for row in rows.values() if rule in row.rules}
    if any(rule in row.broke for row in rows.values()) or ("failed" in own and "passed" not in own):
        return "failed"
    if own:
        return "passed" if "passed" in own else "skipped"
    return f"later: {later[rule]}" if rule in later else "uncovered"


def document(
    reports: Iterable[pytest.TestReport],
    known: Mapping[str, str],
    later: Mapping[str, str],
    kernels: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """rules.json. ``known`` is every rule with its one line, ``kernels`` guest -> kernel and QEMU, in words."""
    rows = rows_of(reports)
    guests = sorted({row.guest for row in rows.values() if row.guest and row.outcome != "skipped"})
    return {
        "schema": SCHEMA,
        "guests": [_guest(name, kernels.get(name)) for name in guests],
        "rules": [
            {
                "id": rule,
                "text": known.get(rule, ""),
                "outcome": outcome_of(rule, rows, later),
                "tests": [_test(row, rule) for row in rows.values() if rule in row.rules or rule in row.broke],
            }
            for rule in [*known, *sorted({rule for row in rows.values() for rule in row.rules} - set(known))]
        ],
        "other_failures": [
            {"test": row.nodeid, "kind": row.reason or "fail"}
            for row in rows.values()
            if row.outcome == "failed" and not row.rules and not row.broke
        ],
    }


def _guest(name: str, kernel: tuple[str, str] | None) -> dict[str, str | None]:
    machine, _, flavour = name.partition("/")
    words, qemu = kernel or (None, None)
    return {"machine": machine, "flavour": flavour, "kernel": words, "qemu": qemu}


def _test(row: Row, rule: str) -> dict[str, Any]:
    found: dict[str, Any] = {"test": row.nodeid, "outcome": row.outcome}
    if row.outcome == "skipped":
        found["reason"] = row.reason
    if row.outcome == "failed":
        found |= {"kind": row.reason or "fail", "broke": list(row.broke)}
    if rule not in row.rules:
        found["declared"] = False
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """rules.md: one table of all rules, then what failed and why tests were skipped."""
    lines = ["# Rules", ""]
    for guest in report["guests"]:
        told = "; ".join(text for text in (guest["kernel"], guest["qemu"]) if text)
        lines.append(f"- {guest['machine']}, flavour {guest['flavour']}" + (f": {told}" if told else ""))
    lines += [""] if report["guests"] else []
    lines += ["| rule | outcome | passed | failed | skipped | |", "|---|---|--:|--:|--:|---|"]
    for rule in report["rules"]:
        ended = [test["outcome"] for test in rule["tests"]]
        counts = " | ".join(str(ended.count(word)) for word in ("passed", "failed", "skipped"))
        lines.append(f"| {rule['id']} | {rule['outcome']} | {counts} | {rule['text'].replace('|', '&#124;')} |")
    failed = {test["test"]: test for rule in report["rules"] for test in rule["tests"] if test["outcome"] == "failed"}
    if failed or report["other_failures"]:
        lines += ["", "## Failed", ""]
        for name, test in sorted(failed.items()):
            what = f"{test['kind']}, broke {' '.join(test['broke'])}" if test["broke"] else test["kind"]
            lines.append(f"- `{name}`: {what}")
        lines += [f"- `{test['test']}`: {test['kind']}, no test of a rule" for test in report["other_failures"]]
    lines += _skipped(report)
    return "\n".join(lines) + "\n"


def _skipped(report: Mapping[str, Any]) -> list[str]:
    reasons: dict[str, set[str]] = {}
    for rule in report["rules"]:
        for test in rule["tests"]:
            if test["outcome"] == "skipped":
                reasons.setdefault(test["reason"], set()).add(test["test"])
    if not reasons:
        return []
    rows = [f"- {len(tests)}: {why}" for why, tests in sorted(reasons.items(), key=lambda row: (-len(row[1]), row[0]))]
    return ["", "## Skipped", "", *rows]


def write(directory: Path, report: Mapping[str, Any]) -> None:
    """Write both files; the directory is made. OSError when that is not possible."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rules.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (directory / "rules.md").write_text(markdown(report), encoding="utf-8")
