# SPDX-License-Identifier: GPL-2.0-only
"""A strict reader of our KTAP, from the kernel's ktap.rst and what kunit.py, LKFT and NIPA make of names."""

from __future__ import annotations

import re
from dataclasses import dataclass

RESULT = re.compile(r"(ok|not ok) (\d+) ([^#]*[^# ])(?: # (.*))?")
DIRECTIVES = ("SKIP", "XFAIL", "TIMEOUT", "ERROR")


@dataclass(frozen=True)
class Line:
    """One result: its directive and the data after it, and the diagnostic lines before it."""

    ok: bool
    name: str
    directive: str
    data: str
    diagnostics: tuple[str, ...]

    @property
    def status(self) -> str:
        if self.directive in ("SKIP", "XFAIL"):
            assert self.ok
            return self.directive
        return "ok" if self.ok else "not ok"


def read(text: str) -> tuple[list[Line], dict[str, list[Line]]]:
    """The results of the groups, and of the tests in them. AssertionError for anything that ktap.rst does not allow."""
    assert text.isascii()
    assert text.endswith("\n")
    lines = text.splitlines()
    assert lines[0] == "KTAP version 1"
    count, rest = _plan(lines[1:])
    groups: list[Line] = []
    tests: dict[str, list[Line]] = {}
    while rest:
        inner = [line[2:] for line in rest[: _inner(rest)]]
        rest = rest[len(inner) :]
        groups.append(_result(rest.pop(0), len(groups) + 1, []))
        assert inner[:2] == ["KTAP version 1", f"# Subtest: {groups[-1].name}"]
        tests[groups[-1].name] = members = _results(inner[2:])
        assert groups[-1].ok == all(test.ok for test in members)
    assert count == len(groups)
    _names([group.name for group in groups])
    return groups, tests


def _results(lines: list[str]) -> list[Line]:
    count, rest = _plan(lines)
    found: list[Line] = []
    before: list[str] = []
    for line in rest:
        if line.startswith("#"):
            assert line == "#" or line.startswith("# ")
            before.append(line[2:])
        else:
            found.append(_result(line, len(found) + 1, before))
            before = []
    assert not before
    assert count == len(found)
    _names([line.name for line in found])
    return found


def _plan(lines: list[str]) -> tuple[int, list[str]]:
    place = next(number for number, line in enumerate(lines) if not line.startswith("# "))
    plan = re.fullmatch(r"1\.\.(\d+)(?: # SKIP .+)?", lines[place])
    assert plan
    return int(plan[1]), lines[place + 1 :]


def _inner(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if not line.startswith("  "))


def _result(line: str, number: int, before: list[str]) -> Line:
    match = RESULT.fullmatch(line)
    assert match, line
    assert int(match[2]) == number, line
    directive, _, data = (match[4] or "").partition(" ")
    assert not match[4] or directive in DIRECTIVES, line
    assert not match[4] or data, line
    return Line(match[1] == "ok", match[3], directive, data, tuple(before))


def _names(names: list[str]) -> None:
    """What the parsers make of a name is the name, and tells it from the others."""
    for name in names:
        assert re.sub(r"\[\d{1,5}\]", "", name) == name
        assert re.sub(r"_-", "_", re.sub(r"(^_|_$)", "", re.sub(r"[^A-Za-z0-9_-]+", "_", name))) == name
        assert re.sub(r"[^0-9a-zA-Z]+", "-", name) == name
        assert not any(word.isdecimal() for word in name.split("-"))
    assert len({name.lower() for name in names}) == len(names)
