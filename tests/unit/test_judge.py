# SPDX-License-Identifier: GPL-2.0-only
"""``pytest-iommu judge``: saved texts by themselves, against an image of memory and against a scenario."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_tables import SID, Saved

from pytest_iommu.cli import main
from pytest_iommu.dialects.smmuv3_debugfs import render_cd, render_ste
from pytest_iommu.formats.smmuv3 import decode_cd, decode_ste

CORPUS = Path(__file__).parents[1] / "data" / "dialects"
SCENARIO = """\
suite: two
defaults: {formats: [arm_64_lpae_s1]}
cases:
  - name: pages
    rules: [RNG-1]
    do:
      - map: {iova: 0x1000000, pa: 0x40100000, size: 12K, prot: rwc}
      - map: {iova: 0x2000000, pa: 0x40200000, size: 4K, prot: rc}
"""
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the program; status, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        status = main(["judge", *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


def test_a_right_text_is_0_and_the_dialect_is_named(say: Say) -> None:
    status, out, err = say(CORPUS / "vtd/good/plain")
    assert (status, err) == (0, "dialect vtd: VT-d's domain_translation_struct and dmar_translation_struct\n")
    assert out == "vtd: no finding in 6 rows of 1 tables\n"


def test_a_wrong_text_is_1_with_rule_file_and_line(say: Say) -> None:
    path = CORPUS / "vtd/bad/overlap"
    status, out, _ = say("--dialect=vtd", path)
    assert status == 1
    assert f"{path}:7: RNG-2: 0x8d1ff000 overlaps the row above" in out
    status, out, _ = say("--dialect=vtd", CORPUS / "vtd/bad/cut")
    assert (status, "ENT-1: the last line has no newline" in out) == (1, True)


def test_a_text_with_a_known_heading_is_judged_by_that_dialect(say: Say) -> None:
    status, out, err = say(CORPUS / "io_page_tables/bad/error-sentence")
    assert (status, err.partition(":")[0]) == (1, "dialect io_page_tables")
    assert ":5: RNG-2: an error sentence" in out


def test_what_cannot_be_judged_is_2(say: Say, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear all,\n")
    for words, error in (
        ([tmp_path / "letter"], "no dialect knows"),
        ([tmp_path / "absent"], "No such file"),
        (["--dialect=v2", CORPUS / "vtd/good/plain"], "unknown dialect 'v2'; known: io_ptdump, vtd"),
        ([CORPUS / "kvm_stage2/good/plain", "--ram", tmp_path / "absent"], "No such file"),
        ([CORPUS / "kvm_stage2/good/plain", "--expect", tmp_path / "absent"], "absent"),
    ):
        status, _, err = say(*words)
        assert (status, error in err) == (2, True), err


def test_what_the_text_does_not_say_is_named(say: Say) -> None:
    _, out, _ = say(CORPUS / "kvm_stage2/good/published")
    assert out.endswith("(not judged: 2 rows have neither level nor attributes)\n")
    _, out, _ = say(CORPUS / "smmuv3_2026_05/good/ste-stage-1")
    assert "the text has no Domain lines" in out


def test_vtd_against_memory(say: Say, saved: Saved) -> None:
    text = saved.vtd_text()
    assert say(saved.file("d", text), "--ram", saved.image)[:2] == (0, "vtd: no finding in 4 rows of 1 tables\n")
    wrong = {
        text.replace("0000000040101003", "0000000040105003"): ("4: RNG-4", "OA of 0x1001000 is 0x40105000"),
        text.replace("0000000040101003", "0000000040101001"): ("4: PRT-1", "prot is r-, rw in memory"),
        "\n".join([*text.split("\n")[:5], "", ""]): ("5: RNG-1", "0x2000000-0x2000fff (4K) is mapped in memory"),
        text.replace("0x0000000002000 |", "0x0000000002001 |"): ("6: RNG-1", "0x2001000 is not mapped in memory"),
    }
    for bad, (place, why) in wrong.items():
        status, out, _ = say(saved.file("d", bad), "--ram", saved.image)
        assert (status, f"/d:{place}: " in out, why in out) == (1, True, True), out


def test_stream_entries_against_memory(say: Say, saved: Saved) -> None:
    ste, cd = (saved.words(at) for at in (saved.streams + SID * 64, saved.descriptor))
    texts = {"ste": render_ste(decode_ste(SID, ste)), "cd": render_cd([decode_cd(SID, 0, cd)])}
    paths = [saved.file(name, re.sub("  Domain: .*\n", "", text)) for name, text in texts.items()]
    assert say("--dialect=smmuv3_2026_05", *paths, "--ram", saved.image)[0] == 0
    saved.file("cd", re.sub("  Domain: .*\n", "", texts["cd"]).replace("CD[5]: 0x0", "CD[5]: 0x1"))
    status, out, _ = say("--dialect=smmuv3_2026_05", *paths, "--ram", saved.image)
    assert status == 1
    assert "cd:16: STE-2: CD[5] is 0x1000000000000000, 0x0000000000000000 in memory" in out
    old = "SMMUv3 STE values for device: 0000:00:02.0\n" + "".join(f"0x{word:016x}\n" for word in ste)
    old += "SMMUv3 dump page table for device 0000:00:02.0, stage 1, ssid 0x0:\n"
    rows = [f"va: {leaf.iova:x} -> pa: {leaf.oa:x}\n" for leaf in saved.arm.expected.leaves()]
    path = saved.file("old", old + "".join(rows))
    assert say(path, "--ram", saved.image, "--stream=8")[0] == 0
    status, _, err = say(path, "--ram", saved.image)
    assert (status, "which table is 0000:00:02.0?" in err) == (2, True)
    saved.file("old", old + "".join(rows).replace("pa: 40101000", "pa: 40109000"))
    assert "RNG-4: OA of 0x1001000 is 0x40109000" in say(path, "--ram", saved.image, "--stream=8")[1]


def test_v1_against_a_scenario(say: Say, saved: Saved) -> None:
    expect, text = saved.file("two.iommu.yaml", SCENARIO), saved.v1_text()
    assert say(saved.file("v1", text), "--expect", expect)[:2] == (
        0,
        "io_page_tables: no finding in 4 rows of 1 tables\n",
    )
    lines = text.split("\n")
    status, out, _ = say(saved.file("v1", "\n".join(lines[:7] + lines[8:])), "--expect", expect)
    assert status == 1
    assert "v1:7: V1-3: 0x2000000-0x2000fff (4K) is mapped in the scenario, but in no row" in out
    status, _, err = say(saved.file("v1", text.replace("64_LPAE_S1", "64_LPAE_S2")), "--expect", expect)
    assert (status, "none has format arm_64_lpae_s2" in err) == (2, True)


def test_several_cases_need_a_choice(say: Say, saved: Saved) -> None:
    case = SCENARIO.partition("cases:\n")[2]
    other = case.replace("name: pages", "name: others").replace("0x2000000", "0x3000000")
    expect, path = saved.file("two.iommu.yaml", SCENARIO + other), saved.file("v1", saved.v1_text())
    status, _, err = say(path, "--expect", expect)
    assert (status, "--case=pages --domain=d, --case=others --domain=d" in err) == (2, True)
    assert say(path, "--expect", expect, "--case=pages")[0] == 0
    assert say(path, "--expect", expect, "--case=others")[0] == 1


def test_the_list_of_dialects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["judge", "--dialects"])
    assert ended.value.code == 0
    assert "kvm_stage2      KVM's stage2_page_tables on arm64\n" in capsys.readouterr().out
