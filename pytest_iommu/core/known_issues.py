# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-known: failures that somebody knows already. They are expected to fail, and to go on failing.

A YAML list (docs/report.md):

    - name: BUG-7
      reason: maps twice, see the list of March
      tests: basics.iommu.yaml::basics::two-pages[*
      rule: RNG-4
    - name: BUG-8
      reason: the walk is not protected
      fingerprint: kasan:ptd_walk:*
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_iommu.core.yaml_reader import Value

KINDS = ("fail", "kernel-crash", "kernel-hang")
_KEYS = ("name", "reason", "tests", "rule", "fingerprint", "kind", "strict")


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """A kernel report that somebody knows already: the test that met it is reported as an expected failure."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """One entry. ``where`` is its file:line; patterns know ``*`` and ``?``, brackets mean themselves.

    A failure is of the entry when its test matches ``tests`` (a pattern of node ids, or of their ends from a slash on;
    without any, every test), ``rules`` has the rule it names first, and the fingerprint matches; or, without a
    fingerprint, it is of the ``kind``.
    """

    name: str
    reason: str
    where: str
    tests: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    fingerprint: str = ""
    kind: str = "fail"
    strict: bool = True

    def of_test(self, nodeid: str) -> bool:
        """Whether it is about a test."""
        return any(re.fullmatch(rf"(?:.*/)?{_regex(pattern)}", nodeid, re.DOTALL) for pattern in self.tests)

    def is_met(self, nodeid: str, kind: str, rules: Sequence[str], fingerprint: str) -> bool:
        """Whether a failure is the known one; ``rules`` are those it broke, the one named first before the others."""
        if self.tests and not self.of_test(nodeid):
            return False
        if self.rules and not set(self.rules) & set(rules[:1]):
            return False
        if self.fingerprint:
            return re.fullmatch(_regex(self.fingerprint), fingerprint) is not None
        return kind == self.kind

    @property
    def gone(self) -> str:
        """What is said when it no longer fails."""
        return f"known issue {self.name} no longer fails: {self.reason}\ntake it out: {self.where}"


def load(path: Path) -> tuple[Known, ...]:
    """The entries of a file. SetupError with file and line where it has a mistake."""
    from pytest_iommu.core.yaml_reader import read_file

    entries: dict[str, Known] = {}
    for value in read_file(path).list():
        entry = _entry(value)
        if entry.name in entries:
            raise value.error(f"{entry.name!r} is here a second time; the first is {entries[entry.name].where}")
        entries[entry.name] = entry
    return tuple(entries.values())


def _entry(value: Value) -> Known:
    from pytest_iommu.core.rules import RULES

    fields = value.fields(_KEYS, "a known issue")
    entry = Known(
        name=fields.need("name").text(),
        reason=fields.need("reason").text(),
        where=f"{value.path}:{value.line}",
        tests=fields.words("tests"),
        rules=fields.words("rule", RULES),
        fingerprint=fields.get("fingerprint", lambda one: one.text(), ""),
        kind=fields.get("kind", lambda one: one.choice(KINDS, "kind"), "fail"),
        strict=fields.get("strict", lambda one: one.flag(), True),
    )
    if not entry.fingerprint and not (entry.tests and (entry.rules or "kind" in fields)):
        raise value.error("a known issue needs a fingerprint, or tests and a rule (or a kind)")
    return entry


def met(known: Iterable[Known], nodeid: str, kind: str, rules: Sequence[str], fingerprint: str) -> Known | None:
    """The entry that a failure is of, or None."""
    return next((entry for entry in known if entry.is_met(nodeid, kind, rules, fingerprint)), None)


def gone(known: Iterable[Known], nodeid: str) -> Known | None:
    """The entry by which a test that passed should have failed; None without a strict one."""
    return next((entry for entry in known if entry.strict and entry.of_test(nodeid)), None)


def unmet(known: Iterable[Known], names: Collection[str]) -> list[Known]:
    """The entries that are about no test of their own and that no test of the run met; ``names`` are those met."""
    return [entry for entry in known if entry.strict and not entry.tests and entry.name not in names]


def _regex(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
