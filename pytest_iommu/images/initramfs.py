# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initramfs: a newc archive written from qemu-images/initramfs.yaml, the same bytes for the same input.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pytest_iommu.core import paths
from pytest_iommu.core.machines import Node, read_yaml
from pytest_iommu.core.outcomes import SetupError

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


class Newc:
    """Builds one archive in memory; owner 0:0, times 0, inode numbers in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0), links: int = 1) -> None:
        """One member. ``mode`` with its file type; ``device`` is major and minor of a node."""
        self._inode += 1
        encoded = name.lstrip("/").encode() + b"\0"
        #         ino          mode  uid gid nlink mtime filesize devmajor/minor rdevmajor/minor namesize check
        numbers = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = MAGIC + b"".join(b"%08X" % number for number in numbers)
        self._parts += [_padded(header + encoded), _padded(data)]

    def finish(self) -> bytes:
        """The archive, closed by its trailer."""
        self._inode = -1
        self.add(TRAILER, 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _mapping(node: Node, where: str) -> dict[str, str]:
    if not isinstance(node, dict) or not all(isinstance(value, str) for value in node.values()):
        raise SetupError(f"{where}: a mapping of words is expected")
    return cast("dict[str, str]", node)


def _list(manifest: Mapping[str, Node], key: str, where: Path) -> list[Node]:
    value = manifest.get(key, [])
    if not isinstance(value, list):
        raise SetupError(f"{where}: {key} is to be a list")
    return value


def build(sources: Mapping[str, Path], modules: Sequence[Path], manifest: Path | None = None) -> bytes:
    """The archive. ``sources`` are the products the manifest names (``agent``, ``busybox``), ``modules`` in load order.

    SetupError when the manifest is wrong or names a product that is not there.
    """
    manifest = manifest or paths.qemu_images() / "initramfs.yaml"
    top = read_yaml(manifest)
    archive = Newc()
    for folder in _list(top, "directories", manifest):
        archive.add(str(folder), stat.S_IFDIR | 0o755, links=2)
    for node in _list(top, "nodes", manifest):
        entry = _mapping(node, f"{manifest}: nodes")
        kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}[entry["type"]]
        archive.add(entry["path"], kind | int(entry["mode"], 8), device=(int(entry["major"]), int(entry["minor"])))
    for node in _list(top, "files", manifest):
        entry = _mapping(node, f"{manifest}: files")
        source = sources.get(entry["source"])
        if source is not None:
            archive.add(entry["path"], stat.S_IFREG | int(entry["mode"], 8), source.read_bytes())
        elif entry.get("optional") != "true":
            raise SetupError(f"{manifest}: {entry['path']} is made of {entry['source']!r}, which there is none of")
    place = _mapping(top.get("modules", {}), f"{manifest}: modules")
    listed = ""
    for module in modules:
        name = f"{place['directory']}/{module.name}"
        archive.add(name, stat.S_IFREG | 0o644, module.read_bytes())
        listed += name + "\n"
    archive.add(place["list"], stat.S_IFREG | 0o644, listed.encode())
    return archive.finish()
