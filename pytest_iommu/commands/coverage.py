# SPDX-License-Identifier: GPL-2.0-only
"""Which rules the suite's tests are about, by collecting them; no kernel is needed. `pytest-iommu rules`."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from pytest_iommu.core.outcomes import SetupError

SUITE = ("--pyargs", "pytest_iommu.conformance")


class _Collected:
    """A plugin that counts the tests of every rule. What is always skipped is no test."""

    def __init__(self) -> None:
        self.tests: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if item.get_closest_marker("skip") is None:
                marks = item.iter_markers("iommu_rules")
                self.tests.update({str(rule) for mark in marks for rule in mark.args})


def collected(what: Sequence[str] = SUITE) -> Counter[str]:
    """Rule -> number of tests that claim it. SetupError when the suite cannot be collected."""
    found = _Collected()
    said = io.StringIO()
    # Without a project: an ini file in the current directory could deselect tests, and pytest would leave a cache.
    own = ["-c", "/dev/null", "--rootdir=/", "--collect-only", "-qq"]
    own += [word for name in ("cacheprovider", "hypothesispytest") for word in ("-p", f"no:{name}")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([*own, *what], plugins=[found])
    if status != pytest.ExitCode.OK:
        raise SetupError(f"the suite cannot be collected:\n{said.getvalue().rstrip()}")
    return found.tests


def problems(tests: Mapping[str, int], known: Mapping[str, str], later: Mapping[str, str]) -> list[str]:
    """What is wrong with the coverage, a line each: uncovered rules, and `later` ones that are none."""
    lines = [f"{rule} has no test: {text}" for rule, text in known.items() if not tests.get(rule) and rule not in later]
    lines += [f"{rule} has {tests[rule]} tests: it does not belong in rules.LATER" for rule in later if tests.get(rule)]
    lines += [f"{rule} of rules.LATER is no rule" for rule in later if rule not in known]
    return lines + [f"{rule} has {tests[rule]} tests and is no rule" for rule in sorted(set(tests) - set(known))]


def listing(tests: Mapping[str, int], known: Mapping[str, str], later: Mapping[str, str]) -> list[str]:
    """Every rule with the number of its tests; for a rule without tests, the planned work that will bring them."""
    lines = []
    for rule, text in known.items():
        count = str(tests.get(rule, 0)) if tests.get(rule) or rule not in later else "later"
        lines.append(f"{rule:<8} {count:>5}  {text}" + (f" ({later[rule]})" if count == "later" else ""))
    return lines
