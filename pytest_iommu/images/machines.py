# SPDX-License-Identifier: GPL-2.0-only
"""Machine descriptions: qemu-images/machines/<name>.yaml -> Machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pytest_iommu import paths
from pytest_iommu.model import parse_size
from pytest_iommu.outcomes import SetupError

Node = str | list["Node"] | dict[str, "Node"]
"""What a YAML file is made of here: every scalar stays text (``00:01.0`` would become a float)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One PCI function behind the IOMMU: ``driver`` is QEMU's -device word with its properties."""

    name: str
    driver: str
    address: str
    sid: int

    @property
    def slot(self) -> str:
        """What QEMU's ``addr=`` takes, e.g. ``01.0``."""
        return self.address.rpartition(":")[2]

    @property
    def argument(self) -> str:
        """The whole value of ``-device``."""
        return f"{self.driver},id={self.name},addr={self.slot}"


@dataclass(frozen=True, slots=True)
class Stage:
    """The page table of a hardware domain: a format's name, and its parameters but the granule."""

    format: str
    parameters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that guests run on. ``memory`` in bytes; ``append`` is the kernel command line's fixed part.

    ``lines`` maps a flavour to the number of lines that its build from nothing prints, for percentages.
    """

    name: str
    arch: str
    description: str
    qemu_binary: str
    qemu_package: str
    qemu_machine: str
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

    def size(self, key: str) -> int:
        text = self.text(key)
        try:
            return parse_size(text)
        except ValueError:
            raise SetupError(f"{self.path}: {self.where}: {key} is no number: {text!r}") from None

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
        sid=reader.size("sid"),
    )


def _stage(reader: _Reader) -> Stage:
    parameters = {key: reader.size(key) for key in reader.node if key != "format"}
    return Stage(reader.text("format"), parameters)


def load(path: Path) -> Machine:
    """Read one machine description. SetupError with file and key when it is wrong."""
    top = _Reader(path, "", read_yaml(path))
    qemu, kernel = top.inner("qemu"), top.inner("kernel")
    lines, stages = kernel.inner("lines"), top.inner("stages")
    return Machine(
        name=top.text("name"),
        arch=top.text("arch"),
        description=top.text("description", ""),
        qemu_binary=qemu.text("binary"),
        qemu_package=qemu.text("package"),
        qemu_machine=qemu.text("machine"),
        cpu=qemu.text("cpu"),
        memory=qemu.size("memory"),
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
    )


def names() -> tuple[str, ...]:
    """The machines that qemu-images/ describes."""
    return tuple(sorted(path.stem for path in (paths.qemu_images() / "machines").glob("*.yaml")))


def get(name: str) -> Machine:
    """The machine of that name. SetupError that lists the others when there is none."""
    if name not in names():
        raise SetupError(f"no machine {name!r}; there are: {', '.join(names())}")
    return load(paths.qemu_images() / "machines" / f"{name}.yaml")
