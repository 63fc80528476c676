# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-report: the outcome of every rule, as rules.json (its schema: docs/report.md) and as rules.md for reading.

Derived from the tests' rows alone, and sorted: the same run gives the same files with any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pytest_iommu.report.rows import Count, Row, guests_of, per_rule

SCHEMA = 1
"""Incremented when a field changes its meaning or is removed, but not for a new field."""

FILES = ("rules.json", "rules.md")


def outcome_of(rule: str, rows: Iterable[Row], later: Mapping[str, str]) -> str:
    """Return the outcome of a rule: passed only if a test of it passed, failed if all failed for whatever reason."""
    rows = list(rows)
    own = {row.outcome for row in rows if rule in row.rules}
    if any(rule in row.broke for row in rows) or ("failed" in own and "passed" not in own):
        return "failed"
    if own:
        return "passed" if "passed" in own else "skipped"
    return f"later: {later[rule]}" if rule in later else "uncovered"


def document(
    tests: Iterable[Row],
    known: Mapping[str, str],
    later: Mapping[str, str],
    kernels: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Return rules.json. ``known`` maps rules to their one-line text, ``kernels`` guests to kernel and QEMU in words.

    A test that did not run says nothing about a rule and is not among its tests.
    """
    rows = sorted((row for row in tests if row.outcome != "not-run"), key=lambda row: row.nodeid)
    counts = per_rule(rows)
    return {
        "schema": SCHEMA,
        "guests": guests_of(rows, kernels),
        "rules": [
            {
                "id": rule,
                "text": known.get(rule, ""),
                "outcome": outcome_of(rule, rows, later),
                "counts": asdict(counts.get(rule, Count())),
                "tests": [_test(row, rule) for row in rows if rule in row.rules or rule in row.broke],
            }
            for rule in [*known, *sorted(set(counts) - set(known))]
        ],
        "other_failures": [
            {"test": row.nodeid, "kind": row.kind}
            for row in rows
            if row.outcome == "failed" and not row.rules and not row.broke
        ],
    }


def _test(row: Row, rule: str) -> dict[str, Any]:
    found: dict[str, Any] = {"test": row.nodeid, "outcome": "skipped" if row.outcome == "xfailed" else row.outcome}
    if row.reason:
        found["reason"] = row.reason
    if row.kind:
        found |= {"kind": row.kind, "broke": list(row.broke)}
    if rule not in row.rules:
        found["declared"] = False
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """Return rules.md: one table of all rules, then the failures, and why tests were skipped."""
    lines = ["# Rules", ""]
    for guest in report["guests"]:
        told = "; ".join(text for text in (guest["kernel"], guest["qemu"]) if text)
        lines.append(f"- {guest['machine']}, flavour {guest['flavour']}" + (f": {told}" if told else ""))
    lines += [""] if report["guests"] else []
    lines += ["| rule | outcome | passed | failed | skipped | |", "|---|---|--:|--:|--:|---|"]
    for rule in report["rules"]:
        counts = " | ".join(str(rule["counts"][word]) for word in ("passed", "failed", "skipped"))
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


def texts(report: Mapping[str, Any]) -> dict[str, str]:
    """Return both files, by name."""
    return dict(zip(FILES, (json.dumps(report, indent=1) + "\n", markdown(report)), strict=True))
