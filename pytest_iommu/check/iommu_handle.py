# SPDX-License-Identifier: GPL-2.0-only
"""The handle that the fixture iommu returns: domains and tables in a guest, each with a model of its mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_iommu.check import directory, platform, reading
from pytest_iommu.core.model import Dump, Prot, format_size, parse_size
from pytest_iommu.core.outcomes import CheckFailed, GuestAnswered, Verdict
from pytest_iommu.core.protocol import Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import DEBUGFS, Status, command_ops, lacks, parse_status, status_text

if TYPE_CHECKING:
    from pytest_iommu.check.guest_handle import GuestHandle
    from pytest_iommu.core.model import TableConfig
    from pytest_iommu.dialects import Dialect


#: what a new domain's values must be for its configuration
Hold = Callable[[str, Mapping[str, str], "TableConfig"], list[CheckFailed]]
#: a command of the test module, and a function that does the same to the model
Task = tuple[str, Callable[[], None]]


class CommandError(GuestAnswered):
    """The test module refused a command: ``errno`` is the errno's name, e.g. ``EEXIST``."""

    def __init__(self, command: str, errno: str, message: str) -> None:
        super().__init__(f"{command}: {errno}: {message}")
        self.errno = errno


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
