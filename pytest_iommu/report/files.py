# SPDX-License-Identifier: GPL-2.0-only
"""The files that a run writes for other tools, all from the same rows: --iommu-report, --iommu-json, --iommu-ktap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_iommu.core.rules import LATER, RULES
from pytest_iommu.core.settings import Settings
from pytest_iommu.report import ktap_writer, results, rules_report
from pytest_iommu.report.results import RunFacts
from pytest_iommu.report.rows import Row, guests_of, judged, judged_text, per_rule


def write(settings: Settings, rows: Sequence[Row], run: RunFacts, kernels: Mapping[str, tuple[str, str]]) -> list[str]:
    """Write the requested files; returns a line for each that could not be written."""
    problems = []
    if settings.report is not None:
        for name, text in rules_report.texts(rules_report.document(rows, RULES, LATER, kernels)).items():
            problems += _put("--iommu-report", settings.report / name, text)
    if settings.json is not None:
        problems += _put("--iommu-json", settings.json, results.text(results.document(rows, run, kernels)))
    if settings.ktap is not None:
        problems += _put("--iommu-ktap", settings.ktap, ktap_writer.text(rows, _header(rows, run, kernels)))
    return problems


def remove(settings: Settings) -> None:
    """Remove the files of an earlier run at the same places, but not pipes and devices."""
    found = [settings.json, settings.ktap]
    if settings.report is not None:
        found += [settings.report / name for name in rules_report.FILES]
    for path in found:
        if path is not None and path.is_file() and not path.is_symlink():
            with suppress(OSError):  # reported when it cannot be written
                path.unlink()


def _header(rows: Sequence[Row], run: RunFacts, kernels: Mapping[str, tuple[str, str]]) -> list[str]:
    lines = [f"pytest-iommu {run.version}" + (f", target {run.target}" if run.target else "")]
    for guest in guests_of(rows, kernels):
        told = "; ".join(text for text in (guest["kernel"], guest["qemu"]) if text)
        lines.append(f"machine {guest['machine']}, flavour {guest['flavour']}" + (f": {told}" if told else ""))
    return [*lines, *filter(None, [judged_text(judged(per_rule(rows)))])]


def _put(option: str, path: Path, text: str) -> list[str]:
    """Write one file atomically: a reader that waits for it must not see half of it."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")  # a pipe, or /dev/stdout
            return []
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        return [_unwritten(option, path, error)]
    return []


def _unwritten(option: str, path: Path, error: OSError) -> str:
    return f"iommu: {option}={path} cannot be written: {error.strerror}"
