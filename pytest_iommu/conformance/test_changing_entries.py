# SPDX-License-Identifier: GPL-2.0-only
"""HW-4: the guest is stopped at each store to an entry of a device that goes from one domain to another.

What hardware could see at each of these moments is compared with what was before and what comes after. QEMU reads these
structures whenever a device accesses memory, and would hardly ever do so between two stores. No dump is needed.
"""

from __future__ import annotations

from functools import partial

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Domain, Iommu
from pytest_iommu.check.platform import linear_map
from pytest_iommu.check.races import processors
from pytest_iommu.check.races.trap import Trap
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.core.protocol import Memory
from pytest_iommu.formats import smmuv3
from pytest_iommu.guest.testmodule import command_ops, lacks, parse_status, status_text
from pytest_iommu.oracle.entry_changes import Words, mixture
from pytest_iommu.scenario.race_words import TIMEOUT

pytestmark = [
    pytest.mark.iommu_needs(machine="emulated"),
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

    def __init__(self, memory: Memory, place: range) -> None:
        self.place = place
        self._memory = memory
        self.runs: list[list[Words]] = [[self.now()]]
        self.stores = 0

    def now(self) -> Words:
        return tuple(memoryview(bytes(self._memory.read(self.place.start, len(self.place)))).cast("Q").tolist())

    def look(self, invalidated: bool, stored: bool) -> None:
        """``stored``: the store has just been done, after the invalidation; else it is about to be done."""
        words, last = self.now(), self.runs[-1][-1]
        self.stores += words != last
        if invalidated and stored:
            self.runs.append([last])
        self.runs[-1].append(words)
        if invalidated and not stored:
            self.runs.append([words])


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_hardware_sees_no_mixture(before: str, after: str, iommu: Iommu, iommu_guest: GuestHandle) -> None:
    gdb, memory, linear = iommu_guest.gdb, iommu_guest.memory, linear_map(iommu_guest.run)
    witness = iommu_guest.in_ram.iommu if iommu_guest.in_ram is not None else None
    if gdb is None or memory is None or linear is None or witness is None:
        pytest.skip("stores are stopped at by QEMU's gdbstub, which is not there, or memory is not seen")
    processor, sid = processors.of(iommu_guest.machine), iommu_guest.machine.device(DEVICE).sid
    for stage in {before, after} - {"none"}:
        iommu_guest.hardware_table(stage)  # skips where there is no such stage
    # A domain of stage 1 leaves a CD table behind, whose descriptor is watched as well.
    first = domain(iommu, next(iter(iommu_guest.machine.stages)))
    first.attach(DEVICE)
    assert witness.table(sid) is not None
    if before != next(iter(iommu_guest.machine.stages)):
        iommu.command(f"detach {DEVICE}")
        if before != "none":
            domain(iommu, before).attach(DEVICE)
    watches = {name: Watch(memory, place) for name, place in witness.places(sid).items()}
    queue = witness.commands()

    def look() -> None:
        commands = queue.new()
        assert commands is not None, "the command queue was overwritten between two stores"
        for one in watches.values():
            one.look(witness.told(sid, commands), stored=not processor.STOPS_BEFORE)

    verb = "attach" if before == "none" else "replace"
    line = f"detach {DEVICE}" if after == "none" else f"{verb} {domain(iommu, after).name} {DEVICE}"
    with Trap(gdb, iommu_guest.run, processor) as trap:
        trap.attach()
        places = [range(linear(one.place.start), linear(one.place.start) + len(one.place)) for one in watches.values()]
        trap.each_store(places, command_ops(f"{line}\n"), TIMEOUT, look)
        control = trap.answer().results
    status = parse_status(status_text(control))[1]
    if reason := lacks(line, status.errno, status.message):
        pytest.skip(reason)
    assert status.errno is None, f"{line}: {status.errno} {status.message}"
    assert sum(one.stores for one in watches.values()), "nothing was stored where the IOMMU looks"
    what = f"{DEVICE} goes from {before} to {after}"
    for name, watch in watches.items():
        if name == "CD" and not leads_to(watches["STE"], watch.place.start):
            continue
        found = mixture(watch.runs, partial(witness.seen, name), witness.unit)
        if found is not None:
            text = f"while {what}, the IOMMU may see a {name} that is neither the old one nor the new one: {found}"
            files = {f"{name}.txt": listing(watch).encode()}
            raise CheckFailed(
                text,
                ("HW-4",),
                files=files,
                verdict=Verdict.ENTRIES,
                table=witness.root,
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
