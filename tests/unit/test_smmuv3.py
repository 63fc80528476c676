# SPDX-License-Identifier: GPL-2.0-only
"""Stream table entries, context descriptors and events: words written out by hand, and their text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_iommu.core.model import Cd, Ste
from pytest_iommu.dialects import DumpSyntaxError
from pytest_iommu.dialects.smmuv3_debugfs import parse_cd, parse_ste, render_cd, render_ste
from pytest_iommu.formats import ConfigError, configure
from pytest_iommu.formats.smmuv3 import decode_cd, decode_event, decode_ste, stage1_table, stage2_table

K = 1 << 10

# As Linux writes them on QEMU: 48 bits of IOVA, 4K, 44 bits of OA.
STE_S1 = (0x0000000040FB800B, 0x0000100008000054, 0, 0, 0, 0, 0, 0)
STE_S2 = (0x000000000000000D, 0x0000100000000000, 0x040C3594_00000002, 0x0000000042000000, 0, 0, 0, 0)
CD_S1 = (0x0001620480003510 | 1 << 30, 0x0000000041000000, 0, 0x00000000F404FF44, 0, 0, 0, 0)

STE_TEXT = """\
STE for Stream ID 8
  Valid: Yes
  Config: only S1_TRANS
  S1ContextPtr: 0x0000000040fb8000
  S2TTB: 0x0000000000000000
  Domain: - cd
  Raw Data:
    STE[0]: 0x0000000040fb800b
    STE[1]: 0x0000100008000054
    STE[2]: 0x0000000000000000
    STE[3]: 0x0000000000000000
    STE[4]: 0x0000000000000000
    STE[5]: 0x0000000000000000
    STE[6]: 0x0000000000000000
    STE[7]: 0x0000000000000000
"""
CD_TEXT = """\
CD for Stream ID 8 SSID 0
  Valid: Yes
  ASID: 1
  T0SZ: 16
  TG0: 4K
  IPS: 44
  EPD0: No
  TTB0: 0x0000000041000000
  MAIR: 0x00000000f404ff44
  Domain: 3
  Raw Data:
    CD[0]: 0x00016204c0003510
    CD[1]: 0x0000000041000000
    CD[2]: 0x0000000000000000
    CD[3]: 0x00000000f404ff44
    CD[4]: 0x0000000000000000
    CD[5]: 0x0000000000000000
    CD[6]: 0x0000000000000000
    CD[7]: 0x0000000000000000
"""


def ste(**words: int) -> Ste:
    """STE_S2 with other words."""
    return decode_ste(8, [words.get(f"w{at}", word) for at, word in enumerate(STE_S2)])


def cd(word: int = CD_S1[0], ttb0: int = CD_S1[1]) -> Cd:
    return decode_cd(8, 0, [word, ttb0, *CD_S1[2:]])


def field(words: tuple[int, ...], word: int, low: int, width: int, value: int) -> int:
    """A word with one field replaced."""
    return words[word] & ~((1 << width) - 1 << low) | value << low


def test_text_by_hand() -> None:
    assert render_ste(decode_ste(8, STE_S1)) == STE_TEXT
    entry = Cd(8, 0, True, 1, 16, 4 * K, 44, False, 0x41000000, 0xF404FF44, CD_S1, 3)
    assert render_cd([entry]) == CD_TEXT
    assert parse_ste(STE_TEXT) == decode_ste(8, STE_S1)
    assert parse_cd(CD_TEXT) == (entry,)
    assert decode_cd(8, 0, CD_S1) == Cd(8, 0, True, 1, 16, 4 * K, 44, False, 0x41000000, 0xF404FF44, CD_S1)


@pytest.mark.parametrize(
    ("config", "word", "s1", "s2"),
    [
        (0, "ABORT", False, False),
        (1, "UNKNOWN", False, False),
        (2, "UNKNOWN", False, False),
        (3, "UNKNOWN", False, False),
        (4, "BYPASS", False, False),
        (5, "only S1_TRANS", True, False),
        (6, "only S2_TRANS", False, True),
        (7, "S1+S2_TRANS", True, True),
    ],
)
@pytest.mark.parametrize("valid", [0, 1])
def test_every_config(config: int, word: str, s1: bool, s2: bool, valid: int) -> None:
    context, top = 0x000FFFFFFFFFFFC0, 0x000FFFFFFFFFFFF0
    words = (0xF800000000000030 | context | config << 1 | valid, 0, 0, 0xFFFFFFFFFFFFFFFF, 1, 2, 3, 4)
    found = decode_ste(9, words)
    # S1CDMax is not 0 and S1DSS is: DMA without a PASID is refused
    without = {"ABORT": "blocked", "BYPASS": "identity", "only S1_TRANS": "blocked"}.get(word, "unknown")
    expected = Ste(9, bool(valid), word, context if s1 else 0, top if s2 else 0, words)
    assert found == replace(expected, without=without if valid else "none")
    assert parse_ste(render_ste(found)) == found


def test_every_field_of_a_cd() -> None:
    words = (0xABCD << 48 | 7 << 32 | 1 << 14 | 2 << 6 | 25, 0xFFFFFFFFFFFFFFFF, 5, 0x0123456789ABCDEF, 0, 0, 0, 6)
    found = decode_cd(1, 2, words)
    top = 0x000FFFFFFFFFFFF0
    assert found == Cd(1, 2, False, 0xABCD, 25, 16 * K, 56, True, top, 0x0123456789ABCDEF, words, None, "blocked")
    assert [decode_cd(0, 0, [tg << 6, *words[1:]]).tg0 for tg in range(4)] == [4 * K, 64 * K, 16 * K, None]
    ips = [decode_cd(0, 0, [value << 32, *words[1:]]).ips for value in range(8)]
    assert ips == [32, 36, 40, 42, 44, 48, 52, 56]


def test_text_of_odd_fields() -> None:
    reserved = decode_cd(1, 2, (1 << 31 | 1 << 14 | 3 << 6, 0, 0, 0, 0, 0, 0, 0))
    text = render_cd([reserved])
    assert "\n  TG0: reserved\n" in text
    assert "\n  EPD0: Yes\n" in text
    assert parse_cd(text) == (reserved,)


def test_what_no_domain_means() -> None:
    """Of DMA without a PASID, S1DSS says it, but only where there are several CDs. Older files have `-` alone."""
    several, one = 1 << 59, 0
    for number, dss, want in ((several, 0, "blocked"), (several, 1, "identity"), (several, 2, "cd"), (one, 1, "cd")):
        found = decode_ste(8, (STE_S1[0] | number, STE_S1[1] & ~3 | dss, *STE_S1[2:]))
        assert found.without == want
        text = render_ste(found)
        assert f"  Domain: - {want}\n" in text
        assert parse_ste(text) == parse_ste(text.replace(f"- {want}", "-")) == found
    named = replace(decode_cd(8, 0, CD_S1), domain=None)
    assert "  Domain: - unknown\n" in render_cd([named])
    assert parse_cd(render_cd([named]).replace("- unknown", "- blocked"))[0].without == "blocked"


def test_several_cds() -> None:
    entries = tuple(decode_cd(8, ssid, CD_S1) for ssid in (0, 1, 1023, 1 << 19))
    assert parse_cd(render_cd(entries)) == entries
    assert parse_cd("") == ()
    for wrong in ((0, 0), (1, 0)):
        with pytest.raises(DumpSyntaxError, match="after SSID") as error:
            parse_cd(render_cd([entries[at] for at in wrong]))
        assert (error.value.rule, error.value.number) == ("STE-6", 20)


STE_FAULTS = {
    "Valid: Yes": "Valid: yes",
    "STE for Stream ID 8": "STE for Stream ID 08",
    "  Config: only S1_TRANS": "  Config: S1_TRANS",
    "S1ContextPtr: 0x0000000040fb8000": "S1ContextPtr: 0x0000000040FB8000",
    "  S2TTB: 0x0000000000000000": "  S2TTB: 0x0",
    "  Domain: -": "  Domain: 0",
    "  Domain: - cd": "  Domain: - CD",
    "  Raw Data:": " Raw Data:",
    "    STE[1]": "    STE[2]",
    "    STE[7]: 0x0000000000000000\n": "",
    "    STE[7]: 0x0000000000000000": "    STE[7]: 0x0000000000000000 ",
}


@pytest.mark.parametrize("right", STE_FAULTS)
def test_bad_line_of_ste(right: str) -> None:
    text = STE_TEXT.replace(right, STE_FAULTS[right], 1)
    assert text != STE_TEXT
    with pytest.raises(DumpSyntaxError) as error:
        parse_ste(text)
    number = STE_TEXT[: STE_TEXT.index(right)].count("\n") + 1
    assert (error.value.rule, error.value.file, error.value.number) == ("STE-2", "ste", number)


CD_FAULTS = {
    "Valid: Yes": "Valid: No",
    "CD for Stream ID 8 SSID 0": "CD for Stream ID 8",
    "  ASID: 1": "  ASID: 0x1",
    "  T0SZ: 16": "  T0SZ:16",
    "  TG0: 4K": "  TG0: 4096",
    "  IPS: 44": "  IPS: 43",
    "  EPD0: No": "  EPD0: 0",
    "  MAIR: 0x00000000f404ff44": "  MAIR: f404ff44",
    "  Domain: 3": "  Domain: 03",
    "    CD[3]": "    STE[3]",
    "    CD[7]: 0x0000000000000000\n": "",
}


@pytest.mark.parametrize("right", CD_FAULTS)
def test_bad_line_of_cd(right: str) -> None:
    text = CD_TEXT.replace(right, CD_FAULTS[right], 1)
    assert text != CD_TEXT
    for before in ("", CD_TEXT):
        after = text.replace("SSID 0", "SSID 1")
        with pytest.raises(DumpSyntaxError) as error:
            parse_cd(before + after)
        number = (before + CD_TEXT[: CD_TEXT.index(right)]).count("\n") + 1
        assert (error.value.rule, error.value.file, error.value.number) == ("STE-6", "cd", number)


def test_cut_and_longer_files() -> None:
    for parse, text in ((parse_ste, STE_TEXT), (parse_cd, CD_TEXT)):
        with pytest.raises(DumpSyntaxError, match="the file is truncated"):
            parse(text[:-1])
        with pytest.raises(DumpSyntaxError):
            parse(text + "\n")
    with pytest.raises(DumpSyntaxError, match="unexpected line"):
        parse_ste(STE_TEXT + STE_TEXT)
    with pytest.raises(DumpSyntaxError):
        parse_ste("")


def test_stage1_table() -> None:
    assert stage1_table(cd()) == (configure("arm_64_lpae_s1", ias=48, oas=44), 0x41000000)
    word = field(CD_S1, 0, 0, 6, 25)
    assert stage1_table(cd(word))[0] == configure("arm_64_lpae_s1", ias=39, oas=44)
    word = field(CD_S1, 0, 0, 8, 2 << 6 | 17)
    assert stage1_table(cd(word))[0] == configure("arm_64_lpae_s1", granule=16 * K, ias=47, oas=44)
    word = field((field(CD_S1, 0, 0, 8, 1 << 6 | 12),), 0, 32, 3, 6)
    assert stage1_table(cd(word))[0] == configure("arm_64_lpae_s1", granule=64 * K, ias=52, oas=52)
    # an IPS of more than the granule can put out
    assert stage1_table(cd(field(CD_S1, 0, 32, 3, 7)))[0].oas == 48
    assert stage1_table(cd(CD_S1[0] | 3 << 42))[0].features == {"hd"}


@pytest.mark.parametrize(
    "word",
    [
        CD_S1[0] & ~(1 << 31),
        CD_S1[0] & ~(1 << 41),
        CD_S1[0] | 1 << 14,
        CD_S1[0] | 1 << 15,
        field(CD_S1, 0, 6, 2, 3),
        field(CD_S1, 0, 0, 6, 15),
        field(CD_S1, 0, 0, 6, 40),
    ],
)
def test_no_stage1_table(word: int) -> None:
    with pytest.raises(ConfigError):
        stage1_table(cd(word))


@pytest.mark.parametrize(
    ("tsz", "start", "granule", "output", "want"),
    [
        (20, 2, 0, 4, configure("arm_64_lpae_s2", ias=44, oas=44)),
        (24, 1, 0, 2, configure("arm_64_lpae_s2", ias=40, oas=40)),  # two tables at the top
        (22, 1, 0, 3, configure("arm_64_lpae_s2", ias=42, oas=42)),
        (16, 2, 0, 5, configure("arm_64_lpae_s2", ias=48, oas=48)),
        (16, 2, 2, 5, configure("arm_64_lpae_s2", granule=16 * K, ias=48, oas=48)),
        (24, 1, 2, 2, configure("arm_64_lpae_s2", granule=16 * K, ias=40, oas=40)),
        (12, 2, 1, 6, configure("arm_64_lpae_s2", granule=64 * K, ias=52, oas=52)),
        (32, 1, 1, 5, configure("arm_64_lpae_s2", granule=64 * K, ias=32, oas=48)),
        (39, 0, 0, 5, configure("arm_64_lpae_s2", ias=25, oas=48)),
    ],
)
def test_stage2_table(tsz: int, start: int, granule: int, output: int, want: object) -> None:
    word = (1 << 51) | output << 48 | granule << 46 | start << 38 | tsz << 32
    assert stage2_table(ste(w2=word)) == (want, 0x42000000)


def test_stage2_of_both() -> None:
    both = ste(w0=0x40FB800F)
    assert both.config == "S1+S2_TRANS"
    assert stage2_table(both) == stage2_table(ste())
    assert stage2_table(ste(w1=1 << 25))[0].features == {"fwb"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (0, 0xC),
        (0, 0xB),
        (2, STE_S2[2] & ~(1 << 51)),
        (2, STE_S2[2] | 1 << 52),
        (2, field(STE_S2, 2, 46, 2, 3)),
        (2, field(STE_S2, 2, 38, 2, 3)),
        (2, field(STE_S2, 2, 38, 2, 0)),  # 44 bits need more than 16 tables at Arm's level 2
        (2, field(STE_S2, 2, 32, 6, 40)),
        (2, field(STE_S2, 2, 32, 6, 15)),
    ],
)
def test_no_stage2_table(word: int, value: int) -> None:
    with pytest.raises(ConfigError):
        stage2_table(ste(**{f"w{word}": value}))


@pytest.mark.parametrize(
    ("words", "want"),
    [
        # as QEMU writes them for edu at 00:01.0
        ((0x8_00000010, 2 << 40 | 1 << 35, 0x1234000, 0), ("F_TRANSLATION", 8, 0x1234000, False, 1, "IN", None)),
        ((0x8_00000013, 2 << 40, 0xFFFFFFFFFFFFF000, 0), ("F_PERMISSION", 8, 0xFFFFFFFFFFFFF000, True, 1, "IN", None)),
        (
            (0x8_00000012, 1 << 40 | 1 << 39 | 1 << 35, 0x5000, 0x41000FFF),
            ("F_ACCESS", 8, 0x5000, False, 2, "TTD", 0x41000000),
        ),
        ((0x8_00000011, 1 << 39, 0x5000, 0), ("F_ADDR_SIZE", 8, 0x5000, True, 2, "CD", 0)),
        (
            (0x8_0000000B, 1 << 40, 0x5000, 0x0000100041000008),
            ("F_WALK_EABT", 8, 0x5000, True, 1, "TTD", 0x0000100041000008),
        ),
        ((0x10_00000002, 0, 0, 0), ("C_BAD_STREAMID", 16, None, None, None, None, None)),
        ((0x10_00000004, 0, 0xDEAD, 0xBEEF), ("C_BAD_STE", 16, None, None, None, None, None)),
        ((0x10_00000003, 0, 0, 0x40FB8008), ("F_STE_FETCH", 16, None, None, None, None, 0x40FB8008)),
        ((0x10_0000000A, 0, 0, 0), ("C_BAD_CD", 16, None, None, None, None, None)),
        ((0x10_000000E5, 0, 0, 0), ("0xe5", 16, None, None, None, None, None)),
    ],
)
def test_events(words: tuple[int, ...], want: tuple[object, ...]) -> None:
    name, sid, iova, write, stage, access, address = want
    found = decode_event(words)
    assert (found.name, found.sid, found.ssid, found.words) == (name, sid, None, words)
    assert (found.iova, found.write, found.stage, found.access, found.address) == (iova, write, stage, access, address)


def test_event_of_a_substream() -> None:
    assert decode_event((5 << 12 | 1 << 11 | 0x10, 0, 0, 0)).ssid == 5
    assert decode_event((5 << 12 | 0x10, 0, 0, 0)).ssid is None
