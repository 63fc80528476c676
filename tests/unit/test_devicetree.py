# SPDX-License-Identifier: GPL-2.0-only
"""The editor of flattened device trees, on trees made here."""

from __future__ import annotations

import struct

import pytest

from pytest_iommu.images import devicetree
from pytest_iommu.images.devicetree import Node, Tree, cells, from_cells, iommu_map, pack, parse, with_stream_ids


def board() -> Tree:
    """A small board: an SMMU, PCI behind it, a virtio slot."""
    bridge = {"compatible": b"pci-host-ecam-generic\0", "iommu-map": from_cells([0, 0x8005, 0, 0x10000]), "x": b"abc"}
    smmu = {"compatible": b"arm,smmu-v3\0other\0", "phandle": from_cells([0x8005]), "dma-coherent": b""}
    nodes = [Node("smmuv3@9050000", smmu), Node("pcie@10000000", bridge, [Node("deep", {"x": b"y\0"})])]
    return Tree(Node("", {"#size-cells": from_cells([2])}, [*nodes, Node("virtio_mmio@a003e00")]), boot_cpu=1)


def test_what_is_packed_is_parsed() -> None:
    blob = pack(board())
    assert parse(blob) == board()
    assert pack(parse(blob)) == blob
    # An equal name is stored once, as others do it.
    assert blob.count(b"compatible\0") == 1


def test_the_reservation_block_is_kept() -> None:
    tree = board()
    tree.reserved = struct.pack(">4Q", 0x40000000, 0x1000, 0, 0)
    assert parse(pack(tree)) == tree


def test_nops_and_room_at_the_end_mean_nothing() -> None:
    blob = bytearray(pack(board()))
    words = list(struct.unpack_from(">10I", blob))
    nops = struct.pack(">2I", devicetree.NOP, devicetree.NOP)
    at = words[2]
    blob[at:at] = nops  # before the root; the strings move, the structure grows
    words[1] += len(nops) + 100
    words[3] += len(nops)
    words[9] += len(nops)
    struct.pack_into(">10I", blob, 0, *words)
    assert parse(bytes(blob) + bytes(100)) == board()


def test_what_is_no_device_tree_is_refused() -> None:
    blob = pack(board())
    for bad in (b"", b"\0" * 100, blob[:60], blob[: len(blob) // 2], struct.pack(">I", 1) + blob[4:]):
        with pytest.raises(ValueError, match="device tree"):
            parse(bad)
    at = struct.unpack_from(">10I", blob)[2] + 8  # the root's first property
    with pytest.raises(ValueError, match="token 0x7"):
        parse(blob[:at] + struct.pack(">I", 7) + blob[at + 4 :])
    with pytest.raises(ValueError, match="cells"):
        cells(b"abc")


def test_a_map_covers_every_requester_id_once() -> None:
    moved = {0x10: 0x5010, 0: 7, 0x11: 0x11, 0xFFFF: 0x20}
    words = iommu_map(moved, 9)
    found: dict[int, int] = {}
    for rid, smmu, sid, count in zip(*(iter(words),) * 4, strict=True):
        assert smmu == 9
        for number in range(count):
            assert rid + number not in found
            found[rid + number] = sid + number
    assert found == {rid: moved.get(rid, rid) for rid in range(0x10000)}
    assert iommu_map({}, 9) == [0, 9, 0, 0x10000]


def test_stream_ids_are_put_into_the_boards_tree() -> None:
    changed = parse(with_stream_ids(pack(board()), {8: 0x100}, {"virtio_mmio@a003e00": (5, 5)}))
    assert cells(changed.compatible("pci-host-ecam-generic").properties["iommu-map"]) == (
        *(0, 0x8005, 0, 8),
        *(8, 0x8005, 0x100, 1),
        *(9, 0x8005, 9, 0xFFF7),
    )
    assert cells(changed.root.children[2].properties["iommus"]) == (0x8005, 5, 0x8005, 5)
    assert changed.root.children[1].children == board().root.children[1].children


def test_another_board_is_refused() -> None:
    with pytest.raises(ValueError, match="not the device tree of this board: .*virtio_mmio@1"):
        with_stream_ids(pack(board()), {}, {"virtio_mmio@1": (5,)})
    tree = board()
    tree.root.children.pop(1)
    with pytest.raises(ValueError, match="0 nodes are compatible with pci-host-ecam-generic"):
        with_stream_ids(pack(tree), {}, {})
