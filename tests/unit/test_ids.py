# SPDX-License-Identifier: GPL-2.0-only
"""Whose ASIDs and VMIDs are, and that an id is clean before another table gets it."""

from __future__ import annotations

import pytest

from pytest_iommu.formats.smmuv3_commands import Command, Tag
from pytest_iommu.oracle.ids import Ids, User
from pytest_iommu.oracle.stream_model import Hardware

HARDWARE = Hardware(stalls=False, overrides=False, vmid_bits=8, asid_bits=16)
TAG, OTHER, VMID = Tag(0, 1), Tag(0, 2), Tag(3)
A, B = User(8, 0x41000000, "a"), User(8, 0x42000000, "b")
AGENT = User(40, 0x43000000)
SYNC, LEAVES = Command("SYNC"), Command("CFGI_STE", (8, 8))
FLUSH = Command("TLBI_NH_ASID", asid=1, vmid=0)


def test_ids_of_domains_that_stay() -> None:
    ids = Ids(HARDWARE)
    assert list(ids.seen({TAG: [A], OTHER: [AGENT], VMID: [User(16, 0x44000000, "c")]}, [])) == []
    assert list(ids.seen({TAG: [A, User(16, A.top, "a")], OTHER: [AGENT]}, [])) == []


@pytest.mark.parametrize(
    ("users", "said"),
    [
        (
            {TAG: [A, AGENT]},
            "ASID 1 is that of domain a and of the table at 0x43000000 (stream 40) at the same time",
        ),
        ({Tag(0): [A]}, "domain a has VMID 0, which is that of all streams without stage 2"),
        ({Tag(256): [A]}, "VMID 256 of domain a has more than 8 bits"),
        ({Tag(0, 65536): [A]}, "ASID 65536 of domain a has more than 16 bits"),
    ],
)
def test_ids_that_cannot_be(users: dict[Tag, list[User]], said: str) -> None:
    assert list(Ids(HARDWARE).seen(users, [])) == [said]


WAS = "ASID 1 was that of domain a, is now that of domain b, and was not invalidated in between"


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ([LEAVES, FLUSH, SYNC], []),
        ([LEAVES, FLUSH, SYNC, LEAVES, SYNC], []),
        ([LEAVES, Command("TLBI_NSNH_ALL"), SYNC], []),
        ([LEAVES, SYNC], [WAS]),
        ([LEAVES, FLUSH], [WAS]),
        ([FLUSH, SYNC, LEAVES, SYNC], [WAS]),
        ([LEAVES, Command("TLBI_NH_ASID", asid=2, vmid=0), SYNC], [WAS]),
        ([LEAVES, Command("TLBI_NH_VA", asid=1, vmid=0, first=0, last=0xFFFF), SYNC], [WAS]),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_an_id_that_is_used_again(commands: list[Command], said: list[str], at_once: bool) -> None:
    ids = Ids(HARDWARE)
    assert list(ids.seen({TAG: [A]}, [])) == []
    if not at_once:
        assert list(ids.seen({}, commands)) == []
        commands = [LEAVES, SYNC]
    assert list(ids.seen({TAG: [B]}, commands)) == said


def test_an_id_that_is_invalidated_when_nobody_has_it() -> None:
    ids = Ids(HARDWARE)
    list(ids.seen({TAG: [A]}, []))
    list(ids.seen({}, [LEAVES, SYNC]))
    ids.idle([FLUSH, SYNC])
    assert list(ids.seen({TAG: [B]}, [])) == []


def test_the_same_domain_comes_back() -> None:
    ids = Ids(HARDWARE)
    list(ids.seen({TAG: [A]}, []))
    list(ids.seen({}, [LEAVES, SYNC]))
    assert list(ids.seen({TAG: [A]}, [LEAVES, SYNC])) == []
