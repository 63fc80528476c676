# SPDX-License-Identifier: GPL-2.0-only
"""Machine descriptions: qemu-images/machines/<name>.yaml -> Machine."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.yaml_reader import Overlaid, Value, read_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Device:
    """One PCI function: ``driver`` is QEMU's -device word with its properties, ``bus`` QEMU's name of its bus.

    ``address`` is what Linux calls it, ``sids`` its stream ids in the order of its device tree entry. A ``hotplug``
    device is not there at boot. ``qemu`` is the oldest major version that has it.
    """

    name: str
    driver: str
    address: str
    sids: tuple[int, ...]
    bus: str = ""
    hotplug: bool = False
    qemu: int = 0

    @property
    def sid(self) -> int:
        """Its stream id, the first where it has several."""
        return self.sids[0]

    @property
    def slot(self) -> str:
        """What QEMU's ``addr=`` takes, e.g. ``01.0``."""
        return self.address.rpartition(":")[2]

    @property
    def argument(self) -> str:
        """The whole value of ``-device``."""
        words = [self.driver, f"id={self.name}", *([f"bus={self.bus}"] if self.bus else []), f"addr={self.slot}"]
        return ",".join(words)


@dataclass(frozen=True, slots=True)
class Stage:
    """The page table of a hardware domain: a format's name.

    ``parameters`` but the granule are given where no ID registers say them.
    """

    format: str
    parameters: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that guests run on. ``memory`` in bytes; ``append`` is the kernel command line's fixed part.

    ``cpu`` is QEMU's -cpu word, ``cpus`` maps the size of a kernel's pages to another, where that one lacks them.

    ``ram`` is the address where RAM starts, ``scratch`` address and size of the end of it that Linux does not use,
    ``smmu`` the address of the SMMU's registers, ``ecam`` that of PCI's configuration space; ``nothing`` are ranges
    (first, last) of addresses beside RAM that no device answers at. ``moved`` maps a PCI requester id to its stream
    id where it is another number, ``iommus`` the name of a platform device's node to its stream ids.

    ``ids`` are the SMMU's ID registers by name, as far as tables depend on them: what is said of its domains before a
    guest is there, whose own registers count.

    ``lines`` maps a flavour to the number of lines that its build from nothing prints, for percentages.
    """

    name: str
    arch: str
    description: str
    qemu_binary: str
    qemu_package: str
    qemu_machine: str
    qemu_args: tuple[str, ...]
    cpu: str
    memory: int
    icount: str
    make_arch: str
    cross: str
    target: str
    image: str
    config: tuple[str, ...]
    required: tuple[str, ...]
    append: str
    devices: tuple[Device, ...]
    agent: Device
    stages: Mapping[str, Stage] = field(hash=False)
    lines: Mapping[str, int] = field(default_factory=dict, hash=False)
    cpus: Mapping[int, str] = field(default_factory=dict, hash=False)
    ram: int = 0
    scratch: tuple[int, int] | None = None
    smmu: int | None = None
    ids: Mapping[str, int] = field(default_factory=dict, hash=False)
    ecam: int | None = None
    nothing: tuple[tuple[int, int], ...] = ()
    moved: Mapping[int, int] = field(default_factory=dict, hash=False)
    iommus: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def harmless(self, address: int, write: bool) -> bool:
        """Whether DMA to this physical address is harmless: scratch memory, an empty range, or a read of RAM."""
        if self.scratch is not None and self.scratch[0] <= address < self.scratch[0] + self.scratch[1]:
            return True
        if self.ram <= address < self.ram + self.memory:
            return not write
        return any(first <= address <= last for first, last in self.nothing)

    @property
    def limit(self) -> str:
        """The kernel parameter that keeps Linux out of the scratch memory; empty without scratch memory."""
        return f"mem={(self.scratch[0] - self.ram) >> 20}M" if self.scratch else ""

    def on(self, qemu: int) -> Machine:
        """This machine as a QEMU of that major version has it."""
        return replace(self, devices=tuple(device for device in self.devices if device.qemu <= qemu))

    def with_pages(self, page: int) -> Machine:
        """This machine with a processor that has pages of so many bytes; 0: unknown."""
        return replace(self, cpu=self.cpus.get(page, self.cpu))

    @property
    def cross_compile(self) -> str:
        """The compiler's prefix: none where the host is of the guest's kind."""
        return "" if platform.machine() in (self.arch, self.make_arch) else self.cross

    def device(self, name: str) -> Device:
        """The device of that name. KeyError when the machine has none."""
        for device in self.devices:
            if device.name == name:
                return device
        raise KeyError(name)


def _device(value: Value, name: str = "") -> Device:
    fields = value.fields(("name", "driver", "address", "sid", "sids", "bus", "hotplug", "qemu"), "a device")
    return Device(
        name=fields.get("name", Value.text, name) or fields.need("name").text(),
        driver=fields.need("driver").text(),
        address=fields.need("address").text(),
        sids=fields.get("sids", _numbers, ()) if "sids" in fields else (fields.need("sid").size(),),
        bus=fields.get("bus", Value.text, ""),
        hotplug=fields.get("hotplug", Value.flag, False),
        qemu=fields.get("qemu", Value.size, 0),
    )


def _numbers(value: Value) -> tuple[int, ...]:
    return tuple(one.size() for one in value.list())


def _words(value: Value) -> tuple[str, ...]:
    return tuple(one.text() for one in value.list())


def _scratch(value: Value, ram: int, memory: int) -> tuple[int, int]:
    fields = value.fields(("base", "size"), "scratch")
    base, size = fields.need("base").size(), fields.need("size").size()
    # mem= cuts RAM at a whole MiB from its start, and nothing may be left behind.
    if base % (1 << 20) or not ram < base or base + size != ram + memory:
        raise value.error(f"scratch must be the end of RAM, which is {ram:#x} to {ram + memory - 1:#x}")
    return base, size


IDS = ("idr0", "idr1", "idr3", "idr5")
"""The ID registers of an SMMUv3 that its page tables depend on."""


def _ids(value: Value) -> dict[str, int]:
    fields = value.fields(IDS, "ids")
    return {name: fields.need(name).integer() for name in IDS}


def _moved(value: Value) -> dict[int, int]:
    return {key.integer(): one.size() for key, one in value.pairs()}


def _bounds(value: Value) -> tuple[int, int]:
    fields = value.fields(("first", "last"), "a range")
    return fields.need("first").size(), fields.need("last").size()


def _stage(value: Value) -> Stage:
    found = {key.text(): one for key, one in value.pairs()}
    if "format" not in found:
        raise value.error("a stage needs 'format'")
    return Stage(found.pop("format").text(), {key: one.size() for key, one in found.items()})


def _by_name(value: Value, read: Callable[[Value], T]) -> dict[str, T]:
    return {key.text(): read(one) for key, one in value.pairs()}


def _described(path: Path) -> Value:
    """A machine's description, laid over that of the machine it names as its ``base``."""
    top = read_file(path)
    keys = _by_name(top, lambda value: value)
    if "base" not in keys:
        return top
    named = keys["base"]
    if "name" not in keys:
        raise top.error("a machine needs 'name', also one with a base")
    ours = {one.stem: one for one in _files()}
    beside = path.with_name(f"{named.text()}.yaml")
    base = beside if beside.is_file() and beside != path else ours.get(named.text())
    if base is None:
        raise named.error(f"no machine {named.text()!r} beside this file or among {', '.join(ours)}")
    below = read_file(base)
    if "base" in _by_name(below, lambda value: value):
        raise named.error(f"{base.name} has a base itself")
    return Overlaid(below, top)


_QEMU = ("binary", "package", "machine", "args", "cpu", "cpus", "memory", "icount")
_KERNEL = ("make-arch", "cross", "target", "image", "config", "required", "append", "lines")
_TOP = (
    *("name", "base", "arch", "description", "qemu", "kernel", "smmu", "ids", "ecam", "ram", "scratch", "nothing"),
    *("devices", "agent", "stages", "device-tree"),
)


def load(path: Path) -> Machine:
    """Read one machine description. SetupError with file and line when it is wrong."""
    top = _described(path).fields(_TOP, "a machine")
    qemu, kernel = top.need("qemu").fields(_QEMU, "qemu"), top.need("kernel").fields(_KERNEL, "kernel")
    tree = top.get("device-tree", lambda value: value.fields(("moved", "iommus"), "device-tree"), None)
    ram, memory = top.need("ram").size(), qemu.need("memory").size()
    return Machine(
        name=top.need("name").text(),
        arch=top.need("arch").text(),
        description=top.get("description", Value.text, ""),
        qemu_binary=qemu.need("binary").text(),
        qemu_package=qemu.need("package").text(),
        qemu_machine=qemu.need("machine").text(),
        qemu_args=qemu.get("args", _words, ()),
        cpu=qemu.need("cpu").text(),
        cpus=qemu.get("cpus", lambda value: {key.size(): one.text() for key, one in value.pairs()}, {}),
        memory=memory,
        icount=qemu.get("icount", Value.text, ""),
        make_arch=kernel.need("make-arch").text(),
        cross=kernel.need("cross").text(),
        target=kernel.need("target").text(),
        image=kernel.need("image").text(),
        config=_words(kernel.need("config")),
        required=_words(kernel.need("required")),
        append=kernel.need("append").text(),
        devices=tuple(_device(one) for one in top.need("devices").list()),
        agent=_device(top.need("agent"), "agent"),
        stages=_by_name(top.need("stages"), _stage),
        lines=kernel.get("lines", lambda value: _by_name(value, Value.size), {}),
        ram=ram,
        scratch=top.get("scratch", lambda value: _scratch(value, ram, memory), None),
        smmu=top.get("smmu", Value.size, None),
        ids=top.get("ids", _ids, {}),
        ecam=top.get("ecam", Value.size, None),
        moved=tree.get("moved", _moved, {}) if tree else {},
        iommus=tree.get("iommus", lambda value: _by_name(value, _numbers), {}) if tree else {},
        nothing=top.get("nothing", lambda value: tuple(_bounds(one) for one in value.list()), ()),
    )


def _files() -> list[Path]:
    return sorted((paths.qemu_images() / "machines").glob("*.yaml"))


def names() -> tuple[str, ...]:
    """The machines that qemu-images/ describes."""
    return tuple(path.stem for path in _files())


def get(name: str) -> Machine:
    """The machine of that name. SetupError, with the known names, for an unknown one."""
    if name not in names():
        raise SetupError(f"no machine {name!r}; there are: {', '.join(names())}")
    return load(paths.qemu_images() / "machines" / f"{name}.yaml")
