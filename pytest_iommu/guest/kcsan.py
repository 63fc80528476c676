# SPDX-License-Identifier: GPL-2.0-only
"""Data races as KCSAN reports them: which of them are the dump's. The kernel has many that are not asked about here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TITLE = "BUG: KCSAN: "

RULER = "=" * 66
"""What stands alone on the line before a report and on its last one."""

# Of the reference implementation, whatever a compiler appended (.isra.0). A walk of generic_pt is named after its
# format: amdv1_dump_walk.
_DUMP = re.compile(
    r"(?:iommu_|io_pgtable_|arm_lpae_)?ptd_\w+|(?:\w+_)?dump_(?:walk|info|add|prot|valid)|"
    r"dump_(?:pos|leaf|load|decode)\w*|(?:__)?iommu_(?:free_table|unaccount)\w*|arm_smmu_debugfs_\w+|stream_(?!open$)\w+"
)
_STAMP = r"^ *(?:\[[^]\n]*\] *)*"
_LINE = re.compile(
    _STAMP
    + r"(?:(?:race at unknown origin, with )?(?:assert no \w+|read|write|read-write)(?: \((?P<how>[a-z, ]+)\))? to "
    r"0x[0-9a-f]+ of \d+ bytes by (?P<who>.*):|(?P<function>\w+)(?:\.\w+)*\+0x[0-9a-f]+/0x[0-9a-f]+) *$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Access:
    """One side of a race: ``marked`` as READ_ONCE() and atomics are; who called whom, innermost first, no modules."""

    marked: bool
    functions: tuple[str, ...]

    @property
    def of_dump(self) -> bool:
        """Whether the dump made it, or called what did."""
        return any(map(is_of_dump, self.functions))


def is_of_dump(function: str) -> bool:
    """Whether a kernel function is one that the dump consists of, those that free its tables included."""
    return _DUMP.fullmatch(function) is not None


def accesses(report: str) -> Iterator[Access]:
    """The two accesses of a report; one where the other is of unknown origin."""
    marked, functions = None, list[str]()
    for found in _LINE.finditer(report):
        if found["function"] is not None:
            functions.append(found["function"])
            continue
        if marked is not None:
            yield Access(marked, tuple(functions))
        marked, functions = "marked" in (found["how"] or ""), []
    if marked is not None:
        yield Access(marked, tuple(functions))


def concerns_dump(report: str) -> bool:
    """Whether a race is the dump's: it has both sides, or one that is not marked.

    Where it has marked its own, plain accesses of others are theirs (docs/findings.md has some).
    """
    ours = [access for access in accesses(report) if access.of_dump]
    return len(ours) > 1 or any(not access.marked for access in ours)
