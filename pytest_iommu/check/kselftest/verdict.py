# SPDX-License-Identifier: GPL-2.0-only
"""What a program's output, exit status and end come to for each of its tests.

A program that ends in the middle has one test that it ended in: the crash, or the failure, is that test's, those before
it keep what they printed, and those behind it were not run. A kernel that broke and lives on ends the program, too,
whatever it printed after that.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_iommu.check.kselftest.ktap import Output, Result, parse
from pytest_iommu.compare.side_by_side import stacked
from pytest_iommu.core import outcomes
from pytest_iommu.core.outcomes import CheckFailed, IommuError
from pytest_iommu.guest.ops import errno_name

NOT_STARTED = 127
SKIPPED = 4
TAINTED = "the kernel is tainted"
"""How our programs begin what they say of a kernel that warned during a test."""
LINES = 60
"""Most lines of a program's output in a failure; all of it is in the artefacts."""

# `not ok` follows these: all rules that the test is about, and in brackets the one that its judge found broken.
_ABOUT = re.compile(r"^\S+: ((?:[A-Z]{3}-\d+ ?)+)$")
END = "(the end)"
"""What our programs print in the place of a line that is not there."""
_EXPECTED, _DUMPED = re.compile(r"^  expected +(.*)"), re.compile(r"^  dumped +(.*)")
_BROKEN = re.compile(r"\(([A-Z]{3}-\d+): ")


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ran: what it printed, and its exit status (128 + signal) or -errno.

    ``error`` is how the guest ended, if it did; there is no status then.
    """

    output: str
    status: int | None = None
    error: IommuError | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one test: ``reason`` is why it was skipped, not run or expected to fail, ``error`` its failure."""

    outcome: Literal["passed", "failed", "skipped", "xfailed", "not-run"]
    reason: str = ""
    error: IommuError | None = None


def judge(program: str, tests: Mapping[str, tuple[str, ...]], ran: Ran) -> dict[str, Verdict]:
    """A verdict for every test. ``tests`` are those that were to be run, in order, each with its rules."""
    return _Judge(program, tests, ran).verdicts()


class _Judge:
    def __init__(self, program: str, tests: Mapping[str, tuple[str, ...]], ran: Ran) -> None:
        self._program = program
        self._tests = tests
        self._names = list(tests)
        self._ran = ran
        self._output: Output = parse(ran.output)
        self._files = {f"{program}.ktap": ran.output.encode()}
        self._results: dict[str, Result] = {}
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
            told = [f"{self._program} as a whole, told in its last test:", *problems]
            if before is not None:
                told += ["", before.message]
            found[last] = Verdict("failed", error=self._failure(last, "\n".join(told)))
        return found

    def _result(self, name: str) -> Verdict:
        one = self._results.get(name)
        if one is None:
            what = f"{self._program} printed no result of {name}"
            return Verdict("failed", error=self._failure(name, f"{what}\n{self._tail()}"))
        if one.outcome in ("skipped", "xfailed"):
            return Verdict(one.outcome, one.reason or f"{self._program} says {one.directive}, and no reason")
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
            # The judge in the guest has compared the dump with what was mapped, and cannot look into memory.
            failure = failure.told(message, verdict=outcomes.Verdict.UNDECIDED)
        return Verdict("failed", error=failure)

    def _end(self) -> tuple[int, IommuError] | None:
        """In which test the program ended before its time, and how."""
        ran, at = self._ran, self._running()
        if ran.error is not None:
            at = self._warned() if at is None or self._warned() is not None else at
            # All have a result and none says that the kernel warned in it: then nobody knows which are to be believed.
            return self._ended(0 if at is None else at, ran.error)
        how = self._how()
        if how is None and at is None:
            return None
        if how is None:
            how = "\n".join([f"{self._program} ended with status {ran.status} before its end", *self._problems()])
        at = len(self._names) - 1 if at is None else at
        return self._ended(at, self._failure(self._names[at], f"{how}\n{self._tail()}"))

    def _ended(self, at: int, error: IommuError) -> tuple[int, IommuError]:
        count = sum(name in self._results for name in self._names[:at])
        where = f"{self._program}, test {at + 1} of {len(self._names)}: {self._names[at]}"
        told = f"in {where}; {count} had printed their result before"
        first, newline, rest = error.message.partition("\n")
        error.message = f"{first}\n{told}{newline}{rest}"
        return at, error

    def _running(self) -> int | None:
        """The test behind the last that has a result; None where that was the last of all."""
        done = [at for at, name in enumerate(self._names) if name in self._results]
        after = done[-1] + 1 if done else 0
        return after if after < len(self._names) else None

    def _warned(self) -> int | None:
        """The first test that says that the kernel warned while it ran."""
        for at, name in enumerate(self._names):
            one = self._results.get(name)
            if one is not None and not one.ok and any(line.startswith(TAINTED) for line in one.diagnostics):
                return at
        return None

    def _how(self) -> str | None:
        """How the program ended where it did not by itself."""
        status = self._ran.status
        assert status is not None
        if self._output.bail is not None:
            return f"{self._program} bails out: {self._output.bail}"
        if status == -errno.ETIMEDOUT:
            return f"{self._program} was killed: its time was over"
        if status < 0:
            return f"{self._program} could not be run: {errno_name(status)}"
        if status == NOT_STARTED and not self._results:
            return f"{self._program} could not be started"
        if status > 128:
            return f"{self._program} was killed by {_signal(status - 128)}"
        return None

    def _problems(self) -> list[str]:
        """What contradicts itself in the output of a program that ended by itself, or what was collected."""
        outcomes = [one.outcome for one in self._output.results]
        strange = [one.name for one in self._output.results if one.name not in self._tests]
        problems = self._output.problems()
        if strange:
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            problems.append(f"results of tests that were not collected: {', '.join(strange[:5])}{more}")
        if "failed" in outcomes:
            allowed = {1}
        elif set(outcomes) <= {"skipped"}:
            allowed = {0, SKIPPED}  # the harness has no status of its own for that
        else:
            allowed = {0}
        if self._ran.status not in allowed:
            problems.append(f"the exit status is {self._ran.status}, by the results it should be {min(allowed)}")
        return problems

    def _failure(
        self, name: str, message: str, rules: tuple[str, ...] | None = None, related: tuple[str, ...] = ()
    ) -> CheckFailed:
        return CheckFailed(message.rstrip(), self._tests[name] if rules is None else rules, related, self._files)

    def _tail(self) -> str:
        """The output's end, for what has no diagnostics of its own."""
        rest = _shortened([*self._output.rest, *([self._output.cut] if self._output.cut else [])])
        return "\n".join(["it printed behind the last result:", *rest]) if rest else "it printed nothing more"


def _rules(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rules that diagnostics name: those found broken, and those that the test is about."""
    broken = [rule for line in lines for rule in _BROKEN.findall(line)]
    about = [rule for line in lines if (match := _ABOUT.match(line)) for rule in match[1].split()]
    return tuple(dict.fromkeys(broken)), tuple(dict.fromkeys(about))


def _stacked(lines: Sequence[str]) -> list[str]:
    """Expected and dumped lines that follow each other as they are shown elsewhere."""
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
