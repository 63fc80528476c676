# SPDX-License-Identifier: GPL-2.0-only
"""Parse KTAP as printed by kselftest (Documentation/dev-tools/ktap.rst, or `TAP version 13` of its helpers), leniently.

Recursive descent, one function per rule; indentation nests:

output     = [header] {other} [plan] {subtests | result | plan | bail | other}
subtests   = output, indented by two columns or more; it belongs to the result that follows it
header     = "KTAP version " N | "TAP version " N
plan       = "1.." N [" # SKIP" reason]
result     = ["not "] "ok " N ["-"] [name] ["#" directive [reason]]
bail       = "Bail out!" [reason]
other      = "#" text, or any other line: a kernel message, a part of a line

Nothing is refused: an output can be truncated anywhere and have foreign lines in it. problems() lists what is
malformed. A last line without a newline is ignored, because its rest is unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["passed", "failed", "skipped", "xfailed"]

_HEADER = re.compile(r"(?:KTAP|TAP) version (\d+)\s*$")
_PLAN = re.compile(r"1\.\.(\d+)\s*(?:# *SKIP\b(.*))?$")
_RESULT = re.compile(r"(not )?ok (\d+)(?= |$)(?: -(?= |$))?(.*)$")
_DIRECTIVE = re.compile(r"(?:^|\s)#\s*(SKIP|XFAIL|XPASS|TIMEOUT|ERROR|TODO)\b[:\s]*(.*)$", re.IGNORECASE)
_BAIL = re.compile(r"Bail out!\s*(.*)$")
_NESTED = re.compile(r"( {2,})(?:(?:KTAP|TAP) version \d|# Subtest: |1\.\.\d+\s*(?:#.*)?$|(?:not )?ok \d+(?: |$))")
_OUTCOMES: dict[str, Outcome] = {"SKIP": "skipped", "XFAIL": "xfailed", "TODO": "xfailed"}


@dataclass(frozen=True, slots=True)
class KtapResult:
    """One result. ``diagnostics`` are the lines since the previous result, without their ``# ``."""

    name: str
    number: int
    ok: bool
    directive: str = ""
    reason: str = ""
    diagnostics: tuple[str, ...] = ()
    subtests: Output | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome: with SKIP, XFAIL and TODO, ``ok`` does not matter.

        XPASS, TIMEOUT and ERROR are failures, and so is a result with a failed subtest.
        """
        inner = self.subtests.results if self.subtests is not None else ()
        if self.directive in _OUTCOMES:
            return _OUTCOMES[self.directive]
        good = self.ok and not self.directive and all(one.outcome != "failed" for one in inner)
        return "passed" if good else "failed"


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a program. ``rest`` has the lines after the last result: of the running test, or the totals.

    ``version`` is empty without a header, ``planned`` is None without a plan, ``bail`` is None unless it bailed out.
    ``skipped`` is the reason of a plan that skips everything, ``cut`` a last line without a newline.
    """

    version: str = ""
    planned: int | None = None
    results: tuple[KtapResult, ...] = ()
    rest: tuple[str, ...] = ()
    bail: str | None = None
    skipped: str | None = None
    cut: str = ""

    def problems(self) -> list[str]:
        """Return the form errors, one line each, including subtests."""
        found = [] if self.version else ["the `TAP version` line is missing"]
        if self.planned is None:
            found.append("the plan is missing")
        elif self.planned != len(self.results):
            found.append(f"the plan says {self.planned} results, but there are {len(self.results)}")
        for place, one in enumerate(self.results, 1):
            if one.number != place:
                found.append(f"result {place} has number {one.number}: {one.name}")
            inner = one.subtests.problems() if one.subtests is not None else []
            found += [f"{one.name}: {problem}" for problem in inner]
        often = Counter(one.name for one in self.results)
        found += [f"{count} results of {name}" for name, count in often.items() if count > 1]
        if self.cut:
            found.append(f"the last line is truncated: {self.cut}")
        return found


def parse(text: str) -> Output:
    """Parse any text."""
    *lines, cut = text.replace("\r", "").split("\n")
    return _output(_Lines(iter(lines)), 0, cut)


class _Lines:
    """The remaining lines, with one line of lookahead."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._next = next(lines, None)

    def peek(self) -> str | None:
        """Return the next line without taking it; None at the end."""
        return self._next

    def pop(self) -> str:
        """Take the next line, which must exist."""
        assert self._next is not None
        line, self._next = self._next, next(self._lines, None)
        return line


@dataclass(slots=True)
class _Found:
    """The output under construction."""

    version: str = ""
    planned: int | None = None
    skipped: str | None = None
    bail: str | None = None
    results: list[KtapResult] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    subtests: Output | None = None


def _output(lines: _Lines, indent: int, cut: str = "") -> Output:
    found = _Found()
    while found.bail is None and (line := lines.peek()) is not None and not _is_outer(line, indent):
        inner = _NESTED.match(line)
        if inner is not None and len(inner[1]) > indent:
            found.subtests = _output(lines, len(inner[1]))
            continue
        lines.pop()
        own = line[indent:] if line[:indent].isspace() or not indent else line
        _ = _header(own, found) or _plan(own, found) or _result(own, found) or _bail(own, found) or _other(own, found)
    if found.bail is not None and not indent:
        while lines.peek() is not None:
            _other(lines.pop(), found)
    results, rest = tuple(found.results), tuple(found.other)
    return Output(found.version, found.planned, results, rest, found.bail, found.skipped, cut)


def _is_outer(line: str, indent: int) -> bool:
    """Whether a line is a result or bail of the output around this nested one."""
    column = len(line) - len(line.lstrip(" "))
    own = line.lstrip(" ")
    return column < indent and bool(_RESULT.match(own) or _BAIL.match(own))


def _header(line: str, found: _Found) -> bool:
    match = _HEADER.match(line)
    if match is None or found.version:
        return False
    found.version = match[1]
    return True


def _plan(line: str, found: _Found) -> bool:
    match = _PLAN.match(line)
    if match is None or found.planned is not None:
        return False
    found.planned = int(match[1])
    found.skipped = match[2].strip() if match[2] is not None else None
    return True


def _result(line: str, found: _Found) -> bool:
    match = _RESULT.match(line)
    if match is None:
        return False
    said = match[3]
    directive = _DIRECTIVE.search(said)
    name = (said[: directive.start()] if directive else said).strip()
    word, reason = (directive[1].upper(), directive[2].strip()) if directive else ("", "")
    # ksft_test_result_skip() in C puts the name after the directive.
    name = name or reason
    found.results.append(
        KtapResult(name, int(match[2]), not match[1], word, reason, tuple(found.other), found.subtests),
    )
    found.other, found.subtests = [], None
    return True


def _bail(line: str, found: _Found) -> bool:
    match = _BAIL.match(line)
    if match is None:
        return False
    found.bail = match[1].strip()
    return True


def _other(line: str, found: _Found) -> bool:
    found.other.append(line.removeprefix("#").removeprefix(" ") if line.startswith("#") else line)
    return True
