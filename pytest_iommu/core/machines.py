# SPDX-License-Identifier: GPL-2.0-only
"""Machine descriptions: qemu-images/machines/<name>.yaml -> Machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from pytest_iommu.core import paths
from pytest_iommu.core.model import parse_size
from pytest_iommu.core.outcomes import SetupError

Node = str | list["Node"] | dict[str, "Node"]
"""What a YAML file is made of here: every scalar stays text (``00:01.0`` would become a float)."""


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
    """The page table of a hardware domain: a format's name, and its parameters but the granule."""

    format: str
    parameters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that guests run on. ``memory`` in bytes; ``append`` is the kernel command line's fixed part.

    ``ram`` is the address where RAM starts, ``linear`` the virtual one where Linux maps it from there on (its linear
    map; without KASLR), ``scratch`` address and size of the end of it that Linux does not use,
    ``smmu`` the address of the SMMU's registers, ``ecam`` that of PCI's configuration space; ``nothing`` are ranges
    (first, last) of addresses beside RAM that no device answers at. ``moved`` maps a PCI requester id to its stream
    id where it is another number, ``iommus`` the name of a platform device's node to its stream ids.

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
    ram: int = 0
    linear: int | None = None
    scratch: tuple[int, int] | None = None
    smmu: int | None = None
    ecam: int | None = None
    nothing: tuple[tuple[int, int], ...] = ()
    moved: Mapping[int, int] = field(default_factory=dict, hash=False)
    iommus: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def harmless(self, address: int, write: bool) -> bool:
        """Whether DMA to this physical address hurts nobody: scratch memory, where nothing is, RAM to read."""
        if self.scratch is not None and self.scratch[0] <= address < self.scratch[0] + self.scratch[1]:
            return True
        if self.ram <= address < self.ram + self.memory:
            return not write
        return any(first <= address <= last for first, last in self.nothing)

    @property
    def limit(self) -> str:
        """What keeps Linux out of the scratch memory: for its command line, empty where there is none."""
        return f"mem={(self.scratch[0] - self.ram) >> 20}M" if self.scratch else ""

    def on(self, qemu: int) -> Machine:
        """This machine as a QEMU of that major version has it."""
        return replace(self, devices=tuple(device for device in self.devices if device.qemu <= qemu))

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


def read_yaml(path: Path) -> dict[str, Node]:
    """A YAML file whose top is a mapping, all scalars as text. SetupError with file and line on a mistake."""
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        tree = yaml.load(path.read_bytes(), Loader=loader)
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise SetupError(f"{path}: a mapping is expected")
    return cast("dict[str, Node]", tree)


class _Reader:
    """Typed access to one mapping of a YAML file; a missing or misplaced key is a SetupError that names it."""

    def __init__(self, path: Path, where: str, node: Node) -> None:
        if not isinstance(node, dict):
            raise SetupError(f"{path}: {where}: a mapping is expected")
        self.path, self.where, self.node = path, where, node

    def _get(self, key: str) -> Node:
        try:
            return self.node[key]
        except KeyError:
            raise SetupError(f"{self.path}: {self.where}: {key} is missing") from None

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key) if default is None else self.node.get(key, default)
        if not isinstance(value, str):
            raise SetupError(f"{self.path}: {self.where}: {key} is to be text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise SetupError(f"{self.path}: {self.where}: {key} is to be a list of words")
        return tuple(cast("list[str]", value))

    def size(self, key: str, default: str | None = None) -> int:
        text = self.text(key, default)
        try:
            return parse_size(text)
        except ValueError:
            raise SetupError(f"{self.path}: {self.where}: {key} is no number: {text!r}") from None

    def flag(self, key: str) -> bool:
        text = self.text(key, "false")
        if text not in ("true", "false"):
            raise SetupError(f"{self.path}: {self.where}: {key} is true or false, not {text!r}")
        return text == "true"

    def sizes(self, key: str) -> tuple[int, ...]:
        try:
            return tuple(parse_size(text) for text in self.texts(key))
        except ValueError:
            raise SetupError(f"{self.path}: {self.where}: {key} is to be a list of numbers") from None

    def inner(self, key: str) -> _Reader:
        return _Reader(self.path, f"{self.where}.{key}" if self.where else key, self._get(key))

    def items(self, key: str) -> list[_Reader]:
        value = self._get(key)
        if not isinstance(value, list):
            raise SetupError(f"{self.path}: {self.where}: {key} is to be a list")
        return [_Reader(self.path, f"{key}[{number}]", one) for number, one in enumerate(value)]


def _device(reader: _Reader, name: str) -> Device:
    return Device(
        name=reader.text("name", name or None),
        driver=reader.text("driver"),
        address=reader.text("address"),
        sids=reader.sizes("sids") if "sids" in reader.node else (reader.size("sid"),),
        bus=reader.text("bus", ""),
        hotplug=reader.flag("hotplug"),
        qemu=reader.size("qemu", "0"),
    )


def _scratch(top: _Reader, ram: int, memory: int) -> tuple[int, int] | None:
    if "scratch" not in top.node:
        return None
    reader = top.inner("scratch")
    base, size = reader.size("base"), reader.size("size")
    # mem= cuts RAM at a whole MiB from its start, and nothing may be left behind.
    if base % (1 << 20) or not ram < base or base + size != ram + memory:
        raise SetupError(f"{top.path}: scratch: is to be the end of RAM, which is {ram:#x} to {ram + memory - 1:#x}")
    return base, size


def _device_tree(top: _Reader) -> tuple[dict[int, int], dict[str, tuple[int, ...]]]:
    if "device-tree" not in top.node:
        return {}, {}
    tree = top.inner("device-tree")
    moved, iommus = (tree.inner(key) if key in tree.node else None for key in ("moved", "iommus"))
    try:
        ids = {int(key, 0): moved.size(key) for key in moved.node} if moved else {}
    except ValueError:
        raise SetupError(f"{top.path}: device-tree.moved: maps requester ids to stream ids") from None
    return ids, {name: iommus.sizes(name) for name in iommus.node} if iommus else {}


def _bounds(reader: _Reader) -> tuple[int, int]:
    return reader.size("first"), reader.size("last")


def _stage(reader: _Reader) -> Stage:
    parameters = {key: reader.size(key) for key in reader.node if key != "format"}
    return Stage(reader.text("format"), parameters)


def _merged(base: Node, over: Node) -> Node:
    """Mappings are laid over each other key by key, a key without a value takes one away; all else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    laid = {key: _merged(base[key], value) if key in base else value for key, value in over.items()}
    return {key: value for key, value in {**base, **laid}.items() if value != ""}


def _described(path: Path) -> dict[str, Node]:
    """A machine's description, laid over that of the machine it names as its ``base``."""
    node = read_yaml(path)
    if "base" not in node:
        return node
    base = path.with_name(f"{_Reader(path, '', node).text('base')}.yaml")
    below = read_yaml(base)
    if "base" in below:
        raise SetupError(f"{path}: base: {base.name} has a base itself")
    return cast("dict[str, Node]", _merged(below, node))


def load(path: Path) -> Machine:
    """Read one machine description. SetupError with file and key when it is wrong."""
    top = _Reader(path, "", _described(path))
    qemu, kernel = top.inner("qemu"), top.inner("kernel")
    lines, stages = kernel.inner("lines"), top.inner("stages")
    ram, memory = top.size("ram"), qemu.size("memory")
    moved, iommus = _device_tree(top)
    return Machine(
        name=top.text("name"),
        arch=top.text("arch"),
        description=top.text("description", ""),
        qemu_binary=qemu.text("binary"),
        qemu_package=qemu.text("package"),
        qemu_machine=qemu.text("machine"),
        qemu_args=qemu.texts("args") if "args" in qemu.node else (),
        cpu=qemu.text("cpu"),
        memory=memory,
        icount=qemu.text("icount", ""),
        make_arch=kernel.text("make-arch"),
        cross=kernel.text("cross"),
        target=kernel.text("target"),
        image=kernel.text("image"),
        config=kernel.texts("config"),
        required=kernel.texts("required"),
        append=kernel.text("append"),
        devices=tuple(_device(one, "") for one in top.items("devices")),
        agent=_device(top.inner("agent"), "agent"),
        stages={name: _stage(stages.inner(name)) for name in stages.node},
        lines={flavour: lines.size(flavour) for flavour in lines.node},
        ram=ram,
        linear=top.size("linear") if "linear" in top.node else None,
        scratch=_scratch(top, ram, memory),
        smmu=top.size("smmu") if "smmu" in top.node else None,
        ecam=top.size("ecam") if "ecam" in top.node else None,
        moved=moved,
        iommus=iommus,
        nothing=tuple(_bounds(one) for one in top.items("nothing")) if "nothing" in top.node else (),
    )


def names() -> tuple[str, ...]:
    """The machines that qemu-images/ describes."""
    return tuple(sorted(path.stem for path in (paths.qemu_images() / "machines").glob("*.yaml")))


def get(name: str) -> Machine:
    """The machine of that name. SetupError that lists the others when there is none."""
    if name not in names():
        raise SetupError(f"no machine {name!r}; there are: {', '.join(names())}")
    return load(paths.qemu_images() / "machines" / f"{name}.yaml")
