# SPDX-License-Identifier: GPL-2.0-only
"""Bind a device of the guest to another driver for a while, through sysfs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.owners.guest_program import Owner
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.protocol import Op
from pytest_iommu.guest import ops

NO_IOMMU_SWITCH = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def driver_of(guest: GuestHandle, device: str) -> str | None:
    """Return the name of a device's driver; ``device`` is its directory in sysfs."""
    (link,) = guest.run([ops.readlink(f"{device}/driver")]).results
    return ops.text_of(link).rpartition("/")[2] if link.ok else None


INCOHERENT = {"riscv": "its IOMMU driver does not say whether DMA is coherent (IOMMU_CAP_CACHE_COHERENCY)"}
"""Why VFIO may refuse all devices (vfio_register_device()), by the kind of IOMMU: 7.3's driver has no capable()."""


@contextmanager
def plugged_in(guest: GuestHandle, name: str) -> Iterator[None]:
    """Have a device of the machine in the guest with its driver, whether it is there at boot or not."""
    hotplug = guest.machine.device(name).hotplug
    if hotplug:
        guest.plug(name)
    try:
        yield
    finally:
        if hotplug and guest.alive:
            guest.plug(name, add=False)


@contextmanager
def driven_by(guest: GuestHandle, bus: str, name: str, driver: str, may_refuse: str = "") -> Iterator[str]:
    """Bind the device ``name`` of a bus to ``driver``, and back at the end; yields its sysfs directory.

    Skips without the driver. If the driver does not bind that is a SetupError, or a skip with the reason
    ``may_refuse``. If the old driver does not bind again, the guest is replaced, because other tests need the device
    as it was.
    """
    device, drivers = f"/sys/bus/{bus}/devices/{name}", f"/sys/bus/{bus}/drivers"
    if not guest.run([ops.stat(f"{drivers}/{driver}")]).results[0].ok:
        pytest.skip(f"this kernel has no driver {driver}")
    before = driver_of(guest, device)
    away = [ops.write_file(f"{drivers}/{before}/unbind", name.encode())] if before else []
    take = [
        *away,
        ops.write_file(f"{device}/driver_override", driver.encode()),
        ops.write_file(f"/sys/bus/{bus}/drivers_probe", name.encode()),
    ]
    back = [
        ops.write_file(f"{drivers}/{driver}/unbind", name.encode()),
        ops.write_file(f"{device}/driver_override", b"\n"),
        *([ops.write_file(f"{drivers}/{before}/bind", name.encode())] if before else []),
    ]
    try:
        problem = _all(guest, take)
        if problem or driver_of(guest, device) != driver:
            if may_refuse and not problem:
                pytest.skip(f"{driver} does not bind to {name}: {may_refuse}")
            raise SetupError(f"{driver} does not bind to {name}{problem}")
        yield device
    finally:
        if guest.alive:
            _all(guest, back)
            if driver_of(guest, device) != before:
                guest.fresh()


def _all(guest: GuestHandle, batch: list[Op]) -> str:
    """Run all operations; returns the first failure, or nothing."""
    for op, result in zip(batch, guest.run(batch).results, strict=True):
        if not result.ok:
            return f": writing {op.data!r} to {op.path} failed: {ops.errno_name(result.value)}"
    return ""


@contextmanager
def vfio(guest: GuestHandle, owner: Owner, name: str) -> Iterator[str]:
    """Bind a PCI device of the machine to vfio-pci; yields its directory in sysfs."""
    address, why = f"0000:{guest.machine.device(name).address}", INCOHERENT.get(guest.machine.iommu_type, "")
    with driven_by(guest, "pci", address, "vfio-pci", why) as device:
        try:
            yield device
        finally:
            owner.end()  # VFIO does not release an open device


def node(guest: GuestHandle, device: str) -> str:
    """Return the character device of a VFIO device, for iommufd. Skips where iommufd's domains are for no stage here.

    VT-d's driver makes first stages for user space only since it uses generic_pt (intel_iommu_domain_alloc_user()).
    """
    if guest.own_tables and guest.machine.iommu_type == "vtd" and "s2" not in guest.machine.stages:
        pytest.skip("iommufd has second stages alone in this kernel, and this IOMMU has none")
    (listed,) = guest.run([ops.list_directory(f"{device}/vfio-dev")]).results
    if not listed.ok:
        raise SetupError(f"{device} has no vfio-dev: {ops.errno_name(listed.value)}")
    return f"/dev/vfio/devices/{ops.text_of(listed).splitlines()[0].rstrip('/')}"


def iommu_group(guest: GuestHandle, device: str) -> str:
    """Return the number of a device's IOMMU group; ``device`` is its directory in sysfs."""
    (link,) = guest.run([ops.readlink(f"{device}/iommu_group")]).results
    return ops.text_of(link).rpartition("/")[2]


def group(guest: GuestHandle, device: str) -> str:
    """Return the character device of a VFIO device's group."""
    return f"/dev/vfio/{iommu_group(guest, device)}"


@contextmanager
def without_iommu(guest: GuestHandle, owner: Owner) -> Iterator[str]:
    """Bind a device without an IOMMU to VFIO (no-IOMMU mode); yields its directory in sysfs."""
    names = ops.text_of(guest.run([ops.list_directory("/sys/bus/platform/devices")]).results[0]).splitlines()
    slots = [name.rstrip("@/") for name in names if ".virtio_mmio" in name]
    if not slots:
        pytest.skip(f"machine {guest.key.machine} has no virtio-mmio slots, which would have no IOMMU")
    (allowed,) = guest.run([ops.write_file(NO_IOMMU_SWITCH, b"Y")]).results
    if not allowed.ok:
        raise SetupError(f"writing to {NO_IOMMU_SWITCH} failed: {ops.errno_name(allowed.value)}")
    try:
        with driven_by(guest, "platform", slots[0], "vfio-platform") as device:
            try:
                yield device
            finally:
                owner.end()
    finally:
        if guest.alive:
            guest.run([ops.write_file(NO_IOMMU_SWITCH, b"N")])
