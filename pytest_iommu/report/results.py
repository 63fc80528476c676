# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-json: every test of a run, its guest and its outcome; described by results.schema.json beside this file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_iommu.core.names import names
from pytest_iommu.report.rows import OUTCOMES, Row, guests_of, judged, per_rule

SCHEMA = 1
"""Incremented when a field changes its meaning or is removed, but not for a new field."""

SCHEMA_FILE = Path(__file__).with_name("results.schema.json")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Data of the run as a whole. ``started`` is in seconds since 1970, ``ended`` says why it ended early."""

    version: str
    target: str
    seed: int
    started: float
    seconds: float
    exit_status: int
    ended: str = ""


def document(rows: Sequence[Row], run: RunFacts, kernels: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return the document. ``kernels`` maps a guest's name to descriptions of kernel and QEMU."""
    called = names(row.nodeid for row in rows)
    counted = Counter(row.outcome for row in rows)
    return {
        "schema": SCHEMA,
        "run": {
            "version": run.version,
            "target": run.target,
            "seed": run.seed,
            "started": _stamp(run.started),
            "seconds": round(run.seconds, 3),
            "exit_status": run.exit_status,
            "ended": run.ended or None,
            "judged": list(judged(per_rule(rows))),
        },
        "guests": guests_of(rows, kernels),
        "counts": {outcome: counted[outcome] for outcome in OUTCOMES},
        "tests": [_test(row, ".".join(called[row.nodeid])) for row in rows],
    }


def _test(row: Row, name: str) -> dict[str, Any]:
    """Remove empty values."""
    machine, _, boot = row.guest.partition("/")
    flavour, _, manner = boot.partition("/")
    told: dict[str, Any] = {
        "kind": row.kind,
        "verdict": row.verdict,
        "reason": row.reason,
        "known": row.known,
        "broke": list(row.broke),
        "fingerprint": row.fingerprint,
        "retried": row.retried,
        "text": row.text,
    }
    on = {"machine": machine, "flavour": flavour, "manner": manner or "functional"} if row.guest else None
    return {
        "id": row.nodeid,
        "name": name,
        "outcome": row.outcome,
        "rules": list(row.rules),
        "guest": on,
        "seconds": round(row.seconds, 3),
    } | {key: value for key, value in told.items() if value}


def _stamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def text(found: Mapping[str, Any]) -> str:
    """Serialize the document."""
    return json.dumps(found, indent=1) + "\n"
