# SPDX-License-Identifier: GPL-2.0-only
"""Tables that work and have no dump: of a format that has none, or with pages that are free without a grace period."""

from __future__ import annotations

import pytest

from pytest_iommu import formats
from pytest_iommu.dialects import IO_PTDUMP
from pytest_iommu.domains import GuestHandle, Iommu
from pytest_iommu.model import Prot
from pytest_iommu.oracle import TableModel
from pytest_iommu.owners.directories import directories
from pytest_iommu.testmodule import MODULE, parse_domains

pytestmark = pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump")

BASE, OA, SIZE = 0x31200000, 0x912400000, 4 << 20
MALI = "arm_mali_lpae"
WITHOUT = {
    MALI: f"format={MALI}",
    **{name: f"format={name} pages=own" for name in formats.names() if name.startswith("arm_")},
}


@pytest.mark.iommu_rules("FLT-2", "LAY-2")
@pytest.mark.parametrize("what", WITHOUT)
def test_a_table_without_a_dump_has_no_directory(what: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """Its like with a dump has one, so it is not missed for another reason."""
    before = directories(iommu_guest)
    made = iommu.command(f"domain without {WITHOUT[what]}")
    assert made["id"] == "-", f"{what} has the directory {made['id']}"
    assert directories(iommu_guest) == before
    iommu.command(f"domain with {WITHOUT['arm_64_lpae_s1' if what == MALI else what].replace(' pages=own', '')}")
    assert len(directories(iommu_guest) - before) == 1

    iommu.command(f"map without {BASE:#x} {OA:#x} {SIZE:#x} rw leaf=4K")
    iommu.command(f"unmap without {BASE:#x} {SIZE // 2:#x}")
    iommu.command(f"map without {BASE:#x} {OA:#x} 2M r")
    if what != MALI and iommu_guest.in_ram is not None:
        model = TableModel(formats.configure(what))
        model.map(BASE + SIZE // 2, OA + SIZE // 2, SIZE // 2, Prot.from_letters("rw"), 4096)
        model.map(BASE, OA, SIZE // 2, Prot.from_letters("r"))
        row = parse_domains(iommu_guest.read(f"{MODULE}/domains").decode())["without"]
        texts = iommu_guest.in_ram.texts(model.config, row)
        assert texts is not None
        assert IO_PTDUMP.parse({"page_table": texts["page_table"]}).ranges == model.snapshot().ranges
    assert len(directories(iommu_guest) - before) == 1
    iommu.command("destroy without")
    iommu.command("destroy with")
    assert directories(iommu_guest) == before
