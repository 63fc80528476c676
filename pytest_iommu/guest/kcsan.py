# SPDX-License-Identifier: GPL-2.0-only
"""KCSAN's reports of data races: which of them concern the dump. Those in other parts of the kernel are ignored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TITLE = "BUG: KCSAN: "

RULER = "=" * 66
"""Printed alone on the line before a report and on its last line."""

# Functions of the reference implementation, with any suffix of the compiler (.isra.0). A walk of generic_pt is named
# after its format: amdv1_dump_walk.
_DUMP = re.compile(
    r"(?:iommu_|io_pgtable_|arm_lpae_)?ptd_\w+|(?:\w+_)?dump_(?:walk|info|add|prot|valid)|"
    r"dump_(?:pos|leaf|load|decode|any)\w*|(?:iter|node)_to_\w+|node_(?:enter|leave|release|\w+_work)|"
    r"seq_(?:advance|record|dying)|(?:__)?iommu_(?:free_(?:table|desc)|unaccount|put_(?:desc|pages))\w*|"
    r"arm_smmu_debugfs_\w+|smmu_(?:create|release)|stream_(?!open$)\w+"
)
_STAMP = r"^ *(?:\[[^]\n]*\] *)*"
_LINE = re.compile(
    _STAMP
    + r"(?:(?:race at unknown origin, with )?(?:assert no \w+|read|write|read-write)(?: \((?P<how>[a-z, ]+)\))? to "
    r"0x[0-9a-f]+ of \d+ bytes by (?P<who>.*):|(?P<function>\w+)(?:\.\w+)*\+0x[0-9a-f]+/0x[0-9a-f]+) *$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class RacingAccess:
    """One side of a race: ``marked`` for READ_ONCE() and atomics; ``who`` is the call chain, innermost first."""

    marked: bool
    functions: tuple[str, ...]

    @property
    def of_dump(self) -> bool:
        """Whether the dump made the access, or called the function that did."""
        return any(map(is_of_dump, self.functions))


def is_of_dump(function: str) -> bool:
    """Whether a kernel function belongs to the dump, including the functions that free its tables."""
    return _DUMP.fullmatch(function) is not None


def accesses(report: str) -> Iterator[RacingAccess]:
    """Return the two accesses of a report; only one if the other's origin is unknown."""
    marked, functions = None, list[str]()
    for found in _LINE.finditer(report):
        if found["function"] is not None:
            functions.append(found["function"])
            continue
        if marked is not None:
            yield RacingAccess(marked, tuple(functions))
        marked, functions = "marked" in (found["how"] or ""), []
    if marked is not None:
        yield RacingAccess(marked, tuple(functions))


def concerns_dump(report: str) -> bool:
    """Whether a race concerns the dump: both sides are in it, or one that is not marked.

    If the dump's access is marked, a plain access elsewhere is a bug of that code (docs/findings.md has some).
    """
    ours = [access for access in accesses(report) if access.of_dump]
    return len(ours) > 1 or any(not access.marked for access in ours)
