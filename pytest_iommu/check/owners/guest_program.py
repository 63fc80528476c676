# SPDX-License-Identifier: GPL-2.0-only
"""iommu-owner in the guest: a process that creates domains through VFIO and iommufd, and a model of their mappings.

guest/owner/README.md describes its commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.core.model import Prot, TableConfig
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.guest import ops
from pytest_iommu.oracle import TableModel

PROGRAM = "/bin/iommu-owner"
PLACE = "/tmp/owner"


class OwnerError(Exception):
    """The kernel refused a command: ``errno`` is the errno's name, ``message`` names the ioctl."""

    def __init__(self, command: str, errno: str, message: str) -> None:
        super().__init__(f"{command}: {errno}: {message}")
        self.errno = errno
        self.message = message


class Owner:
    """One owner process, for a ``with`` block. It closes everything at the end, so its directories must go.

    Skips if the guest lacks the program: an initramfs of a ready image, or of a kernel that is too old for it.
    """

    def __init__(self, guest: GuestHandle) -> None:
        self._guest = guest
        self._running = False

    def __enter__(self) -> Owner:
        (there,) = self._guest.run([ops.stat(PROGRAM)]).results
        if not there.ok:
            pytest.skip(f"this guest has no {PROGRAM}: building it needs the headers of a kernel tree, 6.7 or newer")
        (started,) = self._guest.run([ops.run(PROGRAM, "serve", PLACE)]).results
        if started.value != 0:
            raise SetupError(f"{PROGRAM} did not start ({started.value}): {ops.text_of(started)}")
        self._running = True
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.end()

    def end(self) -> None:
        """Close everything and end the process. May be called twice."""
        if self._guest.alive and self._running:
            self._running = False
            self._guest.run([ops.run(PROGRAM, "tell", PLACE, "quit")])

    def tell(self, *lines: str) -> list[dict[str, str]]:
        """Send commands; returns the values of each answer. OwnerError for the first refusal; the others are run."""
        __tracebackhide__ = True
        (said,) = self._guest.run([ops.run(PROGRAM, "tell", PLACE, *lines)]).results
        answers = ops.text_of(said).splitlines()
        if said.value not in (0, 1) or len(answers) != len(lines):
            raise SetupError(f"{PROGRAM} answered {len(answers)} of {len(lines)} commands ({said.value}): {answers}")
        for line, answer in zip(lines, answers, strict=True):
            word, _, rest = answer.partition(" ")
            if word != "ok":
                errno, _, message = rest.partition(" ")
                if errno == "ENOENT" and message.startswith("/dev/"):
                    pytest.skip(f"this kernel has no {message}")  # the kernel's configuration is unknown
                raise OwnerError(line, errno, message)
        return [dict(word.partition("=")[::2] for word in answer.split()[1:]) for answer in answers]

    def die(self) -> None:
        """Kill the process, as a crash would; the kernel must clean up. Returns when the process is gone."""
        (process,) = self.tell("pid")
        self._guest.run([ops.run(PROGRAM, "tell", PLACE, "die")])
        self._running = False
        for _ in range(100):
            (there,) = self._guest.run([ops.read_file(f"/proc/{process['pid']}/stat")]).results
            # a zombie has closed its files; its parent is waiting for us
            if not there.ok or b") Z " in there.data:
                return
            self._guest.run([ops.sleep(10)])
        raise SetupError(f"{PROGRAM} still exists a second after it was killed")

    def memory(self, name: str, size: int) -> OwnerMemory:
        """Return locked memory of the owner to map. Skips if the kernel hides physical addresses."""
        self.tell(f"memory {name} {size}")
        try:
            (said,) = self.tell(f"pages {name}")
        except OwnerError as error:
            pytest.skip(f"the guest does not report physical addresses: {error} (CONFIG_PROC_PAGE_MONITOR)")
        return OwnerMemory(name, int(said["page"]), [int(address, 0) for address in said["pages"].split(",")])


@dataclass(frozen=True, slots=True)
class OwnerMemory:
    """OwnerMemory of an owner: its name there, the page size, and the physical address of each page."""

    name: str
    page: int
    pages: Sequence[int]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.page * len(self.pages)

    def runs(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Return the physically contiguous parts of a piece of it: (offset in the piece, address, size).

        VFIO and iommufd pass each of them to one call of iommu_map().
        """
        first, count = offset // self.page, size // self.page
        start = 0
        for at in range(1, count + 1):
            if at < count and self.pages[first + at] == self.pages[first + at - 1] + self.page:
                continue
            yield start * self.page, self.pages[first + start], (at - start) * self.page
            start = at


class Space:
    """An IOAS or a container of an owner, and a model of every table that must hold its mappings."""

    def __init__(self, owner: Owner, name: str) -> None:
        self._owner = owner
        self.name = name
        self._mapped: dict[int, tuple[OwnerMemory, int, int, str]] = {}
        self._models: dict[str, TableModel] = {}

    def table(self, name: str, config: TableConfig) -> TableModel:
        """Return the model of a table that was just created for the space; it starts with the existing mappings."""
        model = self._models[name] = TableModel(config)
        for iova in sorted(self._mapped):
            _map(model, iova, *self._mapped[iova])
        return model

    @property
    def models(self) -> Mapping[str, TableModel]:
        """The models, by the names given to table()."""
        return self._models

    def map(
        self, iova: int, memory: OwnerMemory, letters: str = "rw", offset: int = 0, size: int | None = None
    ) -> None:
        """Map a piece of memory (all of it without ``size``). OwnerError if the kernel refuses."""
        length = memory.size - offset if size is None else size
        self._owner.tell(f"map {self.name} {iova:#x} {letters} {memory.name} {offset:#x} {length:#x}")
        self._mapped[iova] = (memory, offset, length, letters)
        for model in self._models.values():
            _map(model, iova, *self._mapped[iova])

    def unmap(self, iova: int) -> None:
        """Unmap what one map() has mapped."""
        size = self._mapped[iova][2]
        self._owner.tell(f"unmap {self.name} {iova:#x} {size:#x}")
        del self._mapped[iova]
        for model in self._models.values():
            model.unmap(iova, size)


def _map(model: TableModel, iova: int, memory: OwnerMemory, offset: int, size: int, letters: str) -> None:
    # both owners request coherent memory, and neither forbids instruction fetches
    prot = Prot.from_letters(f"{letters}xc")
    for start, address, length in memory.runs(offset, size):
        model.map(iova + start, address, length, prot)
