# SPDX-License-Identifier: GPL-2.0-only
"""Additions to pytest's --junitxml: what was tested, as properties of the suite, and the tests that did not run.

pytest's fixture record_testsuite_property works in the process of the tests. With workers that is not the process that
writes the file, so the properties are added here, on the controller, before the file is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_iommu.report.rows import Row
from pytest_iommu.report.summary import GUEST, KIND, RULES

if TYPE_CHECKING:
    from _pytest.junitxml import LogXML


def complete(
    config: pytest.Config, rows: Iterable[Row], properties: Mapping[str, str], nodes: Mapping[str, object]
) -> None:
    """Add the properties, and the tests without a pytest report; nothing without --junitxml.

    ``nodes`` maps the ids of tests that had begun to run to their workers.
    """
    xml = _writer(config)
    if xml is None:
        return
    xml.global_properties = [one for one in xml.global_properties if one[0] not in properties]
    for name, value in properties.items():
        xml.add_global_property(name, value)
    for row in rows:
        if row.made:
            _add(xml, row, nodes.get(row.nodeid))


def write(config: pytest.Config) -> None:
    """Have the file written if the run ended before pytest began it; pytest itself writes none in that case."""
    xml = _writer(config)
    if xml is None:
        return
    if not hasattr(xml, "suite_start"):
        xml.pytest_sessionstart()
    xml.pytest_sessionfinish()


def _writer(config: pytest.Config) -> LogXML | None:
    """Return pytest's writer of the --junitxml file. It is private to pytest, so it is used only with the option."""
    if not config.getoption("xmlpath", None):
        return None
    from _pytest.junitxml import xml_key

    return config.stash.get(xml_key, None)


def properties(guests: Iterable[Mapping[str, str | None]], run: Mapping[str, str]) -> dict[str, str]:
    """Return the suite's properties: iommu_<name> of the run, iommu_guest.<machine>/<flavour>.<what> of guests."""
    found = {f"iommu_{name}": value for name, value in run.items() if value}
    for guest in guests:
        name = f"iommu_guest.{guest['machine']}/{guest['flavour']}"
        found |= {f"{name}.{what}": value for what, value in guest.items() if value}
    return found


def _add(xml: LogXML, row: Row, node: object) -> None:
    failed = row.outcome == "failed"
    # LogXML identifies a test by its worker as well.
    more: dict[str, object] = {} if node is None else {"node": node}
    path = row.nodeid.partition("::")[0]
    told = [(RULES, ",".join(row.rules)), (GUEST, row.guest), (KIND, row.kind or row.outcome)]

    def report(outcome: Literal["passed", "failed", "skipped"], when: Literal["call", "setup", "teardown"]) -> None:
        longrepr = {"failed": row.text, "skipped": (path, 0, f"Skipped: {row.reason}"), "passed": None}[outcome]
        location = (path, None, row.nodeid.partition("::")[2])
        stated = [(name, value) for name, value in told if value]
        one = pytest.TestReport(row.nodeid, location, {}, outcome, longrepr, when, (), 0.0, user_properties=stated)
        one.__dict__.update(more)
        xml.pytest_runtest_logreport(one)

    report("failed" if failed else "skipped", "call" if failed else "setup")
    report("passed", "teardown")
