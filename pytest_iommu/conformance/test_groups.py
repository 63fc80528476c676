# SPDX-License-Identifier: GPL-2.0-only
"""The file groups: every device that has an IOMMU, the kind of its domain, and where its page table is shown."""

from __future__ import annotations

import pytest

from pytest_iommu.check.handles import GuestHandle, Iommu
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.groups import GroupLine, parse_groups
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump"),
    pytest.mark.iommu_rules("GRP-1", "GRP-2", "GRP-3"),
]

SYSFS = "/sys/kernel/iommu_groups"
#: what iommu_group_show_type() in drivers/iommu/iommu.c calls the kinds of default domains
DEFAULT = {"DMA": "dma", "DMA-FQ": "dma-fq", "identity": "identity"}


def groups(guest: GuestHandle) -> tuple[GroupLine, ...]:
    """The lines of groups. Skips where the dump has no such file."""
    (result,) = guest.run([ops.read_file(f"{DEBUGFS}/groups")]).results
    if ops.errno_name(result.value) == "ENOENT":
        pytest.skip("this kernel's dump has no file groups")
    assert result.ok, ops.errno_name(result.value)
    try:
        return parse_groups(ops.text_of(result))
    except DumpSyntaxError as error:
        raise CheckFailed(str(error), (error.rule,), verdict=Verdict.DUMP) from error


def line_of(guest: GuestHandle, device: str) -> GroupLine:
    """The one line of a device of the machine that is not about a PASID."""
    name = f"0000:{guest.machine.device(device).address}"
    found = [row for row in groups(guest) if row.device == name and row.pasid is None]
    assert len(found) == 1, f"{name} has {len(found)} lines"
    return found[0]


def test_every_device_of_every_group_has_a_line(iommu_guest: GuestHandle) -> None:
    found = groups(iommu_guest)
    (listed,) = iommu_guest.run([ops.list_directory(SYSFS)]).results
    numbers = [name.rstrip("/") for name in ops.text_of(listed).splitlines()]
    members = iommu_guest.run([ops.list_directory(f"{SYSFS}/{number}/devices") for number in numbers]).results
    wanted = {
        (int(number), name.rstrip("@/"))
        for number, result in zip(numbers, members, strict=True)
        for name in ops.text_of(result).splitlines()
    }
    assert wanted
    assert {(row.group, row.device) for row in found} == wanted
    assert len(found) == len(wanted), "a device has two lines"


def test_default_domains_are_of_the_kind_that_sysfs_says(iommu_guest: GuestHandle) -> None:
    found = [row for row in groups(iommu_guest) if row.kind not in ("blocked", "unmanaged")]
    assert found
    kinds = iommu_guest.run([ops.read_file(f"{SYSFS}/{row.group}/type") for row in found]).results
    for row, result in zip(found, kinds, strict=True):
        assert row.kind == DEFAULT.get(ops.text_of(result).strip()), row
        assert (row.domain == "-") is (row.kind == "identity"), row


@pytest.mark.iommu_rules("STE-3")
def test_a_device_that_moves_names_its_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    stage = next(iter(iommu_guest.machine.stages))
    first, second = iommu.domain(stage=stage), iommu.domain(stage=stage)
    for domain in (first, second):
        domain.attach("edu0")
        row = line_of(iommu_guest, "edu0")
        assert (row.kind, row.domain) == ("unmanaged", domain.id)
        if iommu_guest.machine.smmu is not None:
            sid = iommu_guest.streams.sid("edu0")
            assert iommu_guest.streams.read([sid])[sid].domain == domain.id
        iommu.command("detach edu0")
        row = line_of(iommu_guest, "edu0")
        assert (row.kind, row.domain) == ("blocked", "-")
