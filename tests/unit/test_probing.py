# SPDX-License-Identifier: GPL-2.0-only
"""Probes of a scenario: where each IOVA led before, and the rule that is broken if it still leads there."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pytest_iommu.scenario import Dma, Place, ScenarioError, compile_plan, load

HEAD = "suite: s\ndefaults: {machines: [smmuv3], stages: [s1], granule: 4K}\ncases:\n"
CASE = """
- name: x
  rules: [TLB-1]
  domains: {a: {}, b: {}}
  do:
    - map: {domain: a, iova: 0x1000000, pa: 0x5c000000, size: 8K, prot: rw}
    - map: {domain: b, iova: 0x1000000, pa: 0x5c010000, size: 8K, prot: rw}
    - attach: {domain: a, devices: [edu0, edu1]}
    - probe: {devices: [edu0, edu1], write: [0x1000000, 0x1001000]}
"""
WRITE = "    - probe: {device: edu0, write: 0x1000000}\n"
FAULT = "    - probe: {device: edu0, write: 0x1000000, expect: F_TRANSLATION}\n"


def transfers(folder: Path, more: str) -> list[Dma]:
    path = folder / "x.iommu.yaml"
    path.write_text(HEAD + textwrap.indent(CASE + more, "  "))
    return [one for phase in compile_plan(load(path).instances[0]).phases for one in phase.dma]


def test_buffers_are_filled_first_and_each_device_has_its_own_pattern(tmp_path: Path) -> None:
    (tmp_path / "x.iommu.yaml").write_text(HEAD + textwrap.indent(CASE, "  "))
    phase, *_ = compile_plan(load(tmp_path / "x.iommu.yaml").instances[0]).phases
    assert phase.script.splitlines()[:3] == ["reset", "load edu0 seed=1", "load edu1 seed=2"]
    assert [(one.device, one.iova, one.oa, one.seed, one.stale) for one in phase.dma] == [
        ("edu0", 0x1000000, 0x5C000000, 1, ()),
        ("edu0", 0x1001000, 0x5C001000, 1, ()),
        ("edu1", 0x1000000, 0x5C000000, 2, ()),
        ("edu1", 0x1001000, 0x5C001000, 2, ()),
    ]
    assert "a" in {check.domain for check in phase.checks}, "the table is compared before the transfers"


MAP = "    - map: {domain: a, iova: 0x1000000, pa: 0x5c020000, size: 4K, prot: rw}\n"
UNMAP = "    - unmap: {domain: a, iova: 0x1000000, size: 4K}\n"
DETACH = "    - detach: {devices: [edu0, edu1]}\n"


@pytest.mark.parametrize(
    ("change", "probe", "oa", "blame"),
    [
        (UNMAP, FAULT, None, "TLB-1"),
        (UNMAP + MAP, WRITE, 0x5C020000, "TLB-2"),
        ("    - replace: {domain: b, device: edu0}\n", WRITE, 0x5C010000, "ISO-1"),
        (DETACH, WRITE.replace("}", ", expect: blocked}"), None, "ISO-1"),
        (
            DETACH + "    - destroy: {domain: a}\n    - attach: {domain: b, devices: [edu0]}\n",
            WRITE,
            0x5C010000,
            "TLB-3",
        ),
    ],
)
def test_what_a_transfer_that_does_as_before_breaks(
    tmp_path: Path, change: str, probe: str, oa: int | None, blame: str
) -> None:
    last = transfers(tmp_path, change + probe)[-1]
    assert (last.oa, last.stale, last.blame) == (oa, (0x5C000000,), blame)


def test_what_a_read_returns_is_written_elsewhere(tmp_path: Path) -> None:
    last = transfers(tmp_path, "    - probe: {device: edu0, read: 0x1000000, to: 0x1001000}\n")[-1]
    assert (last.write, last.to) == (False, Place(0x1001000, 0x5C001000))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("device: edu0, write: 0x1002000", "is not mapped"),
        ("device: edu2, write: 0x1000000", "edu2 is not attached to a domain here"),
        ("device: edu0, write: 0x1000000, expect: blocked", "edu0 is not blocked here"),
        ("device: edu2, write: 0x1002000, expect: blocked", "led nowhere before"),
        ("device: edu0, read: 0x1000000, to: 0x1002000", "0x1002000 is not mapped for writing"),
        ("device: edu0, read: 0x1000000", "a read that succeeds needs `to`"),
        ("device: edu0, write: 0x1000000, to: 0x1001000", "for reads that succeed"),
        ("device: edu0, read: 0x1000000, expect: blocked", "only a write shows"),
        ("device: edu0, devices: [edu1], write: 0x1000000", "exactly one of device and devices"),
        ("device: edu0, write: 0x1000000, size: 4K", "1 to 2048 bytes"),
    ],
)
def test_mistakes(tmp_path: Path, step: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        transfers(tmp_path, f"    - probe: {{{step}}}\n")


def test_a_device_that_is_plugged_in_is_filled_then(tmp_path: Path) -> None:
    plug = "    - plug: {device: edu6}\n    - attach: {domain: a, devices: [edu6]}\n"
    path = tmp_path / "x.iommu.yaml"
    path.write_text(HEAD + textwrap.indent(CASE + plug + WRITE.replace("edu0", "edu6"), "  "))
    scripts = [phase.script for phase in compile_plan(load(path).instances[0]).phases]
    assert "edu6" not in scripts[0]
    assert scripts[1] == "load edu6 seed=7\nattach a edu6\n"
