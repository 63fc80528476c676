# SPDX-License-Identifier: GPL-2.0-only
"""Default domains of the guest's IOMMU groups: the types that the kernel was configured for, and their actual types.

Distributions often boot with iommu.passthrough=1 (identity domains, without a page table) or iommu.strict=0 (DMA-FQ).
Tests follow that configuration; sysfs shows the actual type of a group.
"""

from __future__ import annotations

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.witnesses import passed
from pytest_iommu.check.witnesses.in_ram import InRam
from pytest_iommu.core.model import TableConfig
from pytest_iommu.core.outcomes import CheckFailed, SetupError, Verdict
from pytest_iommu.guest import ops

GROUPS = "/sys/kernel/iommu_groups"
IDENTITY, STRICT, LAZY = passed.IDENTITY, "DMA", "DMA-FQ"
"""Types as written in sysfs."""

INFO = {STRICT: "dma", LAZY: "dma-fq"}
"""Types as written in a domain's info. An identity domain has no table and no directory."""

DMA = "CONFIG_IOMMU_DMA=y"
"""The DMA API by page tables; an architecture has it or not (not RISC-V in 7.3), and without it all is identity."""

_TRUE, _FALSE = ("1", "y", "Y", "t", "T", "on"), ("0", "n", "N", "f", "F", "off")


def group_types(guest: GuestHandle) -> dict[str, str]:
    """Return group -> type of its default domain."""
    (listed,) = guest.run([ops.list_directory(GROUPS)]).results
    names = [name.rstrip("/") for name in ops.text_of(listed).splitlines()] if listed.ok else []
    return {name: guest.read(f"{GROUPS}/{name}/type").decode().strip() for name in names}


def group_of(guest: GuestHandle, device: str) -> str:
    """Return the sysfs directory of the IOMMU group of a device, given by its own. SetupError without a group."""
    (link,) = guest.run([ops.readlink(f"{device}/iommu_group")]).results
    if not link.ok:
        raise SetupError(f"{device} has no IOMMU group: {ops.errno_name(link.value)}")
    return f"{GROUPS}/{ops.text_of(link).rpartition('/')[2]}"


def type_of(guest: GuestHandle, device: str) -> str:
    """Return the type of a device's default domain; ``device`` is its directory in sysfs."""
    return guest.read(f"{group_of(guest, device)}/type").decode().strip()


def set_type(guest: GuestHandle, type_file: str, kind: str) -> None:
    """Change the type of a default domain; the group's devices have no driver. ``type_file`` is the group's.

    Where QEMU would pass a device's DMA from then on, no other test gets the guest.
    """
    guest.write(type_file, kind)
    if kind == IDENTITY and passed.goes_on(guest.in_ram.iommu if guest.in_ram is not None else None):
        guest.spoilt = passed.WHY


def table_of(guest: GuestHandle, name: str) -> tuple[InRam, TableConfig, int]:
    """The witness, with configuration and top of the table that the IOMMU walks for a device of a driver."""
    witness = guest.in_ram
    if witness is None or witness.iommu is None:
        pytest.skip("needs a guest whose memory the host can see, with an IOMMU")
    device = guest.machine.device(name)
    if type_of(guest, f"/sys/bus/pci/devices/0000:{device.address}") == IDENTITY:
        pytest.skip(f"needs a default domain with a table: that of {name} is {IDENTITY}")
    found = witness.iommu.table(device.sid)
    if found is None:
        raise CheckFailed(
            f"the entries of {name} lead to no table", ("HW-1",), verdict=Verdict.ENTRIES, table=witness.root
        )
    return witness, *found


def _without_dma(lines: frozenset[str] | None) -> bool:
    return lines is not None and DMA not in lines


def require_dma_domains(guest: GuestHandle) -> None:
    """Skip on a kernel whose default domains cannot have a table."""
    if _without_dma(guest.kernel_config):
        pytest.skip(f"this kernel has no default domains with a table: {DMA}")


def configured(guest: GuestHandle) -> str | None:
    """Return the type that default domains must have by the kernel's command line and configuration.

    None if it depends on the configuration and that is unknown, as for a ready image.
    """
    passthrough, strict = _from_command_line(guest.read("/proc/cmdline").decode())
    lines = guest.kernel_config
    if _without_dma(lines):
        return IDENTITY
    if passthrough is None and lines is not None:
        passthrough = "CONFIG_IOMMU_DEFAULT_PASSTHROUGH=y" in lines
    if passthrough:
        return IDENTITY
    if strict is None and lines is not None:
        strict = "CONFIG_IOMMU_DEFAULT_DMA_LAZY=y" not in lines
    return None if passthrough is None or strict is None else STRICT if strict else LAZY


def _from_command_line(text: str) -> tuple[bool | None, bool | None]:
    """Return the last values of iommu.passthrough and iommu.strict; None if not given."""
    found: dict[str, bool] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name in ("iommu.passthrough", "iommu.strict") and value in (*_TRUE, *_FALSE):
            found[name] = value in _TRUE
    return found.get("iommu.passthrough"), found.get("iommu.strict")
