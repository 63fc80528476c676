# SPDX-License-Identifier: GPL-2.0-only
"""Hotplug: QEMU, not the guest, plugs and unplugs devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.guest.devices import NotIsolated
from pytest_iommu.guest.testmodule import settled

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Device, Machine
    from pytest_iommu.core.protocol import Guest
    from pytest_iommu.guest.devices import Devices


def plug(guest: Guest, device: str, add: bool) -> None:
    """Plug or unplug a device of the machine with QMP. Skips if the target is not QEMU or its port does not isolate."""
    devices = devices_of(guest)
    try:
        (devices.add if add else devices.remove)(device)
    except NotIsolated as error:
        pytest.skip(error.message)
    guest.run([settled()])


def pluggable(machine: Machine) -> Device:
    """Return the device of a machine that is not there at boot: the first one. Skips where there is none."""
    found = next((device for device in machine.devices if device.hotplug), None)
    if found is None:
        pytest.skip(f"machine {machine.name} has no device to be plugged in")
    return found


def devices_of(guest: Guest) -> Devices:
    """Return the guest's hotplug interface. Skips if the target is not QEMU."""
    devices = capabilities(guest).devices
    if devices is None:
        pytest.skip("requires QEMU, to plug devices")
    return devices
