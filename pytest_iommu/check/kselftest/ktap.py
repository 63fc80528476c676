# SPDX-License-Identifier: GPL-2.0-only
"""KTAP as kselftest prints it (Documentation/dev-tools/ktap.rst, `TAP version 13` of its helpers), read leniently.

Recursive descent, one function a rule; indentation nests:

    output     = [header] {other} [plan] {subtests | result | plan | bail | other}
    subtests   = output, two columns or more to the right; it belongs to the result that follows it
    header     = "KTAP version " N | "TAP version " N
    plan       = "1.." N [" # SKIP" reason]
    result     = ["not "] "ok " N ["-"] [name] ["#" directive [reason]]
    bail       = "Bail out!" [reason]
    other      = "#" text, or what no rule knows: a message of the kernel's, a part of a line

Nothing is refused: an output can be cut anywhere, and lines of others can stand in it. What is not as it should be is
told by problems(). A last line without its end counts for nothing, for nobody knows how it would have gone on.
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
class Result:
    """One result. ``diagnostics`` are the lines between it and the result before, without their ``# ``."""

    name: str
    number: int
    ok: bool
    directive: str = ""
    reason: str = ""
    diagnostics: tuple[str, ...] = ()
    subtests: Output | None = None

    @property
    def outcome(self) -> Outcome:
        """What it comes to: with SKIP, XFAIL and TODO it does not count whether it is ok.

        XPASS, TIMEOUT and ERROR are failures, and so is a result of which a subtest failed.
        """
        inner = self.subtests.results if self.subtests is not None else ()
        if self.directive in _OUTCOMES:
            return _OUTCOMES[self.directive]
        good = self.ok and not self.directive and all(one.outcome != "failed" for one in inner)
        return "passed" if good else "failed"


@dataclass(frozen=True, slots=True)
class Output:
    """What a program printed. ``rest`` are the lines behind the last result, of the test that ran last or the totals.

    ``version`` is empty without a header; ``planned`` is None without a plan, ``bail`` unless it bailed out.
    ``skipped`` is the reason of a plan that skips all; ``cut`` is a last line that has no end.
    """

    version: str = ""
    planned: int | None = None
    results: tuple[Result, ...] = ()
    rest: tuple[str, ...] = ()
    bail: str | None = None
    skipped: str | None = None
    cut: str = ""

    def problems(self) -> list[str]:
        """What its form lacks, a line each; subtests included."""
        found = [] if self.version else ["it begins with no `TAP version`"]
        if self.planned is None:
            found.append("there is no plan")
        elif self.planned != len(self.results):
            found.append(f"the plan is {self.planned} results, {len(self.results)} came")
        for place, one in enumerate(self.results, 1):
            if one.number != place:
                found.append(f"result {place} has number {one.number}: {one.name}")
            inner = one.subtests.problems() if one.subtests is not None else []
            found += [f"{one.name}: {problem}" for problem in inner]
        often = Counter(one.name for one in self.results)
        found += [f"{count} results of {name}" for name, count in often.items() if count > 1]
        if self.cut:
            found.append(f"the last line is cut off: {self.cut}")
        return found


def parse(text: str) -> Output:
    """What a text says, whatever it is."""
    *lines, cut = text.replace("\r", "").split("\n")
    return _output(_Lines(iter(lines)), 0, cut)


class _Lines:
    """The lines that are left, one of them looked at."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._next = next(lines, None)

    def peek(self) -> str | None:
        """The next line; None at the end."""
        return self._next

    def pop(self) -> str:
        """The next line, which must be there, taken away."""
        assert self._next is not None
        line, self._next = self._next, next(self._lines, None)
        return line


@dataclass(slots=True)
class _Found:
    """An output as it grows."""

    version: str = ""
    planned: int | None = None
    skipped: str | None = None
    bail: str | None = None
    results: list[Result] = field(default_factory=list)
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
    """Whether a line is a result or bail of an output that this one is nested in."""
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
    # ksft_test_result_skip() of C puts the name behind the directive.
    name = name or reason
    found.results.append(
        Result(name, int(match[2]), not match[1], word, reason, tuple(found.other), found.subtests),
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
