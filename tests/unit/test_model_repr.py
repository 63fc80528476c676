# SPDX-License-Identifier: GPL-2.0-only
"""What pytest shows of the words of model.py when an assertion fails: nobody compares addresses in decimal."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pytest_iommu.core import model
from pytest_iommu.core.model import (
    Cd,
    Entry,
    Event,
    Info,
    Kind,
    Leaf,
    LevelStats,
    Mapping,
    Prot,
    Range,
    Ste,
    TableConfig,
)

RW = Prot.from_letters("rw")
WORDS = (0x1B, 0x41000000, 0, 0, 0, 0, 0, 0)
SHOWN = {
    "Prot('rw----')": RW,
    "Leaf(iova=0x1000, oa=0x41000000, level=0, leaf=4K, prot=rw----, flags=(), volatile=(), raw=0x41000f47)": Leaf(
        0x1000, 0x41000000, 0, 4096, RW, raw=0x41000F47
    ),
    "Range(first=0x200000, last=0x3fffff, oa=0x41000000, level=1, leaf=2M, prot=rw----, flags=('nG', 'UXN'))": Range(
        0x200000, 0x3FFFFF, 0x41000000, 1, 1 << 21, RW, ("nG", "UXN")
    ),
    "Entry(level=2, iova=0x0, kind=table, size=None, oa=0x41000000, raw=0x41000003, prot=None, flags=())": Entry(
        2, 0, Kind.TABLE, None, 0x41000000, 0x41000003
    ),
    "LevelStats(level=0, tables=2, leaves=15, bytes=8K)": LevelStats(0, 2, 15, 8192),
    "Info(format='amdv1', type='dma', aperture=(0x0, 0xffffffff), page_sizes=(4K, 2M), levels=3, top=0x41000000)": Info(
        "amdv1", "dma", (0, 0xFFFFFFFF), (4096, 1 << 21), 3, 0x41000000
    ),
    "Mapping(iova=0x1000, oa=0x41000000, size=12K, prot=rw----, leaf=4K, origin=(0x1000, 0x41000000, 0x3000))": Mapping(
        0x1000, 0x41000000, 0x3000, RW, 4096, (0x1000, 0x41000000, 0x3000)
    ),
    "TableConfig(format='amdv1', granule=4K, ias=48, oas=52, page_sizes=(4K), levels=3, features=frozenset())": (
        TableConfig("amdv1", 4096, 48, 52, (4096,), 3)
    ),
    "Ste(sid=8, valid=True, config='only S1_TRANS', s1_context_ptr=0x41000000, s2ttb=0x0, "
    "words=(0x1b, 0x41000000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0), domain=5, without='unknown')": Ste(
        8, True, "only S1_TRANS", 0x41000000, 0, WORDS, 5
    ),
    "Cd(sid=8, ssid=0, valid=True, asid=3, t0sz=16, tg0=4K, ips=44, epd0=False, ttb0=0x41000000, mair=0xf404ff44, "
    "words=(0x1b, 0x41000000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0), domain=None, without='unknown')": Cd(
        8, 0, True, 3, 16, 4096, 44, False, 0x41000000, 0xF404FF44, WORDS
    ),
    "Event(name='F_TRANSLATION', sid=8, words=(0x10, 0x2), ssid=None, iova=0x1234000, write=True, stage=1, "
    "access='IN', address=None)": Event("F_TRANSLATION", 8, (0x10, 2), None, 0x1234000, True, 1, "IN"),
}


@pytest.mark.parametrize(("shown", "value"), SHOWN.items(), ids=[type(value).__name__ for value in SHOWN.values()])
def test_repr(shown: str, value: object) -> None:
    assert repr(value) == shown


def test_no_field_of_any_word_shows_an_address_in_decimal() -> None:
    """A class or field that is new has to be put into hexadecimal, or named here as no address."""
    plain = {"ias", "oas", "levels", "level", "tables", "leaves", "sid", "ssid", "asid", "t0sz", "ips", "stage"}
    plain |= {"page_sizes", "granule", "leaf", "size", "bytes", "tg0", "domain"}
    for name, one in vars(model).items():
        if not dataclasses.is_dataclass(one) or name == "Prot":
            continue
        for field in dataclasses.fields(one):
            numbers = re.search(r"\bint\b", str(field.type))
            if numbers and field.name not in plain:
                assert model.readable(field.name, 0x1000) == "0x1000", f"{name}.{field.name}"


def test_an_assertion_shows_what_differs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pytest_iommu.core.model import Prot, Range

        ONE = Range(0x1000, 0x1fff, 0x41000000, 0, 4096, Prot(True))
        TWO = Range(0x1000, 0x2fff, 0x41000000, 0, 8192, Prot(True))

        def test_one():
            assert ONE == TWO

        def test_several():
            assert [ONE, ONE] == [ONE, TWO]
        """
    )
    result = pytester.runpytest("-v")
    result.stdout.fnmatch_lines(
        [
            "E * assert Range(first=0x1000, last=0x1fff, *) == Range(first=0x1000, last=0x2fff, *)",
            "E * last: 0x1fff != 0x2fff",
            "E * leaf: 4K != 8K",
            "E * At index 1 diff: Range(first=0x1000, last=0x1fff, *) != Range(first=0x1000, last=0x2fff, *)",
        ]
    )
    result.stdout.no_fnmatch_line("*8191*")
    result.stdout.no_fnmatch_line("*12287*")
