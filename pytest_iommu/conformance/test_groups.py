# SPDX-License-Identifier: GPL-2.0-only
"""The file groups: every device that has an IOMMU, the kind of its domain, and where its page table is shown.

VT-d and AMD have debugfs files of their own; what they say of a device's domain has to be the same.
"""

from __future__ import annotations

import re

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.witnesses.vtd_file import path_of
from pytest_iommu.conformance.helpers import group_line, groups
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.dialects.groups import GroupLine
from pytest_iommu.dialects.vtd import VTD
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS

pytestmark = pytest.mark.iommu_needs(machine="emulated", dialect="io_ptdump")

SYSFS = "/sys/kernel/iommu_groups"
AMD = f"{DEBUGFS}/amd"
#: what iommu_group_show_type() in drivers/iommu/iommu.c calls the kinds of default domains
DEFAULT = {"DMA": "dma", "DMA-FQ": "dma-fq", "identity": "identity"}
#: devtbl's last line: the device, its entry's words from 3 to 0, and the IOMMU
_DEVTBL = re.compile(r"0000:(\S+) (?:[0-9a-f]{16} ){4}iommu\d+(?: domain (\d+))?")


def expect(row: GroupLine, kind: str, domain: str) -> None:
    """CheckFailed with the rule of the column that is wrong."""
    for rule, have, want in (("GRP-2", row.kind, kind), ("GRP-3", row.domain, domain)):
        if have != want:
            what = f"groups has {have} for {row.device}, expected {want}: {row}"
            raise CheckFailed(what, (rule,), verdict=Verdict.DUMP)


def named_by_the_driver(guest: GuestHandle, device: str) -> str:
    """The domain that the driver's own debugfs names for a device, or `-`. Skips where there is no such file."""
    address = guest.machine.device(device).address
    vtd, amd = guest.run([ops.read_file(path_of(address)), ops.write_file(f"{AMD}/devid", address.encode())]).results
    if vtd.ok:
        tables = VTD.parse({"domain_translation_struct": ops.text_of(vtd)}).tables if vtd.data else ()
        return "-" if not tables or tables[0].domain is None else str(tables[0].domain)
    if not amd.ok:
        pytest.skip("no debugfs of the driver names domains: INTEL_IOMMU_DEBUGFS or AMD_IOMMU_DEBUGFS is needed")
    text = guest.read(f"{AMD}/devtbl").decode()
    row = _DEVTBL.fullmatch(text.splitlines()[-1])
    if row is None or row[1] != address:
        raise CheckFailed(f"devtbl has no entry of {address}: {text!r}", ("GRP-4",), verdict=Verdict.DUMP)
    return row[2] or "-"


@pytest.mark.iommu_rules("GRP-1")
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


@pytest.mark.iommu_rules("GRP-2", "GRP-3")
def test_default_domains_are_of_the_kind_that_sysfs_says(iommu_guest: GuestHandle) -> None:
    found = [row for row in groups(iommu_guest) if row.kind not in ("blocked", "unmanaged")]
    assert found
    kinds = iommu_guest.run([ops.read_file(f"{SYSFS}/{row.group}/type") for row in found]).results
    for row, result in zip(found, kinds, strict=True):
        kind = DEFAULT[ops.text_of(result).strip()]
        expect(row, kind, "-" if kind == "identity" else row.domain)
        if kind != "identity" and row.domain == "-":
            raise CheckFailed(f"groups has no id for {row.device}: {row}", ("GRP-3",), verdict=Verdict.DUMP)


@pytest.mark.iommu_rules("GRP-2", "GRP-3")
@pytest.mark.iommu_needs(devices=("edu0",))
def test_a_device_that_moves_names_its_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    stage = next(iter(iommu_guest.machine.stages))
    first, second = iommu.domain(stage=stage), iommu.domain(stage=stage)
    for domain in (first, second):
        domain.attach("edu0")
        expect(group_line(iommu_guest, "edu0"), "unmanaged", str(domain.id))
        iommu.command("detach edu0")
        expect(group_line(iommu_guest, "edu0"), "blocked", "-")


@pytest.mark.iommu_rules("STE-3", "GRP-2")
@pytest.mark.iommu_needs(machine="smmuv3", devices=("edu0",))
def test_a_stream_says_the_same(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    """The id, and what it means that there is none: `blocked` and `identity` are the same word in both."""
    streams, domain = iommu_guest.streams, iommu.domain(stage=next(iter(iommu_guest.machine.stages)))
    sid = streams.sid("edu0")
    domain.attach("edu0")
    assert streams.read([sid])[sid].domain == group_line(iommu_guest, "edu0").domain == domain.id
    iommu.command("detach edu0")
    kinds = {row.device: row.kind for row in groups(iommu_guest)}
    texts = streams.read([sid for sids in streams.devices().values() for sid in sids])
    said = {device: texts[sid].without for device, sids in streams.devices().items() for sid in sids}
    assert said[f"0000:{iommu_guest.machine.device('edu0').address}"] == "blocked"
    for device, without in said.items():
        if kinds[device] in ("blocked", "identity"):
            assert without == kinds[device], f"ste of {device} says `- {without}`, groups says {kinds[device]}"


@pytest.mark.iommu_rules("GRP-4")
@pytest.mark.iommu_needs(devices=("edu0", "edu1"))
def test_the_drivers_own_files_name_the_domain(iommu: Iommu, iommu_guest: GuestHandle) -> None:
    def check(device: str) -> None:
        have, want = named_by_the_driver(iommu_guest, device), group_line(iommu_guest, device).domain
        if have != want:
            what = f"the driver's debugfs names domain {have} for {device}, groups has {want}"
            raise CheckFailed(what, ("GRP-4",), verdict=Verdict.DUMP)

    stage = next(iter(iommu_guest.machine.stages))
    first, second = iommu.domain(stage=stage), iommu.domain(stage=stage)
    for domains in ((first, second), (second, second)):
        for device, domain in zip(("edu0", "edu1"), domains, strict=True):
            domain.attach(device)
            check(device)
        check("edu0")
        for device in ("edu0", "edu1"):
            iommu.command(f"detach {device}")
            check(device)
