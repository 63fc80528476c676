# SPDX-License-Identifier: GPL-2.0-only
"""The format against its specification, item by item, and against itself."""

import pytest
from pytest_iommu import Prot, formats
from pytest_iommu.core.model import Kind
from pytest_iommu.oracle import TableModel


@pytest.fixture
def toy(pytestconfig):
    return formats.get("toy")


def test_items_are_those_of_the_specification(toy):
    config = toy.configure()
    assert toy.encode(config, 0, 4096, 0x12345000, Prot.from_letters("rwc")) == 0x1234500B
    assert toy.encode(config, 1, 2 << 20, 0x40000000, Prot.from_letters("r")) == 0x40000005
    assert toy.encode_table(config, 1, 0x41000000) == 0x41000001
    assert toy.decode(config, 0, 0x12345013).volatile == ("D",)
    assert toy.decode(config, 1, 0x41000000).kind is Kind.BAD


def test_what_is_mapped_can_be_read_back(toy):
    table = TableModel(toy.configure())
    table.map(0x1FF000, 0x401FF000, (2 << 20) + 0x2000, Prot.from_letters("rw"))
    leaves = list(table.snapshot().leaves())
    assert [leaf.leaf for leaf in leaves] == [4096, 2 << 20, 4096]
    for leaf in leaves:
        found = toy.decode(table.config, leaf.level, leaf.raw)
        assert (found.oa, found.size, str(found.prot)) == (leaf.oa, leaf.leaf, "rwx---")
