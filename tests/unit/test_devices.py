# SPDX-License-Identifier: GPL-2.0-only
"""Hotplug needs a port whose group the plugged device does not share: the port's ACS is on."""

from __future__ import annotations

import pytest

from pytest_iommu.guest.devices import isolates


def config(control: int, acs: bool = True, size: int = 0x1000) -> bytes:
    """A configuration space with AER at 0x100, and ACS behind it."""
    data = bytearray(0x1000)
    data[0x100:0x104] = (0x0001 | 2 << 16 | (0x148 if acs else 0) << 20).to_bytes(4, "little")
    if acs:
        data[0x148:0x14C] = (0x000D | 1 << 16).to_bytes(4, "little")
        data[0x14C:0x150] = (0x5F | control << 16).to_bytes(4, "little")
    return bytes(data[:size])


@pytest.mark.parametrize(
    ("space", "apart"),
    [
        (config(0x1D), True),
        (config(0x5F), True),
        (config(0x00), False),
        (config(0x0D), False),
        (config(0, acs=False), False),
        (config(0, size=256), True),  # what an unprivileged reader gets says nothing
        (b"", True),
    ],
)
def test_a_port_that_keeps_devices_apart(space: bytes, apart: bool) -> None:
    assert isolates(space) is apart
