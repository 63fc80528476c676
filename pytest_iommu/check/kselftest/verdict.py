# SPDX-License-Identifier: GPL-2.0-only
"""Turn a program's output, exit status and end into a verdict for each of its tests.

If a program ends prematurely, one test was running: the crash or failure belongs to that test. Tests before it keep
their printed results, tests after it did not run. A kernel that breaks but survives ends the program too, whatever it
printed after that.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_iommu.check.kselftest.ktap import KtapResult, Output, parse
from pytest_iommu.compare.side_by_side import stacked
from pytest_iommu.core import outcomes
from pytest_iommu.core.outcomes import CheckFailed, IommuError
from pytest_iommu.guest.ops import errno_name

NOT_STARTED = 127
SKIPPED = 4
TAINTED = "the kernel is tainted"
"""First words of our programs' message about a kernel warning during a test."""
LINES = 60
"""Maximum number of output lines in a failure; the artefacts have all of them."""

# Lines before `not ok`: all rules that the test is about; the rule that its judge found broken is in brackets.
_ABOUT = re.compile(r"^\S+: ((?:[A-Z]{3}-\d+ ?)+)$")
END = "(the end)"
"""Printed by our programs in the place of a missing line."""
_EXPECTED, _DUMPED = re.compile(r"^  expected +(.*)"), re.compile(r"^  dumped +(.*)")
_BROKEN = re.compile(r"\(([A-Z]{3}-\d+): ")


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ran: its output, and its exit status (128 + signal) or -errno.

    ``error`` is how the guest ended, if it did; there is no status then.
    """

    output: str
    status: int | None = None
    error: IommuError | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a test: ``reason`` of a skip, an expected failure or a test not run; ``error`` is its failure."""

    outcome: Literal["passed", "failed", "skipped", "xfailed", "not-run"]
    reason: str = ""
    error: IommuError | None = None


def judge(program: str, tests: Mapping[str, tuple[str, ...]], ran: Ran) -> dict[str, Verdict]:
    """Return a verdict for every test. ``tests`` are the selected tests, in order, each with its rules."""
    return _Judge(program, tests, ran).verdicts()


class _Judge:
    def __init__(self, program: str, tests: Mapping[str, tuple[str, ...]], ran: Ran) -> None:
        self._program = program
        self._tests = tests
        self._names = list(tests)
        self._ran = ran
        self._output: Output = parse(ran.output)
        self._files = {f"{program}.ktap": ran.output.encode()}
        self._results: dict[str, KtapResult] = {}
        for one in self._output.results:
            self._results.setdefault(one.name, one)

    def verdicts(self) -> dict[str, Verdict]:
        found = {name: self._result(name) for name in self._names}
        end = self._end()
        if end is not None:
            at, error = end
            found[self._names[at]] = Verdict("failed", error=error)
            first = error.message.partition("\n")[0]
            reason = f"not run: {self._program} ended in {self._names[at]}: {error.kind}: {first}"
            return found | {name: Verdict("not-run", reason) for name in self._names[at + 1 :]}
        problems = self._problems()
        if problems:
            last = self._names[-1]
            before = found[last].error
            told = [f"{self._program} as a whole, reported with its last test:", *problems]
            if before is not None:
                told += ["", before.message]
            found[last] = Verdict("failed", error=self._failure(last, "\n".join(told)))
        return found

    def _result(self, name: str) -> Verdict:
        one = self._results.get(name)
        if one is None:
            what = f"{self._program} printed no result for {name}"
            return Verdict("failed", error=self._failure(name, f"{what}\n{self._tail()}"))
        if one.outcome in ("skipped", "xfailed"):
            return Verdict(one.outcome, one.reason or f"{self._program} printed {one.directive} without a reason")
        if one.outcome == "passed":
            return Verdict("passed")
        line = f"{'ok' if one.ok else 'not ok'} {one.number} {one.name}"
        line += f" # {one.directive} {one.reason}".rstrip() if one.directive else ""
        broken, about = _rules(one.diagnostics)
        rules = broken or about or self._tests[name]
        differs = any(_EXPECTED.match(text) for text in one.diagnostics)
        message = "\n".join([*_shortened(_stacked(one.diagnostics)), f"{self._program}: {line}"])
        related = tuple(rule for rule in about if rule not in rules)
        failure = self._failure(name, message, rules, related)
        if broken or differs:
            # The judge in the guest compared the dump with the mappings; it cannot look into memory.
            failure = failure.told(message, verdict=outcomes.Verdict.UNDECIDED)
        return Verdict("failed", error=failure)

    def _end(self) -> tuple[int, IommuError] | None:
        """Return the test in which the program ended prematurely, and how."""
        ran, at = self._ran, self._running()
        if ran.error is not None:
            at = self._warned() if at is None or self._warned() is not None else at
            # All tests have a result and none reports the kernel's warning, so no result can be trusted.
            return self._ended(0 if at is None else at, ran.error)
        how = self._how()
        if how is None and at is None:
            return None
        if how is None:
            how = "\n".join([f"{self._program} exited prematurely with status {ran.status}", *self._problems()])
        at = len(self._names) - 1 if at is None else at
        return self._ended(at, self._failure(self._names[at], f"{how}\n{self._tail()}"))

    def _ended(self, at: int, error: IommuError) -> tuple[int, IommuError]:
        count = sum(name in self._results for name in self._names[:at])
        where = f"{self._program}, test {at + 1} of {len(self._names)}: {self._names[at]}"
        told = f"in {where}; {count} tests before it had printed their result"
        first, newline, rest = error.message.partition("\n")
        error.message = f"{first}\n{told}{newline}{rest}"
        return at, error

    def _running(self) -> int | None:
        """Return the test after the last one with a result; None if that was the last of all."""
        done = [at for at, name in enumerate(self._names) if name in self._results]
        after = done[-1] + 1 if done else 0
        return after if after < len(self._names) else None

    def _warned(self) -> int | None:
        """Return the first test that reports a kernel warning."""
        for at, name in enumerate(self._names):
            one = self._results.get(name)
            if one is not None and not one.ok and any(line.startswith(TAINTED) for line in one.diagnostics):
                return at
        return None

    def _how(self) -> str | None:
        """Return how the program ended, if not by its own exit."""
        status = self._ran.status
        assert status is not None
        if self._output.bail is not None:
            return f"{self._program} bailed out: {self._output.bail}"
        if status == -errno.ETIMEDOUT:
            return f"{self._program} timed out and was killed"
        if status < 0:
            return f"{self._program} could not be executed: {errno_name(status)}"
        if status == NOT_STARTED and not self._results:
            return f"{self._program} could not be started"
        if status > 128:
            return f"{self._program} was killed by {_signal(status - 128)}"
        return None

    def _problems(self) -> list[str]:
        """Return the contradictions in the output of a program that exited by itself, and with the collected tests."""
        outcomes = [one.outcome for one in self._output.results]
        strange = [one.name for one in self._output.results if one.name not in self._tests]
        problems = self._output.problems()
        if strange:
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            problems.append(f"results of tests that were not collected: {', '.join(strange[:5])}{more}")
        if "failed" in outcomes:
            allowed = {1}
        elif set(outcomes) <= {"skipped"}:
            allowed = {0, SKIPPED}  # the harness has no exit status for that
        else:
            allowed = {0}
        if self._ran.status not in allowed:
            problems.append(f"the exit status is {self._ran.status}, but the results require {min(allowed)}")
        return problems

    def _failure(
        self, name: str, message: str, rules: tuple[str, ...] | None = None, related: tuple[str, ...] = ()
    ) -> CheckFailed:
        return CheckFailed(message.rstrip(), self._tests[name] if rules is None else rules, related, self._files)

    def _tail(self) -> str:
        """Return the end of the output, for tests without diagnostics of their own."""
        rest = _shortened([*self._output.rest, *([self._output.cut] if self._output.cut else [])])
        return "\n".join(["output after the last result:", *rest]) if rest else "no output after the last result"


def _rules(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the rules named in diagnostics: the broken ones, and those that the test is about."""
    broken = [rule for line in lines for rule in _BROKEN.findall(line)]
    about = [rule for line in lines if (match := _ABOUT.match(line)) for rule in match[1].split()]
    return tuple(dict.fromkeys(broken)), tuple(dict.fromkeys(about))


def _stacked(lines: Sequence[str]) -> list[str]:
    """Show consecutive expected and dumped lines in the format of other failures."""
    found: list[str] = []
    expected: str | None = None
    for line in lines:
        left, right = _EXPECTED.match(line), _DUMPED.match(line)
        if right is not None and expected is not None:
            pair = {"expected": expected, "dumped": right[1]}
            found[-1:] = stacked({name: None if text == END else text for name, text in pair.items()}, "  ")
        else:
            found.append(line)
        expected = left[1] if left is not None else None
    return found


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LINES
    return [*lines[:LINES], f"... and {more} more lines"] if more > 0 else list(lines)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
