# SPDX-License-Identifier: GPL-2.0-only
"""What the fixtures hand out: a guest that can be replaced, and domains in it with a model of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_iommu.check import reading
from pytest_iommu.check.plugging import devices_of, plug
from pytest_iommu.check.witnesses.in_ram import in_ram
from pytest_iommu.check.witnesses.streams import Streams
from pytest_iommu.core.boot_modes import BOOT_MODES, RACES
from pytest_iommu.core.key import Key
from pytest_iommu.core.model import Dump, Prot, format_size, parse_size
from pytest_iommu.core.outcomes import (
    CheckFailed,
    GuestAnswered,
    GuestLost,
    IommuError,
    KernelCrash,
    KernelHang,
    SetupError,
    Verdict,
)
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.capabilities import capabilities
from pytest_iommu.guest.state import Touched, touched_by
from pytest_iommu.guest.testmodule import DEBUGFS, command_ops, parse_status, status_text

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.core.protocol import Guest, Memory
    from pytest_iommu.dialects import Dialect
    from pytest_iommu.guest.gdb import Gdb


#: a command of the test module, and the same for the model
Task = tuple[str, Callable[[], None]]


class CommandError(GuestAnswered):
    """The test module refused a command: ``errno`` is the name, e.g. ``EEXIST``."""

    def __init__(self, command: str, errno: str, message: str) -> None:
        super().__init__(f"{command}: {errno}: {message}")
        self.errno = errno


class GuestFileError(GuestAnswered, OSError):
    """A file of the guest could not be read or written; errno and path as of any OSError."""


class Guests(Protocol):
    """Where a handle has its guest from: session/run.py."""

    def take(self, key: Key, fresh: bool = False) -> Guest:
        """The guest of that key. Raises the exceptions of session/pool.py where there is none."""

    def discard(self, guest: Guest, reason: str) -> None:
        """Throw a guest away: nobody gets it any more."""

    def remember(self, guest: Guest) -> None:
        """Note what a guest looks like that a test is about to change."""

    def machine(self, name: str) -> Machine:
        """The machine of that name."""

    def dialect(self, key: Key, guest: Guest) -> Dialect:
        """What the kernel's dump is written in."""

    def kernel_config(self, key: Key) -> frozenset[str] | None:
        """The lines of the kernel's configuration; None where nobody knows it."""


class GuestHandle:
    """A guest of the pool, by what it is and not which: a test goes on with the next one after fresh()."""

    def __init__(self, guests: Guests, key: Key, fresh: bool = False) -> None:
        self._guests = guests
        self.key = key
        self._take(fresh)

    def _take(self, fresh: bool) -> None:
        self._guest = self._guests.take(self.key, fresh)
        self._end: IommuError | None = None
        self.touched = Touched.NOTHING

    @property
    def alive(self) -> bool:
        """Whether it has not ended badly."""
        return self._end is None

    @property
    def dialect(self) -> Dialect:
        """What the kernel's dump is written in; skips where there is none."""
        return self._guests.dialect(self.key, self._guest)

    @property
    def memory(self) -> Memory | None:
        """The guest's RAM and registers, as the host sees them; None in a recording."""
        return self._guest.memory

    @property
    def gdb(self) -> Gdb | None:
        """QEMU's gdbstub; None where there is no QEMU. SetupError for a guest that was booted without one."""
        if not BOOT_MODES[self.key.boot_mode].gdb:
            raise SetupError(f'{self.key} has no gdbstub: mark the test with @pytest.mark.iommu_boot_mode("{RACES}")')
        return capabilities(self._guest).gdb

    @property
    def kernel_config(self) -> frozenset[str] | None:
        """The lines of the kernel's configuration; None where nobody knows it."""
        return self._guests.kernel_config(self.key)

    @property
    def in_ram(self) -> InRam | None:
        """The witness that reads the guest's memory; None where there is none to look into."""
        return in_ram(self._guest, self.machine)

    @property
    def machine(self) -> Machine:
        """The machine that the guest is."""
        return self._guests.machine(self.key.machine)

    @property
    def streams(self) -> Streams:
        """What the SMMU's debugfs says of the guest's streams. SetupError on a machine without a SMMUv3."""
        witness = self.in_ram
        return Streams(self.run, self.machine, witness.smmu if witness is not None else None)

    @property
    def console(self) -> str:
        """The last of what the guest printed."""
        return self.evidence().console

    def evidence(self) -> Evidence:
        """What a failure report shows of the guest."""
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
        """A test is about to change the guest: note what it may change, and what the guest looks like before."""
        self._guests.remember(self._guest)
        self.touched |= what

    def plug(self, device: str, add: bool = True) -> None:
        """Plug a device of the machine in, or out; skips where the guest is not QEMU's."""
        __tracebackhide__ = True
        with self._noticed():
            self._touch()
            plug(self._guest, device, add)

    @contextmanager
    def pulling(self, device: str) -> Iterator[None]:
        """The button of a device's slot is pressed; afterwards it is out, which takes 5 s of the guest's clock."""
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
        """Whatever is asked of a guest that ended badly in here ends in the same way: no clean-up hides how it ended.

        It is thrown away when the test has ended: this may be a thread, and its evidence is still wanted.
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
        """Throw the guest away: whatever it is asked from now on raises ``error``."""
        self._end = error
        self._guests.discard(self._guest, error.message)

    def read(self, path: str) -> bytes:
        """A whole file of the guest. GuestFileError, an OSError, when it cannot be read."""
        __tracebackhide__ = True
        (result,) = self.run([ops.read_file(path)]).results
        if not result.ok:
            raise GuestFileError(-result.value, ops.errno_name(result.value), path)
        return result.data

    def write(self, path: str, text: str) -> None:
        """Write to a file of the guest, in one write(2). GuestFileError, an OSError, when it does not take it."""
        __tracebackhide__ = True
        (result,) = self.run([ops.write_file(path, text.encode())]).results
        if not result.ok:
            raise GuestFileError(-result.value, f"{ops.errno_name(result.value)}, writing {text!r}", path)

    def ask_qemu(self, command: str, **arguments: Any) -> Any:
        """What QEMU answers to a QMP command. Skips where there is no QEMU."""
        qmp = capabilities(self._guest).qmp
        if qmp is None:
            pytest.skip(f"needs QEMU, to be asked {command}")
        return qmp.command(command, **arguments)

    def fresh(self) -> None:
        """Go on with a freshly booted guest."""
        self._take(fresh=True)


class Domain:
    """A domain or software table in the guest, and the model of its mappings. Sizes in bytes or as ``16K``."""

    def __init__(self, iommu: Iommu, name: str, number: str, config: TableConfig) -> None:
        from pytest_iommu.oracle import TableModel

        self.name = name
        self.id = number
        self.config = config
        self.model = TableModel(config)
        self._iommu = iommu

    @property
    def page(self) -> int:
        """The smallest page size, in bytes."""
        return min(self.config.page_sizes)

    def map(self, iova: int, oa: int, size: int | str, prot: str = "rw", leaf: int | str | None = None) -> None:
        """Map. CommandError when it is refused; then nothing has changed."""
        __tracebackhide__ = True
        line, change = self.to_map(iova, oa, size, prot, leaf)
        self._iommu.command(line)
        change()

    def unmap(self, iova: int, size: int | str, leaf: int | str | None = None) -> None:
        """Unmap. CommandError when it is refused; then nothing has changed."""
        __tracebackhide__ = True
        line, change = self.to_unmap(iova, size, leaf)
        self._iommu.command(line)
        change()

    def to_map(self, iova: int, oa: int, size: int | str, prot: str, leaf: int | str | None) -> Task:
        """The command that maps, and what does the same to the model."""
        length, cut = _bytes(size), None if leaf is None else _bytes(leaf)
        line = f"map {self.name} {iova:#x} {oa:#x} {length:#x} {prot}{_tail(cut)}"
        return line, lambda: self.model.map(iova, oa, length, Prot.from_letters(prot), cut)

    def to_unmap(self, iova: int, size: int | str, leaf: int | str | None) -> Task:
        """The command that unmaps, and what does the same to the model."""
        length, cut = _bytes(size), None if leaf is None else _bytes(leaf)
        line = f"unmap {self.name} {iova:#x} {length:#x}{_tail(cut)}"
        return line, lambda: self.model.unmap(iova, length, cut)

    def attach(self, device: str) -> None:
        """Attach a device."""
        self._iommu.command(f"attach {self.name} {device}")

    def path(self, file: str = "") -> str:
        """The domain's directory in the guest's debugfs, or a file of it."""
        place = self._iommu.dialect.place.format(domain=self.id, file=file)
        return f"{DEBUGFS}/{place}".rstrip("/")


class Iommu:
    """Makes domains in one guest."""

    def __init__(self, guest: GuestHandle, compared: reading.Compared = reading.unheard) -> None:
        self._guest = guest
        self._compared = compared
        self._domains: dict[str, Domain] = {}
        self._commands: list[str] = []
        self._files: dict[str, bytes] = {}

    @property
    def dialect(self) -> Dialect:
        """What the kernel's dump is written in; skips where there is none."""
        return self._guest.dialect

    def domain(self, stage: str = "s1", device: str = "edu0", granule: int | None = None) -> Domain:
        """A hardware domain of a device's IOMMU, with the kernel's pages; skips where those are not ``granule``."""
        from pytest_iommu.core.flavours import page_size
        from pytest_iommu.scenario.variants import hardware

        page = page_size(self._guest.key.flavour)
        if granule not in (None, page):
            pytest.skip(f"needs hardware domains with pages of {format_size(granule)}, not {format_size(page)}")
        spec = hardware(self._guest.key.machine, stage, page)
        return self._make(f"dev={device} {spec.command}", spec.config)

    def table(self, format: str, **parameters: int) -> Domain:
        """A software table; parameters are those of pytest_iommu.formats.configure()."""
        return self._software(format, parameters)

    def table_of_own_pages(self, format: str) -> Domain:
        """One of io-pgtable's formats, whose freed tables do not wait for RCU: it has no dump, and no directory."""
        return self._software(format, {}, " pages=own")

    def _software(self, format: str, parameters: Mapping[str, int], more: str = "") -> Domain:
        from pytest_iommu import formats
        from pytest_iommu.scenario.variants import software_command

        config = formats.configure(format, **parameters)
        return self._make(software_command(formats.get(format), config, parameters, None) + more, config)

    def _make(self, words: str, config: TableConfig) -> Domain:
        name = f"d{len(self._domains)}"
        values = self.command(f"domain {name} {words}")
        domain = self._domains[name] = Domain(self, name, values.get("id", "-"), config)
        return domain

    def command(self, line: str) -> dict[str, str]:
        """Give the test module one command and return what it answers. CommandError when it refuses."""
        __tracebackhide__ = True
        self._commands.append(line)
        text = status_text(self._guest.run(command_ops(f"{line}\n")).results)
        status = parse_status(text).get(1)
        if status is None or status.errno is not None:
            errno, message = (status.errno or "", status.message) if status else ("EIO", "no answer")
            raise CommandError(line, errno, message)
        return status.values

    def texts(self, domain: Domain) -> dict[str, str]:
        """Every file of a domain's directory, as text."""
        __tracebackhide__ = True
        names = self._guest.dialect.files
        results = self._guest.run([ops.read_file(domain.path(name)) for name in names]).results
        pairs = zip(names, results, strict=True)
        return {name: ops.text_of(_readable(domain, name, result)) for name, result in pairs}

    def dump(self, domain: Domain) -> Dump:
        """Everything that a domain's directory says, parsed. CheckFailed where it is not written as it must be."""
        __tracebackhide__ = True
        from pytest_iommu.dialects import DumpSyntaxError

        try:
            return self._guest.dialect.parse(self.texts(domain))
        except DumpSyntaxError as error:
            raise CheckFailed(str(error), (error.rule,), verdict=Verdict.DUMP) from error

    def check(self, domain: Domain) -> None:
        """Compare a domain's dump with its model. CheckFailed with the rules that are broken."""
        __tracebackhide__ = True
        from pytest_iommu.scenario import Check

        where = reading.Where({domain.name: domain.id}, self._guest.dialect, self._guest.in_ram)
        job = reading.check_job(Check(domain.name, domain.model.snapshot(), 0), where, self._compared)
        files: dict[str, bytes] = {}
        problems = job.judge(self._guest.run(job.ops).results, files)
        self._files |= files
        if problems:
            raise reading.joined(problems, files)

    def artefacts(self) -> dict[str, bytes]:
        """What check() compared last of each domain, and all commands, by file name."""
        return {**self._files, "commands.txt": "".join(f"{line}\n" for line in self._commands).encode()}

    def reset(self) -> None:
        """Free everything in the guest."""
        self.command("reset")
        self._domains.clear()

    def finish(self) -> None:
        """Free everything; the directories of what was made must be gone when that returns (LAY-4)."""
        made = [domain for domain in self._domains.values() if domain.id != "-"]
        if not self._guest.alive or not self._domains:
            return
        self.reset()
        if not made:
            return
        results = self._guest.run([ops.stat(domain.path()) for domain in made]).results
        left = [domain.path() for domain, result in zip(made, results, strict=True) if result.ok]
        if left:
            raise CheckFailed(f"still there after the domain was freed: {', '.join(left)}", ("LAY-4",))


def _tail(cut: int | None) -> str:
    return "" if cut is None else f" leaf={format_size(cut)}"


def _bytes(size: int | str) -> int:
    return parse_size(size) if isinstance(size, str) else size


def _readable(domain: Domain, name: str, result: Result) -> Result:
    if not result.ok:
        raise CheckFailed(f"reading {domain.path(name)} fails with {ops.errno_name(result.value)}", ("LAY-2",))
    return result
