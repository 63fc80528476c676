# SPDX-License-Identifier: GPL-2.0-only
"""What an SMMU can see of an entry while it changes: a driver's orders of stores, right ones and wrong ones."""

from __future__ import annotations

from functools import partial

import pytest
from iommu_entries import REQUESTER, amd, legacy, scalable
from synthetic_memory import SyntheticMemory

from pytest_iommu.formats.base import Field
from pytest_iommu.formats.smmuv3 import CD, STE
from pytest_iommu.formats.smmuv3_commands import Command
from pytest_iommu.oracle import stream_model
from pytest_iommu.oracle.entry_changes import Words, mixture, seen_of_cd, seen_of_ste
from pytest_iommu.oracle.stream_table import SmmuV3

S1, S2, BYPASS, ABORT = 0b101, 0b110, 0b100, 0b000


def words(fields: dict[str, Field], **values: int) -> Words:
    found = [0] * 8
    for name, value in values.items():
        field = fields[name]
        found[field.word] |= value if name in ("S1ContextPtr", "S2TTB", "TTB0") else value << field.low
    return tuple(found)


STAGE1 = words(stream_model.STE, V=1, Config=S1, S1ContextPtr=0x41000000, S1DSS=2, S1CIR=1)
STAGE2 = words(stream_model.STE, V=1, Config=S2, S2VMID=3, S2T0SZ=20, S2TTB=0x42000000)
OFF = words(stream_model.STE, V=0)
FIRST = words(stream_model.CD, V=1, T0SZ=16, ASID=1, TTB0=0x43000000)
SECOND = words(stream_model.CD, V=1, T0SZ=16, ASID=2, TTB0=0x44000000)


def stored(state: Words, of: Words, *numbers: int) -> list[Words]:
    """The states after each of these words of another entry was stored."""
    found = []
    for number in numbers:
        state = (*state[:number], of[number], *state[number + 1 :])
        found.append(state)
    return found


def test_in_the_order_of_the_driver() -> None:
    """What the old entry does not use first, then the word that decides, then what the new one does not use."""
    unused = stored(STAGE1, STAGE2, 2, 3)
    critical = stored(unused[-1], STAGE2, 0)
    rest = stored(critical[-1], STAGE2, 1)
    assert rest[-1] == STAGE2
    runs = [[STAGE1, *unused], [unused[-1], *critical], [critical[-1], *rest]]
    assert mixture(runs, seen_of_ste) is None
    # Without an invalidation before the word that decides, that may be read first.
    found = mixture([runs[0] + critical, runs[2]], seen_of_ste)
    assert found is not None
    assert "S2VMID 0x0 (before none, after 0x3)" in found


def test_the_word_that_decides_comes_too_early() -> None:
    early = stored(STAGE1, STAGE2, 0)
    late = stored(early[-1], STAGE2, 2, 3, 1)
    found = mixture([[STAGE1, *early], [early[-1], *late]], seen_of_ste)
    assert found is not None
    assert "S2T0SZ 0x0" in found


def test_by_way_of_an_entry_that_is_not_valid() -> None:
    without = stored(FIRST, words(CD, V=0), 0)
    body = stored(without[-1], SECOND, 1, 3)
    last = stored(body[-1], SECOND, 0)
    assert mixture([[FIRST, *without], [without[-1], *body], [body[-1], *last]], seen_of_cd) is None
    # Never invalid: the new table with the old ASID.
    found = mixture([[FIRST, *stored(FIRST, SECOND, 1)], [*stored(FIRST, SECOND, 1), SECOND]], seen_of_cd)
    assert found is not None
    assert found.startswith("ASID 0x1 (before 0x1, after 0x2); TTB0 ")
    # It is invalid, but valid again before the SMMU has been told.
    assert mixture([[FIRST, *without, *body, *last]], seen_of_cd) is not None


@pytest.mark.parametrize("config", [BYPASS, ABORT])
def test_what_is_not_looked_at_may_be_anything(config: int) -> None:
    before = words(stream_model.STE, V=1, Config=config)
    after = (*before[:3], 0x42000000, *before[4:])
    assert mixture([[before, after]], seen_of_ste) is None
    assert seen_of_ste(before)[0] == ("Config", config)
    assert seen_of_ste(OFF) == ()


def test_both_stages_have_the_fields_of_both() -> None:
    names = [name for name, _ in seen_of_ste(words(STE, V=1, Config=0b111))]
    assert {"S1ContextPtr", "S2TTB", "S2VMID", "EATS"} <= set(names)


def test_what_tells_the_smmu() -> None:
    named, sync = Command("CFGI_STE", (8, 8)), Command("SYNC")

    def told(commands: list[Command], sid: int) -> bool:
        return SmmuV3(SyntheticMemory(), 0).told(sid, commands)

    assert told([named, sync], 8)
    assert told([Command("CFGI_STE_RANGE", (0, 31)), Command("TLBI_NSNH_ALL"), sync], 8)
    assert not told([named], 8)
    assert not told([sync, named], 8)
    assert not told([named, sync, named], 8)
    assert not told([named, sync], 9)
    assert not told([Command("TLBI_NH_ALL", vmid=0), sync], 8)


def halves(*states: Words) -> list[Words]:
    """Each state after its halves of two words were stored, the last one first, as Linux stores a DTE."""
    found = [states[0]]
    for state in states[1:]:
        found += [(*found[-1][:2], *state[2:]), state]
    return found


def test_a_device_table_entry_is_read_in_halves() -> None:
    iommu, old = amd().iommu, (0x5000000 | 3 << 61 | 3 << 9 | 3, 0x17, 0xFFFF, 0xFF)
    new = (0x6000000 | 3 << 61 | 4 << 9 | 3, 0x18, 0xFFFF, 0xFF)

    seen = partial(iommu.seen, "device table entry")

    assert mixture([halves(old, new)], seen, iommu.unit) is None
    assert mixture([halves(old, (1, 0, 0, 0), new)], seen, iommu.unit) is None
    single = [old, (old[0], new[1], *old[2:]), new]
    found = mixture([single], seen, iommu.unit)
    assert found is not None
    assert "DomainID 0x18 (before 0x17, after 0x18)" in found or "Host page table root" in found
    assert mixture([[old, (0, 0, 0, 0), new]], seen, iommu.unit) == "V 0x0 (before none, after none)"


def test_a_device_table_entry_that_refuses_everything_has_no_fields() -> None:
    """With TV and neither IR nor IW, as Linux 6.12 leaves it for a moment under the old domain id."""
    iommu, old = amd().iommu, (0x5000000 | 3 << 61 | 3 << 9 | 3, 0x17, 0xFFFF, 0xFF)
    seen = partial(iommu.seen, "device table entry")
    refuses = [(1, *old[1:]), (3, *old[1:]), (3, 0, *old[2:])]

    assert mixture([[old, *refuses]], seen, iommu.unit) is None
    assert mixture([[*reversed(refuses), old]], seen, iommu.unit) is None
    passes = (3 | 3 << 61, *old[1:])
    found = mixture([[old, passes, *refuses]], seen, iommu.unit)
    assert found is not None
    assert "Mode 0x0 (before 0x3, after none)" in found


def test_a_pasid_entry_is_not_cleared_while_it_is_present() -> None:
    iommu, whole = scalable(first=True).iommu, (2 << 2 | 1 << 6 | 1, 0x17, 0x5000000, 0, 0, 0, 0, 0)
    absent = (whole[0] & ~1, *whole[1:])

    seen = partial(iommu.seen, "PASID entry")

    assert mixture([[whole, absent], [absent, (0,) * 8]], seen, iommu.unit) is None
    # Set up from the end, P comes last; what was read first is of that moment or of an earlier one.
    setup = [(0,) * 8, (0, 0, *whole[2:]), (0, *whole[1:]), whole]
    assert mixture([setup], seen, iommu.unit) is None
    torn = mixture([[whole, (*whole[:2], 0, *whole[3:]), (0,) * 8]], seen, iommu.unit)
    assert torn is not None
    assert "FSPTPTR 0x0 (before 0x5000, after none)" in torn
    early = mixture([[(0,) * 8, (whole[0], *(0,) * 7), whole]], seen, iommu.unit)
    assert early is not None
    assert "FSPTPTR 0x0 (before none, after 0x5000)" in early


def test_where_entries_are() -> None:
    for made, names in ((legacy(), ["context entry"]), (scalable(first=False), ["context entry", "PASID entry"])):
        places = made.iommu.places(REQUESTER)
        assert list(places) == names
        assert places[names[-1]].start == made.place
        assert len(places[names[-1]]) == 8 * len(made.words)
    entries = legacy()
    counts = dict(entries.iommu.seen("context entry", entries.words))
    assert counts == {"TT": 0, "AW": 2, "DID": 0x17, "SSPTPTR": 0x5000000 >> 12}
    assert entries.iommu.seen("context entry", [0, 0]) == ()
