# SPDX-License-Identifier: GPL-2.0-only
"""The dialect parses a text that a kernel printed, and reports bad lines."""

import pytest
from flat import Flat
from kernel import PRINTED
from pytest_iommu import DumpSyntaxError, Prot, formats
from pytest_iommu.oracle import TableModel


def test_the_text_is_what_was_mapped():
    table = TableModel(formats.configure("vtdss"))
    table.map(0x100000, 0x41000000, 0x3000, Prot.from_letters("rw"))
    table.map(0x200000, 0x41003000, 0x1000, Prot.from_letters("r"))
    assert Flat().parse({"pages": PRINTED}).ranges == table.snapshot().ranges


def test_a_line_that_is_none_is_named():
    with pytest.raises(DumpSyntaxError, match="RNG-4: pages:2: no line of this dialect"):
        Flat().parse({"pages": PRINTED.replace("r-", "r")})


def test_it_is_known_by_its_directory():
    assert Flat().probe({"tables"})
    assert not Flat().probe({"domains"})
