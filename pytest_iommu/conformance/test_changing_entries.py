# SPDX-License-Identifier: GPL-2.0-only
"""HW-4: the guest is stopped at each store to an STE or a CD, while a device goes from one domain to another.

What hardware could see at each of these moments is compared with what was before and what comes after. QEMU reads these
structures whenever a device accesses memory, and would hardly ever do so between two stores. No dump is needed.
"""

from __future__ import annotations

import struct

import pytest

from pytest_iommu.check.handles import Domain, GuestHandle, Iommu
from pytest_iommu.check.platform import linear_map
from pytest_iommu.check.races import processors
from pytest_iommu.check.races.trap import Trap
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats import smmuv3
from pytest_iommu.guest.testmodule import command_ops, lacks, parse_status, status_text
from pytest_iommu.oracle.command_queue import CommandQueue
from pytest_iommu.oracle.entry_changes import Words, mixture, seen_of_cd, seen_of_ste, told
from pytest_iommu.oracle.stream_table import SmmuV3
from pytest_iommu.scenario.race_words import TIMEOUT

pytestmark = [
    pytest.mark.iommu_needs(machine="smmuv3"),
    pytest.mark.iommu_boot_mode("held"),
    pytest.mark.iommu_rules("HW-4"),
]

DEVICE = "edu0"
#: what the device is on before, and after: a stage, or what the kernel gives it when it is left alone
CHANGES = [
    *(("none", stage) for stage in ("s1", "s2")),
    *((stage, other) for stage in ("s1", "s2") for other in ("s1", "s2")),
    *((stage, "none") for stage in ("s1", "s2")),
]


class Watch:
    """One structure: its states between invalidations, see entry_changes.mixture()."""

    def __init__(self, memory: Memory, address: int) -> None:
        self.place = range(address, address + smmuv3.STE_BYTES)
        self._memory = memory
        self.runs: list[list[Words]] = [[self.now()]]
        self.stores = 0

    def now(self) -> Words:
        data = bytes(self._memory.read(self.place.start, smmuv3.STE_BYTES))
        return struct.unpack(f"<{smmuv3.WORDS}Q", data)

    def look(self, invalidated: bool) -> None:
        words = self.now()
        self.stores += words != self.runs[-1][-1]
        self.runs[-1].append(words)
        if invalidated:
            self.runs.append([words])


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_hardware_sees_no_mixture(before: str, after: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    gdb, memory, linear = iommu_guest.gdb, iommu_guest.memory, linear_map(iommu_guest.run)
    base = iommu_guest.machine.smmu
    if gdb is None or memory is None or linear is None or base is None:
        pytest.skip("stores are stopped at by QEMU's gdbstub, which is not there, or memory is not seen")
    smmu, queue, sid = SmmuV3(memory, base), CommandQueue(memory, base), iommu_guest.machine.device(DEVICE).sid
    # A stage-1 domain leaves a CD table behind, whose descriptor is watched as well.
    first = domain(iommu, "s1")
    first.attach(DEVICE)
    assert smmu.ste(sid) is not None
    if before != "s1":
        iommu.command(f"detach {DEVICE}")
    if before == "s2":
        domain(iommu, "s2").attach(DEVICE)
    ste_address, cd_address = smmu.ste_address(sid), smmu.last_cd_address(sid)
    assert ste_address is not None
    assert cd_address is not None
    ste, cd = Watch(memory, ste_address), Watch(memory, cd_address)
    queue.skip()

    def look() -> None:
        commands = queue.new()
        assert commands is not None, "the command queue was overwritten between two stores"
        for one in (ste, cd):
            one.look(told(commands, sid))

    verb = "attach" if before == "none" else "replace"
    line = f"detach {DEVICE}" if after == "none" else f"{verb} {domain(iommu, after).name} {DEVICE}"
    with Trap(gdb, iommu_guest.run, processors.of(iommu_guest.machine)) as trap:
        trap.attach()
        places = [range(linear(one.place.start), linear(one.place.start) + len(one.place)) for one in (ste, cd)]
        trap.each_store(places, command_ops(f"{line}\n"), TIMEOUT, look)
        control = trap.answer().results
    status = parse_status(status_text(control))[1]
    if reason := lacks(line, status.errno, status.message):
        pytest.skip(reason)
    assert status.errno is None, f"{line}: {status.errno} {status.message}"
    assert ste.stores + cd.stores, "nothing was stored where the SMMU looks"
    what = f"{DEVICE} goes from {before} to {after}"
    for name, watch, seen in (("STE", ste, seen_of_ste), ("CD", cd, seen_of_cd)):
        if watch is cd and not leads_to(ste, cd_address):
            continue
        found = mixture(watch.runs, seen)
        if found is not None:
            text = f"while {what}, the SMMU may see an {name} that is neither the old one nor the new one: {found}"
            files = {f"{name}.txt": listing(watch).encode()}
            raise CheckFailed(
                text,
                ("HW-4",),
                files=files,
                verdict=Verdict.ENTRIES,
                table=SmmuV3.root,
                because="it changes word by word",
            )


def domain(iommu: Iommu, stage: str) -> Domain:
    """A domain with something in it, so that none of its fields is like another's by chance."""
    made = iommu.domain(stage)
    made.map(0x10000000, 0x41000000, made.page)
    return made


def leads_to(ste: Watch, cd_address: int) -> bool:
    """Whether the SMMU can see that descriptor all the time."""
    pointer = smmuv3.STE["S1ContextPtr"]
    return all(
        smmuv3.decode_ste(0, words).config in smmuv3.WITH_STAGE1 and pointer.address(words) == cd_address
        for run in ste.runs
        for words in run
    )


def listing(watch: Watch) -> str:
    """All states, a line each; an empty line where the SMMU was told to forget them."""
    return "\n\n".join("\n".join(" ".join(f"{word:016x}" for word in words) for words in run) for run in watch.runs)
