# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initramfs: a newc archive written from qemu-images/initramfs.yaml, reproducible for the same input.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_iommu.core import paths
from pytest_iommu.core.yaml_reader import Fields, Value, read_file

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


class Newc:
    """Builds one archive in memory; owner 0:0, times 0, inode numbers in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0), links: int = 1) -> None:
        """Add one member. ``mode`` includes its file type; ``device`` is major and minor of a node."""
        self._inode += 1
        encoded = name.lstrip("/").encode() + b"\0"
        #         ino          mode  uid gid nlink mtime filesize devmajor/minor rdevmajor/minor namesize check
        numbers = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = MAGIC + b"".join(b"%08X" % number for number in numbers)
        self._parts += [_padded(header + encoded), _padded(data)]

    def finish(self) -> bytes:
        """Return the archive with its trailer."""
        self._inode = -1
        self.add(TRAILER, 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def build(sources: Mapping[str, Path], modules: Sequence[Path], manifest: Path | None = None) -> bytes:
    """Build the archive. ``sources``: products in the manifest (``agent``, ``busybox``); ``modules``: in load order.

    SetupError if the manifest is wrong or names a missing product.
    """
    manifest = manifest or paths.qemu_images() / "initramfs.yaml"
    top = read_file(manifest).fields(("directories", "nodes", "files", "modules"), "a manifest")
    archive = Newc()
    for folder in top.words("directories"):
        archive.add(folder, stat.S_IFDIR | 0o755, links=2)
    for node in top.need("nodes").list():
        entry = node.fields(("path", "mode", "type", "major", "minor"), "a node")
        kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}[entry.need("type").choice(("c", "b"), "type")]
        device = (entry.need("major").integer(), entry.need("minor").integer())
        archive.add(entry.need("path").text(), kind | _mode(entry), device=device)
    for node in top.need("files").list():
        entry = node.fields(("path", "mode", "source", "optional"), "a file")
        path, product = entry.need("path").text(), entry.need("source").text()
        source = sources.get(product)
        if source is not None:
            archive.add(path, stat.S_IFREG | _mode(entry), source.read_bytes())
        elif not entry.get("optional", Value.flag, False):
            raise node.error(f"{path} needs {product!r}, which has not been built")
    place = top.need("modules").fields(("directory", "list"), "modules")
    listed = ""
    for module in modules:
        name = f"{place.need('directory').text()}/{module.name}"
        archive.add(name, stat.S_IFREG | 0o644, module.read_bytes())
        listed += name + "\n"
    archive.add(place.need("list").text(), stat.S_IFREG | 0o644, listed.encode())
    return archive.finish()


def _mode(entry: Fields) -> int:
    return int(entry.need("mode").text(), 8)
