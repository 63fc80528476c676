# SPDX-License-Identifier: GPL-2.0-only
"""The handle that the fixture iommu_guest returns: a guest of the pool, which may be replaced during the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_iommu.check import platform, reading
from pytest_iommu.check.plugging import devices_of, plug
from pytest_iommu.check.witnesses.in_ram import in_ram
from pytest_iommu.check.witnesses.streams import Streams
from pytest_iommu.core.boot_modes import BOOT_MODES, HELD
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestAnswered, GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.guest import ops
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.guest.state import Touched, touched_by
from pytest_iommu.guest.testmodule import DEBUGFS

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.core.flavours import Sizes
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.core.protocol import Guest, Memory
    from pytest_iommu.dialects import Dialect, TextDialect
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.scenario import Instance


class GuestFileError(GuestAnswered, OSError):
    """Reading or writing a guest file failed; has the errno and path of any OSError."""


class Guests(Protocol):
    """The provider of guests for a handle: session/run.py."""

    def take(self, key: Key, fresh: bool = False) -> Guest:
        """Return the guest for that key. Raises the exceptions of session/pool.py if there is none."""

    def discard(self, guest: Guest, reason: str) -> None:
        """Discard a guest, so that no other test gets it."""

    def remember(self, guest: Guest) -> None:
        """Record the state of a guest that a test is about to change."""

    def machine(self, name: str) -> Machine:
        """Return the machine of that name."""

    def dialect(self, key: Key, guest: Guest) -> Dialect:
        """The dialect of the kernel's dump."""

    def spoken(self, key: Key, guest: Guest) -> tuple[TextDialect, ...]:
        """The dialects of other kernels of which the kernel has files."""

    def kernel_config(self, key: Key) -> frozenset[str] | None:
        """The lines of the kernel's configuration; None if unknown."""

    def sizes(self, key: Key) -> Sizes:
        """The sizes of the kernel by its configuration, or by its flavour if that is unknown."""


class GuestHandle:
    """A guest of the pool, identified by its key: after fresh() the test continues on the next guest of that key."""

    def __init__(self, guests: Guests, key: Key, fresh: bool = False) -> None:
        self._guests = guests
        self.key = key
        self._take(fresh)

    def _take(self, fresh: bool) -> None:
        self._guest = self._guests.take(self.key, fresh)
        self._end: IommuError | None = None
        self.touched = Touched.NOTHING
        #: why no other test may get this guest, although nothing can be seen in it
        self.spoilt = ""

    @property
    def alive(self) -> bool:
        """Whether the guest is still usable."""
        return self._end is None

    @property
    def dialect(self) -> Dialect:
        """What the kernel's dump is written in. Skips on a kernel without a dump."""
        found = self.dialect_or_none
        if not found.files:
            pytest.skip(f"this kernel has no page-table dump in {DEBUGFS} that any dialect knows")
        return found

    @property
    def dialect_or_none(self) -> Dialect:
        """What the kernel's dump is written in; NO_DUMP on a kernel without one."""
        return self._guests.dialect(self.key, self._guest)

    @property
    def spoken(self) -> tuple[TextDialect, ...]:
        """The dialects of other kernels of which this kernel has files."""
        return self._guests.spoken(self.key, self._guest)

    @property
    def memory(self) -> Memory | None:
        """The guest's RAM and registers, as the host sees them; None in a recording."""
        return self._guest.memory

    @property
    def gdb(self) -> Gdb | None:
        """QEMU's gdbstub; None without QEMU. SetupError if the guest was booted without a gdbstub."""
        if not BOOT_MODES[self.key.boot_mode].gdb:
            raise SetupError(f'{self.key} has no gdbstub: mark the test with @pytest.mark.iommu_boot_mode("{HELD}")')
        return capabilities(self._guest).gdb

    @property
    def kernel_config(self) -> frozenset[str] | None:
        """The lines of the kernel's configuration; None if unknown."""
        return self._guests.kernel_config(self.key)

    def hardware_table(self, stage: str) -> TableConfig:
        """What the page table of a hardware domain of that stage is like here; skips where there is no such stage."""
        return platform.hardware_table(self._guest, self.machine, stage, self._guests.sizes(self.key))

    @property
    def own_tables(self) -> bool:
        """Whether domains have page tables of the driver's own, see Sizes; False where no test module says so."""
        found = platform.platform_of(self._guest, self.machine)
        return found is not None and found.kernel.own_tables

    def placed(self, instance: Instance) -> Instance:
        """Return the instance with hardware domains as this guest has them; skips if it has none like these."""
        return platform.placed(instance, self._guest, self.machine)

    def judge(self, instance: Instance, compared: reading.Compared = reading.ignore_comparison) -> None:
        """Run a scenario on this guest. CheckFailed lists all differences."""
        from pytest_iommu.check.runner import Scenario
        from pytest_iommu.check.witnesses.accounting import page_of

        __tracebackhide__ = True
        with self._noticed():
            counted = page_of(self.key.flavour, self._guests.sizes(self.key))
            Scenario(instance, self._guest, self.machine, self.dialect_or_none, compared, counted).execute()

    @property
    def page(self) -> int:
        """Bytes of a page of the kernel."""
        found = platform.platform_of(self._guest, self.machine)
        return (found.kernel if found is not None else self._guests.sizes(self.key)).page

    @property
    def in_ram(self) -> InRam | None:
        """The witness that reads the guest's memory; None if the memory is not accessible."""
        return in_ram(self._guest, self.machine)

    @property
    def machine(self) -> Machine:
        """The machine of the guest."""
        return self._guests.machine(self.key.machine)

    @property
    def streams(self) -> Streams:
        """The SMMU's debugfs view of the guest's streams. SetupError on a machine without an SMMUv3."""
        witness = self.in_ram
        return Streams(self.run, self.machine, witness.smmu if witness is not None else None)

    @property
    def console(self) -> str:
        """The end of the guest's console output."""
        return self.evidence().console

    def evidence(self) -> Evidence:
        """Return the evidence that a failure report shows."""
        return self._guest.evidence()

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
        """Run operations of pytest_iommu.guest.ops in one round trip; ``timeout`` in seconds."""
        __tracebackhide__ = True
        with self._noticed():
            touched = touched_by(batch)
            if touched:
                self._touch(touched)
            return self._guest.run(batch, timeout)

    def _touch(self, what: Touched = Touched.SYSTEM) -> None:
        """Record the state of the guest before a test changes it."""
        self._guests.remember(self._guest)
        self.touched |= what

    def plug(self, device: str, add: bool = True) -> None:
        """Plug or unplug a device of the machine; skips if the target is not QEMU."""
        __tracebackhide__ = True
        with self._noticed():
            self._touch()
            plug(self._guest, device, add)

    @contextmanager
    def pulling(self, device: str) -> Iterator[None]:
        """Press the attention button of a device's slot and wait until it is out, which takes 5 s of guest time."""
        __tracebackhide__ = True
        with self._noticed():
            self._touch()
            devices_of(self._guest).press(device)
        try:
            yield
        finally:
            if self.alive:
                with self._noticed():
                    devices_of(self._guest).await_out(device)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """If the guest ends badly, later uses of it fail in the same way, so that no clean-up hides the cause.

        The guest is discarded at the end of the test. This may be a thread, and the guest's evidence is still needed.
        """
        __tracebackhide__ = True
        if self._end is not None:
            raise self._end
        try:
            yield
        except (KernelCrash, KernelHang, GuestLost) as error:
            self._end = error
            raise

    def end(self, error: IommuError) -> None:
        """Discard the guest: all later uses of it raise ``error``."""
        self._end = error
        self._guests.discard(self._guest, error.message)

    def read(self, path: str) -> bytes:
        """Read a whole file of the guest. GuestFileError, an OSError, if that fails."""
        __tracebackhide__ = True
        (result,) = self.run([ops.read_file(path)]).results
        if not result.ok:
            raise GuestFileError(-result.value, ops.errno_name(result.value), path)
        return result.data

    def write(self, path: str, text: str) -> None:
        """Write to a file of the guest, in one write(2). GuestFileError, an OSError, if that fails."""
        __tracebackhide__ = True
        (result,) = self.run([ops.write_file(path, text.encode())]).results
        if not result.ok:
            raise GuestFileError(-result.value, f"{ops.errno_name(result.value)}, writing {text!r}", path)

    def ask_qemu(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers to a QMP command. Skips where there is no QEMU."""
        qmp = capabilities(self._guest).qmp
        if qmp is None:
            pytest.skip(f"requires QEMU, for the QMP command {command}")
        return qmp.command(command, **arguments)

    def fresh(self) -> None:
        """Switch to a freshly booted guest."""
        self._take(fresh=True)
