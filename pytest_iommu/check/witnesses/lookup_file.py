# SPDX-License-Identifier: GPL-2.0-only
"""What the dump's file lookup says of some IOVAs, beside the entries of the table (abi.md, LKP-1 and LKP-2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.dialects.lookup import parse_lookup
from pytest_iommu.guest import ops
from pytest_iommu.oracle.lookups import addresses, path

if TYPE_CHECKING:
    from pytest_iommu.oracle import Expected

SLOT = 0
LONGEST = 4096


class LookupFile:
    """The questions for one domain: ``ops`` ask them, check() judges the answers."""

    def __init__(self, domain: str, file: str, expected: Expected) -> None:
        self._domain = domain
        self._expected = expected
        self._asked = addresses(expected)
        questions = [op for iova in self._asked for op in (ops.write(SLOT, b"0x%x" % iova), ops.read(SLOT, LONGEST))]
        self.ops: Sequence[Op] = [ops.open_file(SLOT, file, os.O_RDWR), *questions, ops.close(SLOT)]

    def check(self, results: Sequence[Result], entries: str, files: dict[str, bytes]) -> list[CheckFailed]:
        """Compare each answer with the text of entries; returns the first that is wrong."""
        opened, *answers, _ = results
        if not opened.ok:
            return [CheckFailed(f"opening lookup fails with {ops.errno_name(opened.value)}", ("LKP-1",))]
        for number, iova in enumerate(self._asked):
            written, read = answers[2 * number : 2 * number + 2]
            if not (written.ok and read.ok):
                failed = written if not written.ok else read
                return [self._failure(iova, f"fails with {ops.errno_name(failed.value)}", "LKP-1")]
            text = ops.text_of(read)
            files[f"{self._domain}.lookup-0x{iova:x}.txt"] = read.data
            try:
                found = parse_lookup(text)
            except DumpSyntaxError as error:
                return [self._failure(iova, str(error), error.rule)]
            if found.iova != iova:
                return [self._failure(iova, f"answers for 0x{found.iova:x}", "LKP-3")]
            expected = path(entries, self._expected, iova)
            have = text.splitlines()[1:-1]
            if have != expected:
                pairs = [f"  expected  {line}" for line in expected] + [f"  dumped    {line}" for line in have]
                same = [line for line in have if line in expected]
                rule = "LKP-2" if len(same) == min(len(have), len(expected)) else "LKP-1"
                return [self._failure(iova, "\n".join(("is not the path of entries:", *pairs)), rule)]
            fault = found.fault()
            if fault is not None:
                return [self._failure(iova, fault[1], fault[0])]
        return []

    def _failure(self, iova: int, what: str, rule: str) -> CheckFailed:
        text = f"domain {self._domain}: lookup of 0x{iova:x} {what}"
        return CheckFailed(text, (rule,), verdict=Verdict.DUMP, domains=(self._domain,))
