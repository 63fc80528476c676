# SPDX-License-Identifier: GPL-2.0-only
"""A guest's memory in a file: what the walkers read of a live one, kept to be walked again when the guest is gone.

The image is RAM as it lay there, byte for byte from its base on, with holes where nothing was kept; a JSON file beside
it says where RAM begins and what the SMMU's registers held.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_iommu.model import TableConfig
from pytest_iommu.oracle.guest_memory import walk
from pytest_iommu.oracle.stream_table import REGISTERS, SmmuV3
from pytest_iommu.targets.protocol import Memory, OutsideMemory

PAGE = 4096
SUFFIX = ".json"


class SavedMemoryError(ValueError):
    """A file that is no saved memory; the message says what is wrong with it."""


class SavedMemory:
    """Memory from a file: RAM from ``base`` on, and ``registers`` by physical address. Neither can be written.

    ``smmu`` is where those of an SMMU begin, None where none were saved.
    """

    def __init__(self, image: Path, base: int, registers: Mapping[int, int], smmu: int | None = None) -> None:
        self.base = base
        self.smmu = smmu
        self._registers = registers
        try:
            with image.open("rb") as file:
                self._ram = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise SavedMemoryError(f"{image}: {error}") from None

    def read(self, address: int, size: int) -> memoryview:
        """RAM, read only. OutsideMemory when not all of it is in the file."""
        start = address - self.base
        if size < 0 or start < 0 or start + size > len(self._ram):
            raise OutsideMemory(f"{size} bytes at {address:#x} are not in the image")
        return self._ram[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        """A saved memory stays as it is: TypeError."""
        raise TypeError("a saved memory cannot be written")

    def register(self, address: int, size: int = 4) -> int:
        """What a register held; 0 for one that was not saved."""
        return self._registers.get(address, 0) & (1 << 8 * size) - 1

    def set_register(self, address: int, value: int, size: int = 4) -> None:
        """A saved memory stays as it is: TypeError."""
        raise TypeError("a saved memory cannot be written")


class _Noted:
    """A memory that notes which pages were read of it."""

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
    tables: Iterable[tuple[TableConfig, int, int]] = (),
) -> None:
    """Save what an IOMMU reads of ``memory``, for ``pytest-iommu walk``: ``path``, and its registers in ``path``.json.

    RAM has ``size`` bytes from ``ram_base`` on. Kept are the pages that the walkers read, the rest are holes: of the
    SMMU at ``smmu_base`` (None: there is none) stream table, context descriptors, page tables and event queue, and each
    of ``tables`` (configuration, top, levels), which no stream need lead to.
    """
    noted = _Noted(memory)
    said: dict[str, object] = {"ram": f"{ram_base:#x}"}
    if smmu_base is not None:
        registers = {offset: memory.register(smmu_base + offset, width) for offset, width in REGISTERS}
        said["smmu"] = f"{smmu_base:#x}"
        said["registers"] = {f"{offset:#x}": f"{value:#x}" for offset, value in registers.items()}
        _read_streams(noted, smmu_base)
    for config, top, levels in tables:
        _read_table(noted, config, top, levels)
    with path.open("wb") as file:
        file.truncate(size)
        for page in sorted(noted.pages):
            start = max(page * PAGE, ram_base)
            end = min((page + 1) * PAGE, ram_base + size)
            file.seek(start - ram_base)
            file.write(memory.read(start, end - start))
    path.with_name(path.name + SUFFIX).write_text(json.dumps(said, indent=2) + "\n")


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
    """A saved memory. ``registers`` is its JSON file, else the one beside it; ``base`` overrides where RAM begins.

    SavedMemoryError where a file is missing or not what it should be, or nobody says where RAM begins.
    """
    beside = registers or image.with_name(image.name + SUFFIX)
    if registers is None and not beside.exists():
        if base is None:
            raise SavedMemoryError(f"{image}: no {beside.name} beside it, so give --base, where RAM begins")
        return SavedMemory(image, base, {})
    try:
        said = json.loads(beside.read_text())
        ram = int(said["ram"], 0) if base is None else base
        smmu = int(said["smmu"], 0) if "smmu" in said else None
        held = {(smmu or 0) + int(at, 0): int(value, 0) for at, value in said.get("registers", {}).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SavedMemoryError(f"{beside}: {type(error).__name__}: {error}") from None
    return SavedMemory(image, ram, held, smmu)
