# SPDX-License-Identifier: GPL-2.0-only
"""--iommu-list: the scenarios with the rules they check, and the number of tests per rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from pytest_iommu.report.summary import RULES


def lines(items: Iterable[pytest.Item], known: Mapping[str, str]) -> list[str]:
    """Return the listing of the collected items."""
    tests: list[str] = []
    covered: Counter[str] = Counter()
    for item in items:
        for name, value in item.user_properties:
            if name == RULES:
                covered.update(str(value).split(","))
                tests.append(f"{item.nodeid}  {str(value).replace(',', ' ')}")
    rules = [f"{rule:<8} {covered[rule]:>4}  {text}" for rule, text in known.items()]
    return ["scenarios and tests, with the rules they check:", *tests, "", "rules, with the number of tests:", *rules]
