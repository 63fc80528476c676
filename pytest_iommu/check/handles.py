# SPDX-License-Identifier: GPL-2.0-only
"""Handles that the fixtures return: a replaceable guest, and its domains with models of their mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_iommu.check import directory, platform, reading
from pytest_iommu.check.plugging import devices_of, plug
from pytest_iommu.check.witnesses.in_ram import in_ram
from pytest_iommu.check.witnesses.streams import Streams
from pytest_iommu.core.boot_modes import BOOT_MODES, HELD
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
from pytest_iommu.guest.testmodule import DEBUGFS, Status, command_ops, lacks, parse_status, status_text

if TYPE_CHECKING:
    from pytest_iommu.check.witnesses.in_ram import InRam
    from pytest_iommu.core.flavours import Sizes
    from pytest_iommu.core.machines import Machine
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.core.protocol import Guest, Memory
    from pytest_iommu.dialects import Dialect, TextDialect
    from pytest_iommu.guest.gdb import Gdb
    from pytest_iommu.scenario import Instance


#: what a new domain's values must be for its configuration
Hold = Callable[[str, Mapping[str, str], "TableConfig"], list[CheckFailed]]
#: a command of the test module, and a function that does the same to the model
Task = tuple[str, Callable[[], None]]


class CommandError(GuestAnswered):
    """The test module refused a command: ``errno`` is the errno's name, e.g. ``EEXIST``."""

    def __init__(self, command: str, errno: str, message: str) -> None:
        super().__init__(f"{command}: {errno}: {message}")
        self.errno = errno


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


class Domain:
    """A domain or software table in the guest, and the model of its mappings. Sizes in bytes or as ``16K``."""

    def __init__(self, iommu: Iommu, name: str, number: str, config: TableConfig) -> None:
        from pytest_iommu.oracle import TableModel

        self.name = name
        self.id = directory.NONE if number == directory.UNKNOWN else number
        self.offered = number != directory.UNKNOWN
        self.config = config
        self.model = TableModel(config)
        self.unmapped = False
        self._iommu = iommu

    @property
    def page(self) -> int:
        """The smallest page size, in bytes."""
        return min(self.config.page_sizes)

    def map(self, iova: int, oa: int, size: int | str, prot: str = "rw", leaf: int | str | None = None) -> None:
        """Map. CommandError if the kernel refuses; then nothing has changed."""
        __tracebackhide__ = True
        line, change = self.to_map(iova, oa, size, prot, leaf)
        self._iommu.command(line)
        change()

    def unmap(self, iova: int, size: int | str, leaf: int | str | None = None) -> None:
        """Unmap. CommandError if the kernel refuses; then nothing has changed."""
        __tracebackhide__ = True
        line, change = self.to_unmap(iova, size, leaf)
        self._iommu.command(line)
        self.unmapped = True
        change()

    def split(self, iova: int, size: int | str) -> None:
        """Unmap a part of one block. Skips where the kernel does not split blocks; CommandError if it refuses."""
        __tracebackhide__ = True
        self._iommu.command(f"split {self.name} {iova:#x} {_bytes(size):#x}")
        self.unmapped = True
        self.model.split(iova, _bytes(size))

    def to_map(self, iova: int, oa: int, size: int | str, prot: str = "rw", leaf: int | str | None = None) -> Task:
        """Return the command that maps, and a function that does the same to the model."""
        length, cut = _bytes(size), None if leaf is None else _bytes(leaf)
        line = f"map {self.name} {iova:#x} {oa:#x} {length:#x} {prot}{_tail(cut)}"
        return line, lambda: self.model.map(iova, oa, length, Prot.from_letters(prot), cut)

    def to_unmap(self, iova: int, size: int | str, leaf: int | str | None) -> Task:
        """Return the command that unmaps, and a function that does the same to the model."""
        length, cut = _bytes(size), None if leaf is None else _bytes(leaf)
        line = f"unmap {self.name} {iova:#x} {length:#x}{_tail(cut)}"
        return line, lambda: self.model.unmap(iova, length, cut)

    def attach(self, device: str) -> None:
        """Attach a device."""
        self._iommu.command(f"attach {self.name} {device}")

    def path(self, file: str = "") -> str:
        """Return the path of the domain's directory in the guest's debugfs, or of a file in it.

        Skips if the dump was not offered its table.
        """
        if not self.offered:
            pytest.skip(directory.NOT_OFFERED)
        place = self._iommu.dialect.place.format(domain=self.id, file=file)
        return f"{DEBUGFS}/{place}".rstrip("/")


class Iommu:
    """Creates domains in one guest."""

    def __init__(self, guest: GuestHandle, compared: reading.Compared = reading.ignore_comparison) -> None:
        self._guest = guest
        self._compared = compared
        self._domains: dict[str, Domain] = {}
        self._commands: list[str] = []
        self._files: dict[str, bytes] = {}

    @property
    def dialect(self) -> Dialect:
        """The dialect of the kernel's dump; skips if the kernel has no dump."""
        return self._guest.dialect

    def domain(self, stage: str = "s1", device: str = "edu0", granule: int | None = None) -> Domain:
        """A hardware domain of a device's IOMMU, with the kernel's pages; skips where those are not ``granule``."""
        config = self._guest.hardware_table(stage)
        if granule not in (None, config.granule):
            pages, have = format_size(granule), format_size(config.granule)
            pytest.skip(f"requires hardware domains with {pages} pages, but this kernel has {have}")
        return self._make(f"dev={device} stage={stage[1:]}", config, platform.hold)

    def table(self, format: str, *options: str, **parameters: int) -> Domain:
        """Create a software table; options (the format's own if none) and parameters are those of configure()."""
        return self._software(format, parameters, options or None)

    def table_of_own_pages(self, format: str) -> Domain:
        """Create a table of an io-pgtable format that does not free tables through RCU: no dump and no directory."""
        return self._software(format, {}, None, " pages=own")

    def _software(
        self, format: str, parameters: Mapping[str, int], options: tuple[str, ...] | None, more: str = ""
    ) -> Domain:
        from pytest_iommu import formats
        from pytest_iommu.scenario.variants import software_command

        # A format without options has no such parameter.
        named: dict[str, object] = {"options": options} if options else {}
        config = formats.configure(format, **parameters, **named)
        return self._make(software_command(formats.get(format), config, parameters, options) + more, config)

    def _make(self, words: str, config: TableConfig, hold: Hold | None = None) -> Domain:
        name = f"d{len(self._domains)}"
        values = self.command(f"domain {name} {words}")
        ids = {name: values.get("id", directory.NONE)}
        ids = directory.find(lambda batch: self._guest.run(batch).results, self._guest.dialect_or_none, ids)
        domain = self._domains[name] = Domain(self, name, ids[name], config)
        problems = hold(name, values, config) if hold is not None else []
        if problems:
            raise reading.joined(problems, {})
        return domain

    def command(self, line: str) -> dict[str, str]:
        """Send one command to the test module and return its values. CommandError if it is refused.

        Skips if the kernel has no such table or operation.
        """
        __tracebackhide__ = True
        return self._values(line, self._send([line]).get(1))

    def do(self, *tasks: Task) -> None:
        """Send the commands of Domain.to_map() and to_unmap() in one round trip, and do the same to the models.

        CommandError for the first that is refused: those before it are done, those behind it are not.
        """
        __tracebackhide__ = True
        status = self._send([line for line, _ in tasks])
        for number, (line, change) in enumerate(tasks, 1):
            self._values(line, status.get(number))
            change()

    def _send(self, lines: Sequence[str]) -> dict[int, Status]:
        self._commands += lines
        script = "".join(f"{line}\n" for line in lines)
        return parse_status(status_text(self._guest.run(command_ops(script)).results))

    @staticmethod
    def _values(line: str, status: Status | None) -> dict[str, str]:
        __tracebackhide__ = True
        from pytest_iommu.scenario import broken_rule

        if status is not None and status.errno is None:
            return status.values
        errno, message = (status.errno or "", status.message) if status else ("EIO", "no answer")
        if reason := lacks(line, errno, message):
            pytest.skip(reason)
        broken = broken_rule(line, errno, message)
        if broken is not None:
            rule, because = broken
            raise CheckFailed(f"{line}: {errno}: {message}", (rule,), verdict=Verdict.MAPPING, because=because)
        raise CommandError(line, errno, message)

    def texts(self, domain: Domain) -> dict[str, str]:
        """Return every file of a domain's directory as text."""
        __tracebackhide__ = True
        names = self._guest.dialect.files
        results = self._guest.run([ops.read_file(domain.path(name)) for name in names]).results
        pairs = zip(names, results, strict=True)
        return {name: ops.text_of(_readable(domain, name, result)) for name, result in pairs}

    def dump(self, domain: Domain) -> Dump:
        """Parse all files of a domain's directory. CheckFailed if they do not match the grammar."""
        __tracebackhide__ = True
        from pytest_iommu.dialects import DumpSyntaxError

        try:
            return self._guest.dialect.parse(self.texts(domain))
        except DumpSyntaxError as error:
            raise CheckFailed(str(error), (error.rule,), verdict=Verdict.DUMP) from error

    def check(self, domain: Domain) -> None:
        """Compare a domain's dump with its model. CheckFailed names the broken rules."""
        __tracebackhide__ = True
        from pytest_iommu.scenario import Check

        unmapped = frozenset([domain.name] if domain.unmapped else [])
        ids = {domain.name: domain.id if domain.offered else directory.UNKNOWN}
        where = reading.Where(ids, self._guest.dialect_or_none, self._guest.in_ram, unmapped)
        job = reading.check_job(Check(domain.name, domain.model.snapshot(), 0), where, self._compared)
        files: dict[str, bytes] = {}
        problems = job.judge(self._guest.run(job.ops).results, files)
        self._files |= files
        if problems:
            raise reading.joined(problems, files)

    def artefacts(self) -> dict[str, bytes]:
        """Return the last files that check() compared for each domain, and all commands, by file name."""
        return {**self._files, "commands.txt": "".join(f"{line}\n" for line in self._commands).encode()}

    def reset(self) -> None:
        """Free everything in the guest."""
        self.command("reset")
        self._domains.clear()

    def finish(self) -> None:
        """Free everything; the directories of all created domains must be gone when that returns (LAY-4)."""
        made = [domain for domain in self._domains.values() if domain.id != "-"]
        if not self._guest.alive or not self._domains:
            return
        self.reset()
        if not made:
            return
        results = self._guest.run([ops.stat(domain.path()) for domain in made]).results
        left = [domain.path() for domain, result in zip(made, results, strict=True) if result.ok]
        if left:
            raise CheckFailed(f"directories left after their domains were freed: {', '.join(left)}", ("LAY-4",))


def _tail(cut: int | None) -> str:
    return "" if cut is None else f" leaf={format_size(cut)}"


def _bytes(size: int | str) -> int:
    return parse_size(size) if isinstance(size, str) else size


def _readable(domain: Domain, name: str, result: Result) -> Result:
    if not result.ok:
        raise CheckFailed(f"reading {domain.path(name)} failed: {ops.errno_name(result.value)}", ("LAY-2",))
    return result
