# SPDX-License-Identifier: GPL-2.0-only
"""Flattened device trees: just enough to change properties of the tree that QEMU generates for its board.

The format is that of the Devicetree Specification 0.4, chapter 5: a header of ten big-endian words, a memory
reservation block, a structure block of tokens, a strings block with the properties' names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAGIC = 0xD00DFEED
VERSION, COMPATIBLE_VERSION = 17, 16
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")
_WORD = struct.Struct(">I")


@dataclass(slots=True)
class Node:
    """One node: its name with the unit address, its properties' bytes by name, its child nodes."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all its descendants."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class Tree:
    """A device tree; ``reserved`` is the raw memory reservation block, ``boot_cpu`` the word in its header."""

    root: Node
    reserved: bytes = bytes(16)
    boot_cpu: int = 0

    def compatible(self, word: str) -> Node:
        """Return the only node that is compatible with ``word``. KeyError if there is none or more than one."""
        found = [node for node in self.root.walk() if word in strings(node.properties.get("compatible", b""))]
        if len(found) != 1:
            raise KeyError(f"{len(found)} nodes are compatible with {word}")
        return found[0]


def strings(value: bytes) -> tuple[str, ...]:
    """Decode a property's value as a list of strings."""
    return tuple(part.decode() for part in value.split(b"\0")[:-1])


def cells(value: bytes) -> tuple[int, ...]:
    """Decode a property's value as 32-bit cells. ValueError if its size is not a multiple of 4."""
    if len(value) % 4:
        raise ValueError(f"{len(value)} bytes are not a list of cells")
    return struct.unpack(f">{len(value) // 4}I", value)


def from_cells(words: Sequence[int]) -> bytes:
    """Encode 32-bit cells as a property's value."""
    return struct.pack(f">{len(words)}I", *words)


def parse(blob: bytes) -> Tree:
    """Parse a flattened device tree. ValueError if it is malformed."""
    try:
        magic, total, structure, names, reserved, _, compatible, boot_cpu, _, size = _HEADER.unpack_from(blob)
        if magic != MAGIC or compatible > VERSION or total > len(blob):
            raise ValueError(f"not a device tree of version {VERSION}")
        root, end = _node(blob, structure, names)
        if _WORD.unpack_from(blob, end)[0] != END or end + 4 > structure + size:
            raise ValueError("the structure block has no proper end")
    except (struct.error, IndexError) as error:
        raise ValueError(f"the device tree is truncated: {error}") from error
    at = reserved
    while any(blob[at : at + 16]):
        at += 16
    return Tree(root, blob[reserved : at + 16], boot_cpu)


def _text(blob: bytes, at: int) -> str:
    return blob[at : blob.index(b"\0", at)].decode()


def _aligned(at: int) -> int:
    return (at + 3) & ~3


def _token(blob: bytes, at: int) -> tuple[int, int]:
    """Return the next token other than NOP, and the offset after it."""
    while (token := _WORD.unpack_from(blob, at)[0]) == NOP:
        at += 4
    return token, at + 4


def _node(blob: bytes, at: int, names: int) -> tuple[Node, int]:
    """Return the node that begins there, and its end."""
    token, at = _token(blob, at)
    if token != BEGIN_NODE:
        raise ValueError(f"token {token:#x} instead of the begin of a node")
    node = Node(_text(blob, at))
    at = _aligned(at + len(node.name.encode()) + 1)
    while True:
        token, after = _token(blob, at)
        if token == END_NODE:
            return node, after
        if token == BEGIN_NODE:
            child, at = _node(blob, after - 4, names)
            node.children.append(child)
        elif token == PROPERTY:
            size, name = struct.unpack_from(">2I", blob, after)
            node.properties[_text(blob, names + name)] = blob[after + 8 : after + 8 + size]
            at = _aligned(after + 8 + size)
        else:
            raise ValueError(f"unexpected token {token:#x} in node {node.name}")


def pack(tree: Tree) -> bytes:
    """Encode the tree in flattened form."""
    names: dict[str, int] = {}
    text = bytearray()
    structure = bytearray()

    def put(node: Node) -> None:
        structure.extend(_WORD.pack(BEGIN_NODE) + _padded(node.name.encode() + b"\0"))
        for name, value in node.properties.items():
            if name not in names:
                names[name] = len(text)
                text.extend(name.encode() + b"\0")
            structure.extend(struct.pack(">3I", PROPERTY, len(value), names[name]) + _padded(value))
        for child in node.children:
            put(child)
        structure.extend(_WORD.pack(END_NODE))

    put(tree.root)
    structure.extend(_WORD.pack(END))
    # The reservation block must be aligned to 8, and the header's 40 bytes are.
    start = _HEADER.size + len(tree.reserved)
    strings_at = start + len(structure)
    total = strings_at + len(text)
    sizes = (VERSION, COMPATIBLE_VERSION, tree.boot_cpu, len(text), len(structure))
    return _HEADER.pack(MAGIC, total, start, strings_at, _HEADER.size, *sizes) + tree.reserved + structure + text


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def iommu_map(moved: Mapping[int, int], smmu: int) -> list[int]:
    """Return the cells of an iommu-map to the SMMU of that phandle, for all 65536 requester ids.

    Every requester id has the stream id of the same number, except those in ``moved`` (pci-iommu.yaml of the kernel's
    device tree bindings: requester id, phandle, stream id, count).
    """
    found: list[int] = []
    first = 0
    for rid in sorted(moved):
        if rid > first:
            found += [first, smmu, first, rid - first]
        found += [rid, smmu, moved[rid], 1]
        first = rid + 1
    return [*found, first, smmu, first, 0x10000 - first] if first < 0x10000 else found


def with_stream_ids(blob: bytes, moved: Mapping[int, int], iommus: Mapping[str, Sequence[int]]) -> bytes:
    """Return the board's device tree with ``moved`` requester ids, and stream ids for platform devices by node name.

    ValueError if there is no SMMU in front of PCI, or no such node.
    """
    tree = parse(blob)
    try:
        bridge = tree.compatible("pci-host-ecam-generic")
        smmu = cells(bridge.properties["iommu-map"])[1]
        bridge.properties["iommu-map"] = from_cells(iommu_map(moved, smmu))
        nodes = {node.name: node for node in tree.root.walk()}
        for name, sids in iommus.items():
            nodes[name].properties["iommus"] = from_cells([word for sid in sids for word in (smmu, sid)])
    except KeyError as error:
        raise ValueError(f"not the device tree of this board: {error}") from error
    return pack(tree)
