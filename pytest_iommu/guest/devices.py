# SPDX-License-Identifier: GPL-2.0-only
"""Hotplug of devices in a running guest: QEMU plugs and unplugs them, and the guest takes part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_iommu.core.outcomes import GuestLost, KernelHang, SetupError
from pytest_iommu.core.waiting import Deadline
from pytest_iommu.guest import ops
from pytest_iommu.guest.qmp import QmpError

if TYPE_CHECKING:
    from pytest_iommu.core.machines import Device, Machine
    from pytest_iommu.core.protocol import Guest
    from pytest_iommu.guest.qmp import Qmp

TIMEOUT = 30.0
"""Seconds of host time. A root port's button takes 5 s of guest time, which passes faster under icount."""

_STEP = 0.05


class Devices:
    """Hotplug in one guest, for the devices of its machine with ``hotplug: true`` and any others."""

    def __init__(self, guest: Guest, qmp: Qmp, machine: Machine) -> None:
        self._guest = guest
        self._qmp = qmp
        self._machine = machine

    def add(self, device: Device | str, timeout: float = TIMEOUT) -> None:
        """Plug in a device of the machine by its name, and wait until a driver of the guest binds to it.

        KernelHang if no driver binds within ``timeout`` seconds, SetupError if QEMU refuses the device.
        """
        found = self._named(device) if isinstance(device, str) else device
        # This is a command of the human monitor: QMP would need to know which properties are numbers.
        self._monitor(f"device_add {found.argument}")
        driver = f"/sys/bus/pci/devices/{_domain(found.address)}/driver"
        self._wait(f"no driver bound to {found.name}", lambda: self._exists(driver), timeout)

    def remove(self, name: str, timeout: float = TIMEOUT) -> None:
        """Ask the guest to release a device, as the button of its slot does, and wait until it is unplugged.

        KernelHang if the guest does not release it within ``timeout`` seconds, SetupError if there is no such device.
        """
        self.press(name)
        self.await_out(name, timeout)

    def press(self, name: str) -> None:
        """The first half of remove(): press the slot's button. SetupError if there is no such device."""
        self._monitor(f"device_del {name}")

    def await_out(self, name: str, timeout: float = TIMEOUT) -> None:
        """The second half of remove()."""
        self._wait(f"the guest did not release {name}", lambda: self._deleted(name), timeout)

    def present(self, device: Device | str) -> bool:
        """Whether the guest's kernel has a device at that address."""
        found = self._named(device) if isinstance(device, str) else device
        return self._exists(f"/sys/bus/pci/devices/{_domain(found.address)}")

    def _named(self, name: str) -> Device:
        try:
            return self._machine.device(name)
        except KeyError:
            raise SetupError(f"machine {self._machine.name} has no device {name}") from None

    def _monitor(self, line: str) -> None:
        try:
            said = self._qmp.monitor(line).strip()
        except QmpError as error:
            raise GuestLost(f"{line}: {error}", self._guest.evidence()) from error
        if said:
            raise SetupError(f"{line}: {said}", self._guest.evidence())

    def _exists(self, path: str) -> bool:
        return self._guest.run([ops.stat(path)]).results[0].ok

    def _deleted(self, name: str) -> bool:
        try:
            return self._qmp.wait("DEVICE_DELETED", 0, device=name) is not None
        except QmpError as error:
            raise GuestLost(f"device_del {name}: {error}", self._guest.evidence()) from error

    def _wait(self, what: str, done: Callable[[], bool], timeout: float) -> None:
        deadline = Deadline(timeout)
        while not done():
            if deadline.over:
                raise KernelHang(f"{what} within {timeout:.0f} s", self._guest.evidence())
            # The guest may be paused, and has to run for this.
            self._guest.run([ops.sleep(int(_STEP * 1000))])


def _domain(address: str) -> str:
    return address if address.count(":") == 2 else f"0000:{address}"
