# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's iova_to_phys() says of a domain, beside its page table (TAB-7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_iommu.core.model import Range
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import Status, command_ops, parse_status, status_text
from pytest_iommu.oracle.lookups import HOLE, addresses, answer

if TYPE_CHECKING:
    from pytest_iommu.oracle import Expected

PER_LINE = 6
"""IOVAs in one command."""
SHOWN = 4


class Translations:
    """The questions for one domain: ``ops`` ask them, check() judges the answers."""

    def __init__(self, domain: str, expected: Expected) -> None:
        self._domain = domain
        asked = addresses(expected)
        self._lines = [asked[at : at + PER_LINE] for at in range(0, len(asked), PER_LINE)]
        words = (" ".join(f"0x{iova:x}" for iova in line) for line in self._lines)
        self.ops: Sequence[Op] = command_ops("".join(f"translate {domain} {line}\n" for line in words))

    def check(self, results: Sequence[Result], ranges: Sequence[Range], seen: bool) -> list[CheckFailed]:
        """Compare the answers with the lines of a page table, which are those of memory if ``seen``."""
        if results and ops.errno_name(results[0].value) == "EPERM":
            return []  # a kernel that is locked down lets nobody give the module commands
        status = parse_status(status_text(results))
        source = "memory" if seen else "the list of mappings"
        wrong: list[str] = []
        for number, line in enumerate(self._lines, 1):
            row = status.get(number)
            if not seen and _not_known(row):
                return []
            if row is None or row.errno is not None:
                why = "was not executed" if row is None else f"{row.errno} {row.message}"
                return [CheckFailed(f"translate {self._domain}: {why}", verdict=Verdict.COMMAND)]
            answers = [int(word, 0) for word in row.values.get("pa", "").split(",") if word]
            if len(answers) != len(line):
                what = f"translate {self._domain}: {len(answers)} answers to {len(line)} questions"
                return [CheckFailed(what, verdict=Verdict.COMMAND)]
            for iova, have in zip(line, answers, strict=True):
                want = answer(ranges, iova)
                if have != want:
                    wrong.append(f"iova_to_phys(0x{iova:x}) is {_text(have)}, but {source} says {_text(want)}")
        if not wrong:
            return []
        more = len(wrong) - SHOWN
        text = "\n".join([*wrong[:SHOWN], *([f"... and {more} more"] if more > 0 else [])])
        return [
            CheckFailed(f"domain {self._domain}: {text}", ("TAB-7",), verdict=Verdict.LOOKUP, domains=(self._domain,))
        ]


def _not_known(row: Status | None) -> bool:
    """Whether the module is another one that has no such command; then TAB-7 is not among the rules of the test.

    Only where the guest's memory is not read: no rule of the page tables is judged there.
    """
    if row is None:
        return False
    return row.message.startswith("unknown command") if row.errno else "pa" not in row.values


def _text(address: int) -> str:
    return f"0x{address:x}" if address != HOLE else "0 (not mapped)"
