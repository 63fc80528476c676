# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-ktap: the tests of a run as KTAP version 1 (Documentation/dev-tools/ktap.rst), nested by group.

Version 1, because the kernel's kunit.py accepts no other. Every test has a line, even those that a run which ended
early left out, because kunit.py counts a missing one as a crash. A diagnostic line precedes the result it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_iommu.core.names import names
from pytest_iommu.report.failure import CONSOLE, QEMU
from pytest_iommu.report.rows import Row

VERSION = "KTAP version 1"
TEXT_LINES = 60

_ERRORS = {"kernel-hang": "TIMEOUT"}
"""Directives of kinds of failure other than ERROR."""
_PLAIN = ("fail", "unexpected-pass")
_BEFORE = (CONSOLE, QEMU)
# Matches text that a parser which searches lines for results (LKFT's older one) would take for a result.
_RESULT = re.compile(r"\bok (?=\d+ )")
# Text that kunit.py takes for the end of the kernel, anywhere in a line.
_END = re.compile(r"List of all partitions:|Kernel panic - not syncing: VFS:|reboot: System halted")


def text(rows: Iterable[Row], header: Sequence[str] = ()) -> str:
    """Return the whole text; ``header`` are lines that describe what was tested."""
    rows = list(rows)
    called = names(row.nodeid for row in rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(called[row.nodeid][0], []).append(row)
    lines = [VERSION, *(f"# {plain(line)}" for line in header)]
    lines.append(f"1..{len(groups)}" if groups else "1..0 # SKIP no test was collected")
    for number, (group, members) in enumerate(groups.items(), 1):
        inner = [VERSION, f"# Subtest: {group}", f"1..{len(members)}"]
        for place, row in enumerate(members, 1):
            inner += [*_diagnostics(row), _result(place, called[row.nodeid][1], row)]
        lines += [f"  {line}" for line in inner]
        lines.append(_group(number, group, members))
    return "\n".join(lines) + "\n"


def plain(line: str) -> str:
    """Return a line of text as ASCII, without anything that kunit.py takes for the end of the kernel."""
    shown = re.sub(r"[^ -~]", "?", line.expandtabs().encode("ascii", "backslashreplace").decode())
    return _END.sub(lambda match: match[0].replace(":", ";"), shown).rstrip()


def _data(text: str) -> str:
    """Return text for use after a directive: one line, in which no second directive begins."""
    return plain(" ".join(text.replace("#", "").split()))


def _group(number: int, name: str, members: Sequence[Row]) -> str:
    if any(row.outcome == "failed" for row in members):
        return f"not ok {number} {name}"
    if all(row.outcome in ("skipped", "not-run") for row in members):
        return f"ok {number} {name} # SKIP none of its tests ran"
    return f"ok {number} {name}"


def _result(number: int, name: str, row: Row) -> str:
    line = f"{'not ok' if row.outcome == 'failed' else 'ok'} {number} {name}"
    if row.outcome in ("skipped", "not-run"):
        return f"{line} # SKIP {_data(row.reason)}"
    if row.outcome == "xfailed":
        return f"{line} # XFAIL {_data(row.reason)}"
    if row.outcome == "failed" and row.kind not in _PLAIN:
        first = row.text.partition("\n")[0].removeprefix(f"{row.kind}: ")
        return f"{line} # {_ERRORS.get(row.kind, 'ERROR')} {row.kind}: {_data(first)}"
    return line


def _diagnostics(row: Row) -> list[str]:
    """Return what a reader of the log needs; the rest is in the JSON and in the artefacts."""
    lines = [f"test: {row.nodeid}"]
    for title, words in (("rules", row.rules), ("broke", row.broke)):
        if words:
            lines.append(f"{title}: {' '.join(words)}")
    if row.fingerprint:
        lines.append(f"fingerprint: {row.fingerprint}")
    if row.retried:
        lines.append(f"retried: {row.retried}")
    if row.outcome in ("failed", "xfailed"):
        lines += [f"  {line}" for line in _shown(row.text.splitlines())]
    return [f"# {_RESULT.sub('ok, ', plain(line))}" for line in lines]


def _shown(lines: Sequence[str]) -> list[str]:
    """Return a failure's text up to the console, which JSON and artefacts contain; a long text is truncated."""
    end = next((number for number, line in enumerate(lines) if line.startswith(_BEFORE)), len(lines))
    kept = [line for line in lines[:end] if line.strip()]
    more = len(kept) - TEXT_LINES
    return [*kept[:TEXT_LINES], f"... and {more} more lines"] if more > 0 else kept
