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

_ACS, _ISOLATES = 0x000D, 0x1D
"""PCI Express, 7.7.11: the capability, and the bits of its control register that keep devices apart."""

TIMEOUT = 30.0
"""Seconds of host time. A root port's button takes 5 s of guest time, which passes faster under icount."""

_STEP = 0.05


class NotIsolated(SetupError):
    """What is plugged into this port would share the port's IOMMU group."""


class Devices:
    """Hotplug in one guest, for the devices of its machine with ``hotplug: true`` and any others."""

    def __init__(self, guest: Guest, qmp: Qmp, machine: Machine) -> None:
        self._guest = guest
        self._qmp = qmp
        self._machine = machine

    def add(self, device: Device | str, timeout: float = TIMEOUT) -> None:
        """Plug in a device of the machine by its name, and wait until a driver of the guest binds to it.

        KernelHang if no driver binds within ``timeout`` seconds, SetupError if QEMU refuses the device. NotIsolated,
        before anything is plugged in, if its port's group would be its own: a domain of ours would then block the
        port's interrupts, without which nothing can be unplugged.
        """
        found = self._named(device) if isinstance(device, str) else device
        port = next((one for one in self._machine.devices if one.name == found.bus), None)
        if port is not None and not self._isolates(port):
            raise NotIsolated(f"this kernel does not enable ACS of {port.name}, so {found.name} would be in its group")
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

    def _isolates(self, port: Device) -> bool:
        """Whether the kernel has made a port keep what is below it apart from the port itself."""
        (config,) = self._guest.run([ops.read_file(f"/sys/bus/pci/devices/{_domain(port.address)}/config")]).results
        return not config.ok or isolates(config.data)

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


def isolates(config: bytes) -> bool:
    """Whether ACS is on in a function's configuration space; true if it is too short to tell."""
    at = 0x100
    while 0x100 <= at <= len(config) - 8:
        header = int.from_bytes(config[at : at + 4], "little")
        if header & 0xFFFF == _ACS:
            return int.from_bytes(config[at + 6 : at + 8], "little") & _ISOLATES == _ISOLATES
        at = header >> 20
    return len(config) < 0x1000
