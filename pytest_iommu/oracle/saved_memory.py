# SPDX-License-Identifier: GPL-2.0-only
"""A guest's memory in a file: the pages that the walkers read, for walking again when the guest is gone.

An image is a ZIP archive, so that copying or uploading it does not turn holes into gigabytes. It has a member for each
run of saved pages, named by its address, and ABOUT: the start of RAM, the SMMU's registers, and the tables of the
test's domains. Byte-for-byte images of RAM, with ABOUT's JSON in a file beside them, are accepted, too.
"""

from __future__ import annotations

import json
import mmap
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from pytest_iommu.core.model import TableConfig
from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.oracle.guest_memory import walk
from pytest_iommu.oracle.stream_table import REGISTERS, SmmuV3

PAGE = 4096
SUFFIX = ".json"
ABOUT = "about.json"
_MAGIC = b"PK\x03\x04"


class SavedMemoryError(ValueError):
    """The file is not a saved memory; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SavedDomain:
    """A domain of the test in an image: its table, the streams that lead to it, whether it made the test fail.

    ``levels`` are those in use, None if the format has no choice.
    """

    name: str
    config: TableConfig
    top: int
    levels: int | None = None
    streams: tuple[int, ...] = ()
    failed: bool = False


class _Ram(Protocol):
    def read(self, address: int, size: int) -> memoryview:
        """Read bytes. OutsideMemory if not all of them are there."""


class _Whole:
    """RAM byte for byte, in a file."""

    def __init__(self, image: Path, base: int) -> None:
        self._base = base
        try:
            with image.open("rb") as file:
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise SavedMemoryError(f"{image}: {error}") from None

    def read(self, address: int, size: int) -> memoryview:
        start = address - self._base
        if size < 0 or start < 0 or start + size > len(self._bytes):
            raise OutsideMemory(f"{size} bytes at {address:#x} are not in the image")
        return self._bytes[start : start + size]


class _Runs:
    """Saved pages, by the start address of each run."""

    def __init__(self, runs: Mapping[int, bytes]) -> None:
        self._starts = sorted(runs)
        self._runs = [memoryview(runs[start]) for start in self._starts]

    def read(self, address: int, size: int) -> memoryview:
        at = bisect_right(self._starts, address) - 1
        start = address - self._starts[at] if at >= 0 else -1
        if size < 0 or start < 0 or start + size > len(self._runs[at]):
            raise OutsideMemory(f"{size} bytes at {address:#x} are not in the image")
        return self._runs[at][start : start + size]


class SavedMemory:
    """Memory from a file, and ``registers`` by physical address. Both are read-only.

    ``smmu`` is the address of an SMMU's registers, None if none were saved; ``domains`` are those of the test.
    """

    def __init__(
        self,
        ram: _Ram,
        registers: Mapping[int, int],
        smmu: int | None = None,
        domains: Iterable[SavedDomain] = (),
    ) -> None:
        self.smmu = smmu
        self.domains = {domain.name: domain for domain in domains}
        self._registers = registers
        self._ram = ram

    def read(self, address: int, size: int) -> memoryview:
        """Return RAM, read only. OutsideMemory if not all of it is in the file."""
        return self._ram.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """TypeError: a saved memory is read-only."""
        raise TypeError("a saved memory is read-only")

    def register(self, address: int, size: int = 4) -> int:
        """Return the value of a register; 0 if it was not saved."""
        return self._registers.get(address, 0) & (1 << 8 * size) - 1

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        """TypeError: a saved memory is read-only."""
        raise TypeError("a saved memory is read-only")

    def with_registers(self, registers: Mapping[int, int]) -> SavedMemory:
        """Return the same memory with other registers, by their offsets in an SMMU."""
        return SavedMemory(self._ram, registers, 0, self.domains.values())


class _Noted:
    """A memory that records which of its pages were read."""

    def __init__(self, memory: Memory) -> None:
        self.pages: set[int] = set()
        self._memory = memory
        self.write, self.register, self.set_register = memory.write, memory.register, memory.set_register

    def read(self, address: int, size: int) -> memoryview:
        found = self._memory.read(address, size)
        self.pages.update(range(address // PAGE, -(-(address + size) // PAGE)))
        return found


def save_image(
    memory: Memory,
    ram_base: int,
    size: int,
    smmu_base: int | None,
    path: Path,
    domains: Iterable[SavedDomain] = (),
) -> None:
    """Save what an IOMMU reads of ``memory``, for ``pytest-iommu walk``, in ``path``.

    RAM has ``size`` bytes from ``ram_base`` on. The image has the pages that the walkers read: stream table, context
    descriptors, page tables and event queue of the SMMU at ``smmu_base`` (None: there is none), and the tables of
    ``domains``, even if no stream leads to them.
    """
    noted, domains = _Noted(memory), list(domains)
    said: dict[str, object] = {"ram": f"{ram_base:#x}"}
    if smmu_base is not None:
        registers = {offset: memory.register(smmu_base + offset, width) for offset, width in REGISTERS}
        said["smmu"] = f"{smmu_base:#x}"
        said["registers"] = {f"{offset:#x}": f"{value:#x}" for offset, value in registers.items()}
        _read_streams(noted, smmu_base)
    for domain in domains:
        _read_table(noted, domain.config, domain.top, domain.levels)
    said["domains"] = [_as_json(domain) for domain in domains]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # ZipInfo has a fixed date: the same memory makes the same file.
        archive.writestr(_member(ABOUT), json.dumps(said, indent=2) + "\n")
        for first, last in _runs(noted.pages):
            start, end = max(first * PAGE, ram_base), min((last + 1) * PAGE, ram_base + size)
            archive.writestr(_member(f"{start:#x}"), memory.read(start, end - start))


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return runs of adjacent pages, as the first and the last of each."""
    ordered = sorted(pages)
    breaks = [at for at, (one, other) in enumerate(pairwise(ordered), 1) if other != one + 1]
    for first, last in pairwise([0, *breaks, len(ordered)]):
        if last > first:
            yield ordered[first], ordered[last - 1]


def _as_json(domain: SavedDomain) -> dict[str, Any]:
    config = asdict(domain.config) | {"features": sorted(domain.config.features)}
    return asdict(domain) | {"config": config, "top": f"{domain.top:#x}"}


def _domain(said: Mapping[str, Any]) -> SavedDomain:
    """Parse the output of _as_json(). KeyError, TypeError or ValueError if it is malformed."""
    config = dict(said["config"])
    config |= {"page_sizes": tuple(config["page_sizes"]), "features": frozenset(config["features"])}
    levels = None if said["levels"] is None else int(said["levels"])
    return SavedDomain(
        str(said["name"]),
        TableConfig(**config),
        int(said["top"], 0),
        levels,
        tuple(map(int, said["streams"])),
        bool(said["failed"]),
    )


def _read_streams(memory: Memory, base: int) -> None:
    smmu = SmmuV3(memory, base)
    smmu.events()
    for sid in smmu.sids():
        found = [smmu.table(sid)]
        found += [smmu.table(sid, cd.ssid) for cd in smmu.cds(sid) if cd.ssid]
        for table in found:
            if table is not None:
                _read_table(memory, *table)


def _read_table(memory: Memory, config: TableConfig, top: int, levels: int | None = None) -> None:
    try:
        walk(memory, config, top, levels)
    except OutsideMemory:
        pass  # nothing of it can be kept


def open_image(image: Path, registers: Path | None = None, base: int | None = None) -> SavedMemory:
    """Load a saved memory. ``registers`` is a JSON file to use instead of the image's own, or of the one beside it.

    ``base`` overrides the start of RAM of an unpacked image. SavedMemoryError if a file is missing or malformed, or if
    the start of RAM is unknown.
    """
    try:
        with image.open("rb") as file:
            packed = file.read(len(_MAGIC)) == _MAGIC
        if packed:
            return _packed(image, registers)
        beside = registers or image.with_name(image.name + SUFFIX)
        if registers is None and not beside.exists():
            if base is None:
                raise SavedMemoryError(f"{image}: no {beside.name} beside it, so --base must give the start of RAM")
            return SavedMemory(_Whole(image, base), {})
        said, smmu, held, domains = _about(beside, beside.read_text)
        return SavedMemory(_Whole(image, int(said["ram"], 0) if base is None else base), held, smmu, domains)
    except OSError as error:
        raise SavedMemoryError(f"{error.filename or image}: {error.strerror}") from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise SavedMemoryError(f"{image}: {error}") from None


def _packed(image: Path, registers: Path | None) -> SavedMemory:
    with zipfile.ZipFile(image) as archive:
        names = archive.namelist()
        if ABOUT not in names:
            raise SavedMemoryError(f"{image}: the archive has no {ABOUT}")
        runs = {int(name, 0): archive.read(name) for name in names if name.startswith("0x")}
        about = (registers, registers.read_text) if registers else (image, lambda: archive.read(ABOUT).decode())
        _, smmu, held, domains = _about(*about)
    return SavedMemory(_Runs(runs), held, smmu, domains)


def _about(
    where: Path, read: Callable[[], str]
) -> tuple[dict[str, Any], int | None, dict[int, int], list[SavedDomain]]:
    """Return the JSON, and from it the SMMU, its registers and the domains."""
    try:
        said = json.loads(read())
        int(said["ram"], 0)
        smmu = int(said["smmu"], 0) if "smmu" in said else None
        held = {(smmu or 0) + int(at, 0): int(value, 0) for at, value in said.get("registers", {}).items()}
        return said, smmu, held, [_domain(one) for one in said.get("domains", ())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SavedMemoryError(f"{where}: {type(error).__name__}: {error}") from None
