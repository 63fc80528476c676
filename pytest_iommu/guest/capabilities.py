# SPDX-License-Identifier: GPL-2.0-only
"""What a guest may have beyond core/protocol.py's Guest: QEMU's QMP and gdbstub, hot-plug, what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_iommu.core.protocol import Faults, Guest
    from pytest_iommu.guest.devices import Devices
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.guest.qmp import Qmp


@dataclass(frozen=True, slots=True)
class Capabilities:
    """None, or empty, where the guest has no such thing: a recording, a real machine, a target of another plugin.

    ``kernel`` describes the kernel in words, ``hello`` is what the agent said of it when it began.
    """

    qmp: Qmp | None = None
    gdb: Gdb | None = None
    devices: Devices | None = None
    faults: Faults | None = None
    kernel: str = ""
    hello: Mapping[str, str] = field(default_factory=dict)


def capabilities(guest: Guest | None) -> Capabilities:
    """The attributes of these names that a guest has."""
    names = [one.name for one in fields(Capabilities)]
    return Capabilities(**{name: getattr(guest, name) for name in names if hasattr(guest, name)})
