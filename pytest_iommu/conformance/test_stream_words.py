# SPDX-License-Identifier: GPL-2.0-only
"""Words that Linux never writes, planted in RAM by the host: the files must show what stands there, and follow nothing.

The stream is that of a device that does nothing meanwhile; its words are put back before the test ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pytest_iommu.check import reading
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.witnesses.streams import Streams, Wanted, differs
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats import smmuv3
from pytest_iommu.formats.base import Field
from pytest_iommu.formats.smmuv3 import CD, STE
from pytest_iommu.oracle.stream_table import SmmuV3

pytestmark = pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump", devices=("edu0", "edu1"))

DEVICE = "edu1"
NOWHERE = 0xFFF_FFFF_F000
"""An address of 44 bits with nothing behind it."""


class Planter:
    """Changes the words of one stream, and holds the files against what stands in RAM then."""

    def __init__(self, guest: GuestHandle, memory: Memory, smmu: SmmuV3) -> None:
        self._memory = memory
        self._smmu = smmu
        self.streams: Streams = guest.streams
        self.sid = self.streams.sid(DEVICE)

    @contextmanager
    def ste(self, **values: int) -> Iterator[None]:
        """The stream table entry with these fields changed, for as long as the context lasts."""
        with self._planted(self._smmu.ste_address(self.sid), STE, values):
            yield

    @contextmanager
    def cd(self, **values: int) -> Iterator[None]:
        """The same for the context descriptor of SSID 0."""
        with self._planted(self._smmu.cd_address(self.sid), CD, values):
            yield

    @contextmanager
    def word(self, which: str, number: int, value: int) -> Iterator[None]:
        """A whole word of the entry (``ste``) or descriptor (``cd``)."""
        address = self._smmu.ste_address(self.sid) if which == "ste" else self._smmu.cd_address(self.sid)
        with self._planted(address, {"word": Field(number, 63, 0)}, {"word": value}):
            yield

    @contextmanager
    def _planted(self, address: int | None, fields: dict[str, Field], values: dict[str, int]) -> Iterator[None]:
        assert address is not None, "the stream has no such words"
        before = bytes(self._memory.read(address, 64))
        words = list(struct.unpack("<8Q", before))
        for name, value in values.items():
            field = fields[name]
            mask = (1 << field.high - field.low + 1) - 1 << field.low
            words[field.word] = words[field.word] & ~mask | (value << field.low & mask)
        self._memory.write(address, struct.pack("<8Q", *words))
        try:
            yield
        finally:
            self._memory.write(address, before)

    def check(self, *wanted: Wanted) -> None:
        """All streams against RAM and domains, this one against ``wanted`` too."""
        problems = self.streams.check([replace(want, device=DEVICE) for want in wanted])
        if problems:
            raise reading.joined(problems, self.streams.files)

    def held_ste(self) -> str:
        """The file ste as the words in RAM say it, for an entry that leads to no domain's table."""
        return self._smmu.texts(self.sid, {})["ste"]

    def texts(self) -> tuple[str, str]:
        """The files ste and cd of the stream."""
        one = self.streams.read([self.sid])[self.sid]
        return one.ste, one.cd


@pytest.fixture
def planter(iommu_guest: GuestHandle, iommu: Iommu) -> Planter:
    """For a guest whose memory the host can write."""
    witness = iommu_guest.in_ram
    if witness is None or witness.smmu is None:
        pytest.skip("needs a guest whose memory the host can write")
    return Planter(iommu_guest, witness.memory, witness.smmu)


@pytest.fixture
def domain(iommu: Iommu) -> Domain:
    """A stage-1 domain that the device is attached to."""
    made = iommu.domain(device=DEVICE, stage="s1")
    made.attach(DEVICE)
    return made


@pytest.fixture
def second(iommu: Iommu) -> Domain:
    """A stage-2 domain that the device is attached to."""
    made = iommu.domain(device=DEVICE, stage="s2")
    made.attach(DEVICE)
    return made


@pytest.mark.iommu_rules("STE-2", "STE-3", "STE-6")
@pytest.mark.parametrize("valid", [1, 0], ids=["valid", "invalid"])
@pytest.mark.parametrize("config", range(8))
def test_every_config(planter: Planter, domain: Domain, config: int, valid: int) -> None:
    """Both addresses stand in the words all the time: which of them is shown is for Config to say."""
    with planter.ste(Config=config, V=valid, S2TTB=NOWHERE >> 4):
        ste, _ = planter.texts()
        assert f"  Config: {smmuv3.CONFIGS.get(config, smmuv3.UNKNOWN)}\n" in ste
        if ste != planter.held_ste():
            raise differs("ste", planter.sid, ste, planter.held_ste())
    planter.check(Wanted(DEVICE, "only S1_TRANS", domain.id))


@pytest.mark.iommu_rules("STE-3")
@pytest.mark.parametrize(("s1dss", "said"), [(0, "blocked"), (1, "identity"), (2, "cd"), (3, "cd")])
def test_what_becomes_of_dma_without_a_pasid(planter: Planter, domain: Domain, s1dss: int, said: str) -> None:
    """With one CD S1DSS is of no meaning; with several it is for it to say, whatever the CD of SSID 0 is."""
    with planter.ste(S1DSS=s1dss):
        assert "  Domain: - cd\n" in planter.texts()[0]
    with planter.ste(S1DSS=s1dss, S1CDMax=1):
        ste, _ = planter.texts()
        if f"  Domain: - {said}\n" not in ste:
            raise CheckFailed(f"expected `Domain: - {said}`, got:\n{ste}", ("STE-3",), verdict=Verdict.DUMP)


@pytest.mark.iommu_rules("STE-2", "FLT-3")
def test_a_pointer_to_nowhere_is_shown_and_not_followed(planter: Planter, domain: Domain) -> None:
    """What the driver has as its own table is what cd shows; the words of the STE are only shown."""
    _, before = planter.texts()
    assert before
    with planter.ste(S1ContextPtr=NOWHERE >> 6):
        ste, cd = planter.texts()
    assert f"  S1ContextPtr: 0x{NOWHERE:016x}\n" in ste
    assert cd == before


@pytest.mark.iommu_rules("STE-2", "STE-6")
def test_nothing_behind_a_guests_pointer_is_read(planter: Planter, domain: Domain) -> None:
    """With S1+S2 the pointer is an intermediate address that a user chose."""
    with planter.ste(Config=0b111, S1ContextPtr=NOWHERE >> 6):
        ste, cd = planter.texts()
    assert "  Config: S1+S2_TRANS\n" in ste
    assert cd == ""


@pytest.mark.iommu_rules("STE-3")
def test_the_domain_is_that_of_the_top(planter: Planter, domain: Domain, iommu: Iommu) -> None:
    """Another domain's table in TTB0 is that domain, a table of nobody is none, walks that are off are none."""
    other = iommu.domain(device="edu0", stage="s1")
    top = iommu.dump(other).info
    assert top is not None
    with planter.cd(TTB0=top.top >> 4):
        planter.check(Wanted(DEVICE, "only S1_TRANS", other.id))
    with planter.cd(TTB0=NOWHERE >> 4):
        planter.check(Wanted(DEVICE, "only S1_TRANS", "-"))
    with planter.cd(EPD0=1):
        planter.check(Wanted(DEVICE, "only S1_TRANS", "-"))
    planter.check(Wanted(DEVICE, "only S1_TRANS", domain.id))


@pytest.mark.iommu_rules("STE-3")
def test_the_domain_of_stage_2_is_that_of_the_top(planter: Planter, second: Domain, iommu: Iommu) -> None:
    other = iommu.domain(device="edu0", stage="s2")
    top = iommu.dump(other).info
    assert top is not None
    with planter.ste(S2TTB=top.top >> 4):
        planter.check(Wanted(DEVICE, "only S2_TRANS", other.id))
    with planter.ste(S2TTB=NOWHERE >> 4):
        planter.check(Wanted(DEVICE, "only S2_TRANS", "-"))
    planter.check(Wanted(DEVICE, "only S2_TRANS", second.id))


@pytest.mark.iommu_rules("STE-2")
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ASID", (0, 1, 0xFFFF)),
        ("T0SZ", (0, 16, 39, 63)),
        ("TG0", (0, 1, 2, 3)),
        ("IPS", tuple(range(8))),
        ("EPD0", (0, 1)),
        ("TTB0", (0, NOWHERE >> 4)),
        ("MAIR", (0, 0xFFFF_FFFF_FFFF_FFFF)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_of_a_cd(planter: Planter, domain: Domain, field: str, values: tuple[int, ...]) -> None:
    for value in values:
        with planter.cd(**{field: value}):
            planter.check()


@pytest.mark.iommu_rules("STE-6")
def test_an_invalid_cd_is_not_listed(planter: Planter, domain: Domain) -> None:
    with planter.cd(V=0):
        planter.check()
        assert planter.texts()[1] == ""
    assert planter.texts()[1] != ""


@pytest.mark.iommu_rules("STE-2")
@pytest.mark.parametrize("word", range(1, 8))
@pytest.mark.parametrize("which", ["ste", "cd"])
def test_every_word_is_shown(planter: Planter, domain: Domain, which: str, word: int) -> None:
    """Word 0 is what the other tests here change, field by field."""
    with planter.word(which, word, 0x0123_4567_89AB_CDEF):
        planter.check()
