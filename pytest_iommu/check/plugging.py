# SPDX-License-Identifier: GPL-2.0-only
"""Devices that come and go: QEMU plugs them in and out, not the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_iommu.guest.capabilities import capabilities

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Guest
    from pytest_iommu.guest.devices import Devices


def plug(guest: Guest, device: str, add: bool) -> None:
    """Plug a device of the machine in, or out: by QEMU's hand, not the guest's. Skips where the guest is not QEMU's."""
    devices = devices_of(guest)
    (devices.add if add else devices.remove)(device)


def devices_of(guest: Guest) -> Devices:
    """What can be plugged into a guest. Skips where the guest is not QEMU's."""
    devices = capabilities(guest).devices
    if devices is None:
        pytest.skip("devices are plugged by QEMU, which is not there")
    return devices
