# SPDX-License-Identifier: GPL-2.0-only
"""What this kernel prints of its page tables in the form of another dump: whichever dialects it speaks are judged.

By itself: grammar, order, sizes, columns against words. And against memory, where that can be read: the tables that
hardware walks, the words of stream table entries.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.witnesses.other_dumps import judge
from pytest_iommu.compare.printed_rules import NO_DOMAINS, unsaid
from pytest_iommu.dialects import LIVE_TEXTS, TextDialect
from pytest_iommu.dialects.smmuv3_posted import SMMUV3_POSTED, SMMUV3_RFC
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE


def _cases() -> list[object]:
    return [
        pytest.param(
            one, id=one.name, marks=[pytest.mark.iommu_needs(dialect=one.name), pytest.mark.iommu_rules(*one.rules)]
        )
        for one in LIVE_TEXTS
    ]


@pytest.mark.iommu_rules("STE-3")
@pytest.mark.parametrize(
    "dialect",
    [
        pytest.param(one, id=one.name, marks=pytest.mark.iommu_needs(dialect=one.name))
        for one in (SMMUV3_POSTED, SMMUV3_RFC)
    ],
)
def test_streams_name_their_domains(dialect: TextDialect, iommu_guest: GuestHandle) -> None:
    """The series as posted do not: a tree that adds the lines is judged by its own dialect."""
    printed = judge(iommu_guest, dialect)
    if NO_DOMAINS in (words for dump in printed.dumps for words in unsaid(dump)):
        pytest.skip(f"{dialect.name}: {NO_DOMAINS}")


@pytest.mark.parametrize("dialect", _cases())
def test_what_the_kernel_prints_is_right(dialect: TextDialect, iommu_guest: GuestHandle) -> None:
    # Domains of ours would be in the files of some, with mappings that no device uses.
    iommu_guest.run([ops.write_file(f"{MODULE}/control", b"reset\n")])
    printed = judge(iommu_guest, dialect)
    assert any(dump.tables or dump.streams or dump.contexts for dump in printed.dumps), "nothing is shown"
    if "RNG-1" in dialect.rules and not any(table.rows for table in printed.tables):
        pytest.skip(f"{dialect.name}: no device has anything mapped, so no table has a row")
