# SPDX-License-Identifier: GPL-2.0-only
"""The check of all streams: a true kernel passes, and each lie is named by its rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from synthetic_memory import SyntheticMemory

from pytest_iommu.check.witnesses.streams import Streams, Wanted, requester_id
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.guest.ops import Code
from pytest_iommu.oracle.stream_table import SmmuV3

SMMU = 0x09050000
ROOT = "/sys/kernel/debug/iommu"
STREAMS = f"{ROOT}/arm_smmu_v3/smmu3.0x{SMMU:016x}/stream_table"
CD_WORD = 16 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41
MACHINE = machines.get("smmuv3")
DEVICES = {"0000:00:01.0": 8, "0000:00:02.0": 16, "0000:00:05.0": 40}
ENOENT = -2


class Kernel:
    """A guest that answers from files; edu0 (8) is on domain 3 at stage 1, edu1 (16) on 4 at stage 2, 40 is blocked."""

    def __init__(self) -> None:
        self.memory = SyntheticMemory(1 << 20)
        table = self.memory.allocate(64 << 8)
        self.memory.registers |= {SMMU + 0x80: table, SMMU + 0x88: 8}
        self.smmu = SmmuV3(self.memory, SMMU)
        one, two, cds = (self.memory.allocate(4096) for _ in range(3))
        self.table, self.cd_of_edu0 = table, cds
        self.memory.words(cds, [CD_WORD, one, 0, 0xF404FF44, 0, 0, 0, 0])
        self.memory.words(table + 8 * 64, [cds | 0xB, 0, 0, 0, 0, 0, 0, 0])
        self.memory.words(table + 16 * 64, [0xD, 0, 20 << 32 | 1 << 51, two, 0, 0, 0, 0])
        self.memory.words(table + 40 * 64, [1, 0, 0, 0, 0, 0, 0, 0])
        self.files = {f"{ROOT}/domains/{number}/info": info(top) for number, top in (("3", one), ("4", two))}
        self.links = {name: f"../../../../../../../devices/pci0000:00/{name}" for name in DEVICES}
        self.devices = dict(DEVICES)
        for sid in DEVICES.values():
            for name, text in self.smmu.texts(sid, {one: 3, two: 4}).items():
                self.files[f"{STREAMS}/{sid}/{name}"] = text

    def run(self, ops: Sequence[Op]) -> Reply:
        return Reply(tuple(self.one(op) for op in ops))

    def one(self, op: Op) -> Result:
        if op.code == Code.LIST:
            return self.listing(op.path)
        if op.code in (Code.READLINK, Code.STAT):
            target = self.links[op.path.rstrip("/").rpartition("/")[2]].encode()
            return Result(len(target), target)
        text = self.files.get(op.path)
        return Result(ENOENT) if text is None else Result(len(text), text.encode())

    def listing(self, path: str) -> Result:
        if path.endswith("/devices"):
            names = [f"{name}@" for name in self.devices]
        elif path.startswith(f"{STREAMS}/"):
            sid = path.rpartition("/")[2]
            names = ["cd", *(f"{name}@" for name in self.links if str(DEVICES[name]) == sid), "ste"]
        else:
            inside = (one[len(path) + 1 :].partition("/")[0] for one in self.below(path))
            names = [f"{name}/" for name in dict.fromkeys(inside)]
        return Result(len(names), "\n".join(names).encode())

    def below(self, path: str) -> list[str]:
        return [one for one in self.files if one.startswith(f"{path}/")]

    def edit(self, sid: int, name: str, old: str, new: str) -> None:
        path = f"{STREAMS}/{sid}/{name}"
        assert old in self.files[path]
        self.files[path] = self.files[path].replace(old, new)


def info(top: int) -> str:
    return (
        "format: arm_64_lpae_s1\ntype: unmanaged\naperture: 0x0000000000000000-0x0000ffffffffffff\n"
        f"page_sizes: 4K 2M 1G\nlevels: 4\ntop: 0x{top:016x}\n"
    )


RIGHT = (Wanted("edu0", "only S1_TRANS", "3"), Wanted("edu1", "only S2_TRANS", "4"), Wanted("agent", "ABORT", "-"))


def problems(kernel: Kernel, wanted: Sequence[Wanted] = RIGHT) -> list[CheckFailed]:
    return Streams(kernel.run, MACHINE, kernel.smmu).check(wanted)


def test_a_true_kernel_passes() -> None:
    assert problems(Kernel()) == []


def no_directory(kernel: Kernel) -> None:
    for path in kernel.below(f"{STREAMS}/16"):
        del kernel.files[path]


def one_too_many(kernel: Kernel) -> None:
    kernel.files |= {path.replace("/16/", "/17/"): kernel.files[path] for path in kernel.below(f"{STREAMS}/16")}


def in_hex(kernel: Kernel) -> None:
    kernel.files[f"{STREAMS}/0x8/ste"] = ""


def no_cd(kernel: Kernel) -> None:
    kernel.files[f"{STREAMS}/8/cd"] = ""


def cd_of_another(kernel: Kernel) -> None:
    kernel.edit(8, "cd", "CD for Stream ID 8", "CD for Stream ID 9")


def ste_of_another(kernel: Kernel) -> None:
    """What stage 2 had in its STE is in that of stage 1, all of it."""
    text = kernel.files[f"{STREAMS}/16/ste"]
    kernel.files[f"{STREAMS}/8/ste"] = text.replace("Stream ID 16", "Stream ID 8")


LIES: dict[str, tuple[str, Callable[[Kernel], None]]] = {
    "no directory": ("STE-1", no_directory),
    "a directory of nobody": ("STE-1", one_too_many),
    "a stream id in hex": ("STE-1", in_hex),
    "a link that is missing": ("STE-1", lambda k: k.links.pop("0000:00:02.0") and None),
    "a link to another device": ("STE-1", lambda k: k.links.update({"0000:00:01.0": "../devices/0000:00:02.0"})),
    "another Config": ("STE-2", lambda k: k.edit(8, "ste", "only S1_TRANS", "BYPASS")),
    "a word that is not in RAM": ("STE-2", lambda k: k.edit(16, "ste", "[7]: 0x00000000", "[7]: 0x00000001")),
    "an address whatever Config is": ("STE-2", lambda k: k.edit(40, "ste", "S2TTB: 0x00000000", "S2TTB: 0x00000001")),
    "a T0SZ that is none": ("STE-2", lambda k: k.edit(8, "cd", "T0SZ: 16", "T0SZ: 17")),
    "a sound STE that is not in RAM": ("STE-4", ste_of_another),
    "the domain of another": ("STE-3", lambda k: k.edit(8, "cd", "Domain: 3", "Domain: 4")),
    "no domain": ("STE-3", lambda k: k.edit(16, "ste", "Domain: 4", "Domain: -")),
    "no CD": ("STE-6", no_cd),
    "a CD of another stream": ("STE-6", cd_of_another),
}


@pytest.mark.parametrize(("rule", "lie"), LIES.values(), ids=LIES.keys())
def test_a_lie_is_named_by_its_rule(rule: str, lie: Callable[[Kernel], None]) -> None:
    kernel = Kernel()
    lie(kernel)
    try:
        found = problems(kernel)
    except CheckFailed as error:
        found = [error]
    assert found
    assert found[0].rules[0] == rule, [one.message for one in found]


@pytest.mark.parametrize(
    ("want", "rule"),
    [
        (replace(RIGHT[0], config="BYPASS"), "HW-1"),
        (replace(RIGHT[0], domain="4"), "HW-2"),
        (replace(RIGHT[1], domain="3"), "HW-1"),
        (replace(RIGHT[0], domain="-"), "HW-5"),
        (Wanted("edu1", "ABORT"), "HW-5"),
        (Wanted("edu1", present=False), "STE-1"),
    ],
)
def test_a_true_kernel_that_is_not_where_it_should_be(want: Wanted, rule: str) -> None:
    (found,) = problems(Kernel(), [want])
    assert found.rules[0] == rule


def test_requester_ids() -> None:
    assert (requester_id("0000:00:01.0"), requester_id("0000:02:1f.7")) == (8, 0x2FF)


def test_the_rules_of_the_dump_follow() -> None:
    (found,) = problems(Kernel(), [replace(RIGHT[0], domain="-")])
    assert (found.rules, found.related, found.verdict) == (("HW-5",), ("STE-3", "STE-4"), Verdict.ENTRIES)


def test_a_descriptor_that_stays_valid_is_the_kernels() -> None:
    """The stream was blocked and its descriptor stays: the dump that shows it is right, and memory agrees."""
    kernel = Kernel()
    assert problems(kernel) == []
    kernel.memory.words(kernel.table + 8 * 64, [1])
    blocked = kernel.smmu.texts(8, {})
    assert blocked["cd"] == ""
    kernel.files[f"{STREAMS}/8/ste"] = blocked["ste"]
    (found,) = problems(kernel, RIGHT[1:])
    assert (found.rules, found.verdict) == (("HW-5",), Verdict.ENTRIES)
    assert "the CD of stream 8 is still valid, but its STE is ABORT" in found.message
    # One that the kernel did invalidate, and that the dump still shows, is the dump's.
    kernel.memory.words(kernel.cd_of_edu0, [CD_WORD & ~(1 << 31)])
    (found,) = problems(kernel, RIGHT[1:])
    assert (found.rules[0], found.verdict) == ("STE-6", Verdict.DUMP)
