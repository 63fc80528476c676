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
class IommuDriver:
    """Linux's driver of a type of IOMMU: its names in sysfs begin with ``sysfs``, and its messages match ``said``."""

    sysfs: str
    what: str
    said: str


DRIVERS: Mapping[str, IommuDriver] = {
    "smmuv3": IommuDriver("smmu3.", "the SMMUv3 (CONFIG_ARM_SMMU_V3)", r"arm[-_]smmu.*: "),
    "vtd": IommuDriver("dmar", "VT-d (CONFIG_INTEL_IOMMU, intel_iommu=on)", r"DMAR"),
    "amd": IommuDriver("ivhd", "AMD's IOMMU (CONFIG_AMD_IOMMU)", r"AMD-Vi"),
    "riscv": IommuDriver("riscv-iommu", "the RISC-V IOMMU (CONFIG_RISCV_IOMMU)", r"riscv[-,]iommu"),
}
"""By the type that a machine description gives."""


@dataclass(frozen=True, slots=True)
class IommuRegisters:
    """The machine's IOMMU: its ``type``, a key of IDS, and the physical address of its registers.

    ``trace`` is QEMU's trace event of a refused access, where neither registers nor memory keep all of them.
    """

    type: str
    base: int
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that guests run on. ``memory`` in bytes; ``append`` is the kernel command line's fixed part,
    ``append_icount`` what is added to it where time is counted by instructions.

    ``qemu_args_since`` maps QEMU's major versions to what is there in place of ``qemu_args`` from that version on.

    ``cpu`` is QEMU's -cpu word, ``cpus`` maps the size of a kernel's pages to another, where that one lacks them.

    ``ram`` is the address where RAM starts, ``scratch`` address and size of a part of its end that Linux does not use,
    ``iommu`` tells where the IOMMU's registers are, ``ecam`` where PCI's configuration space is; ``nothing`` are
    ranges (first, last) of addresses beside RAM that no device answers at. ``moved`` maps a PCI requester id to its
    stream id where it is another number, ``iommus`` the name of a platform device's node to its stream ids.

    ``ids`` are the IOMMU's ID registers by name, as far as tables depend on them: what is said of its domains before a
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
    qemu_args_since: Mapping[int, tuple[str, ...]] = field(hash=False)
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
    append_icount: str
    devices: tuple[Device, ...]
    agent: Device
    stages: Mapping[str, Stage] = field(hash=False)
    lines: Mapping[str, int] = field(default_factory=dict, hash=False)
    cpus: Mapping[int, str] = field(default_factory=dict, hash=False)
    ram: int = 0
    scratch: tuple[int, int] | None = None
    iommu: IommuRegisters | None = None
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
    def iommu_type(self) -> str:
        """The type of its IOMMU; empty where none is described."""
        return self.iommu.type if self.iommu is not None else ""

    @property
    def smmu(self) -> int | None:
        """The address of the SMMUv3's registers; None where the IOMMU is another one."""
        return self.iommu.base if self.iommu is not None and self.iommu_type == "smmuv3" else None

    def in_scratch(self, address: int, size: int) -> bool:
        """Whether these bytes are scratch memory, where the data of a transfer can be observed."""
        if self.scratch is None:
            return False
        base, length = self.scratch
        return base <= address and address + size <= base + length

    @property
    def limit(self) -> str:
        """The kernel parameter that keeps Linux out of the scratch memory; empty without scratch memory."""
        return f"mem={(self.scratch[0] - self.ram) >> 20}M" if self.scratch else ""

    def on(self, qemu: int) -> Machine:
        """This machine as a QEMU of that major version has it."""
        args = [self.qemu_args_since[since] for since in sorted(self.qemu_args_since) if since <= qemu]
        devices = tuple(device for device in self.devices if device.qemu <= qemu)
        return replace(self, qemu_args=args[-1] if args else self.qemu_args, devices=devices)

    def with_pages(self, page: int) -> Machine:
        """This machine with a processor that has pages of so many bytes; 0: unknown."""
        return replace(self, cpu=self.cpus.get(page, self.cpu))

    @property
    def debian_arch(self) -> str:
        """Debian's name of its architecture."""
        return {"aarch64": "arm64", "x86_64": "amd64"}.get(self.arch, self.arch)

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
    # mem= cuts RAM at a whole MiB from its start. Firmware may have used what is behind the scratch memory.
    if base % (1 << 20) or not ram < base or base + size > ram + memory:
        raise value.error(f"scratch must be at the end of RAM, which is {ram:#x} to {ram + memory - 1:#x}")
    return base, size


IDS: Mapping[str, tuple[str, ...]] = {
    "smmuv3": ("idr0", "idr1", "idr3", "idr5"),
    "vtd": ("cap", "ecap"),
    "amd": ("efr",),
    "riscv": ("capabilities",),
}
"""The ID registers that page tables depend on, by the type of IOMMU."""


def _iommu(value: Value) -> IommuRegisters:
    fields = value.fields(("type", "registers", "trace"), "iommu")
    kind, base = fields.need("type").choice(IDS, "type"), fields.need("registers").size()
    return IommuRegisters(kind, base, fields.get("trace", Value.text, ""))


def _smmu(value: Value) -> IommuRegisters:
    return IommuRegisters("smmuv3", value.size())


def _ids(value: Value, type_: str) -> dict[str, int]:
    # A machine laid over one with another IOMMU has the other's ids, too.
    fields = value.fields([name for names in IDS.values() for name in names], "ids")
    return {name: fields.need(name).integer() for name in IDS[type_]}


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


_QEMU = ("binary", "package", "machine", "args", "since", "cpu", "cpus", "memory", "icount")
_KERNEL = ("make-arch", "cross", "target", "image", "config", "required", "append", "append-icount", "lines")
_TOP = (
    *("name", "base", "arch", "description", "qemu", "kernel", "smmu", "iommu", "ids", "ecam", "ram", "scratch"),
    *("nothing", "devices", "agent", "stages", "device-tree"),
)


def load(path: Path) -> Machine:
    """Read one machine description. SetupError with file and line when it is wrong."""
    top = _described(path).fields(_TOP, "a machine")
    qemu, kernel = top.need("qemu").fields(_QEMU, "qemu"), top.need("kernel").fields(_KERNEL, "kernel")
    tree = top.get("device-tree", lambda value: value.fields(("moved", "iommus"), "device-tree"), None)
    ram, memory = top.need("ram").size(), qemu.need("memory").size()
    iommu = top.get("iommu", _iommu, None) or top.get("smmu", _smmu, None)
    return Machine(
        name=top.need("name").text(),
        arch=top.need("arch").text(),
        description=top.get("description", Value.text, ""),
        qemu_binary=qemu.need("binary").text(),
        qemu_package=qemu.need("package").text(),
        qemu_machine=qemu.need("machine").text(),
        qemu_args=qemu.get("args", _words, ()),
        qemu_args_since=qemu.get("since", lambda value: {key.size(): _words(one) for key, one in value.pairs()}, {}),
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
        append_icount=kernel.get("append-icount", Value.text, ""),
        devices=tuple(_device(one) for one in top.need("devices").list()),
        agent=_device(top.need("agent"), "agent"),
        stages=_by_name(top.need("stages"), _stage),
        lines=kernel.get("lines", lambda value: _by_name(value, Value.size), {}),
        ram=ram,
        scratch=top.get("scratch", lambda value: _scratch(value, ram, memory), None),
        iommu=iommu,
        ids=top.get("ids", lambda value: _ids(value, iommu.type if iommu is not None else "smmuv3"), {}),
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
