# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu rules [RULE...]``: the rules of the contract, with the number of their tests or in full."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_HEADING = re.compile(r"^#+ (?P<title>.*)$", re.MULTILINE)


def register(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rules",
        help="List the rules with the number of their tests, or print some in full.",
        description="Without arguments, list every rule with the number of tests of the suite. With rule ids, print "
        "the whole text of these rules from docs/tables.md or docs/abi.md.",
    )
    parser.add_argument("rules", nargs="*", metavar="RULE", help="Rule to print in full, e.g. RNG-4.")
    parser.add_argument("--check", action="store_true", help="Fail when a rule has no test and none is planned.")
    parser.set_defaults(run=show)


def show(arguments: argparse.Namespace) -> int:
    """Print what was asked for; 1 when a rule lacks a test and --check was given."""
    from pytest_iommu.commands import coverage
    from pytest_iommu.core.rules import LATER, RULES

    if arguments.rules:
        print("\n\n".join(whole_text(rule) for rule in arguments.rules))
        return 0
    tests = coverage.collected()
    wrong = coverage.problems(tests, RULES, LATER)
    if not arguments.check:
        print("\n".join(coverage.listing(tests, RULES, LATER)))
        return 0
    left = f", but {len(LATER)} of later work: {' '.join(LATER)}" if LATER else ""
    print("\n".join(wrong) or f"every rule has a test{left}")
    return 1 if wrong else 0


def whole_text(rule: str) -> str:
    """A rule's text in its contract, under the heading of its section. SetupError for an unknown rule."""
    from pytest_iommu.core.rules import RULES

    known = {name.lower(): name for name in RULES}
    name = known.get(rule.lower())
    if name is None:
        raise SetupError(f"no rule {rule!r}; {suggestion(rule, list(RULES))}")
    for path in paths.contracts():
        text = path.read_text(encoding="utf-8")
        found = re.search(rf"^- {re.escape(name)} .*\n(?:(?![-#|]|\s*$).*\n)*", text, re.MULTILINE)
        if found is not None:
            headings = [match["title"] for match in _HEADING.finditer(text, 0, found.start())]
            return f"{headings[-1] if headings else ''}\n\n{found[0].removeprefix('- ').rstrip()}"
    raise SetupError(f"no contract describes {name}")


def suggestion(rule: str, known: Sequence[str]) -> str:
    """The rules that may have been meant."""
    import difflib

    close = difflib.get_close_matches(rule.upper(), known, 3, 0.5)
    return f"did you mean {' or '.join(close)}?" if close else "`pytest-iommu rules` lists them"
