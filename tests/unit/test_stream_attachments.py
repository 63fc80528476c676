# SPDX-License-Identifier: GPL-2.0-only
"""The witness of the command queue: what a kernel forgets when a table, an STE or a CD changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from synthetic_memory import SyntheticMemory

from pytest_iommu.check.witnesses.stream_attachments import StreamAttachments
from pytest_iommu.core import machines
from pytest_iommu.guest.testmodule import parse_groups
from pytest_iommu.oracle.command_queue import CMDQ_BASE, CMDQ_PROD
from pytest_iommu.oracle.invalidation import Gone, Leaves
from pytest_iommu.oracle.stream_table import SmmuV3
from pytest_iommu.scenario import Lost, Phase

MACHINE = machines.get("smmuv3")
assert MACHINE.smmu is not None
SMMU = MACHINE.smmu
ABORT, S1, S2 = 0x1, 0xB, 0xD
TOP, OTHER = 0x41000000, 0x42000000
GROUPS = {"00:01.0": "1", "00:02.0": "2"}
CFGI_STE, CFGI_CD, SYNC, FLUSH = 0x3 | 8 << 32, 0x5 | 8 << 32, 0x46, 0x11 | 1 << 48
PAGES = Gone((Leaves(0x1000, 0x2FFF, 0, 0x1000),))


class Kernel:
    """What a kernel keeps in memory for edu0 (stream 8) and edu1 (16): both are detached at first."""

    def __init__(self) -> None:
        self.memory = SyntheticMemory(1 << 22)
        self.table = self.memory.allocate(64 << 8)
        self.queue = self.memory.allocate(4096)
        self.cds = self.memory.allocate(64)
        self.memory.registers |= {
            SMMU: 1 << 12 | 1 << 18,
            SMMU + 0x80: self.table,
            SMMU + 0x88: 8,
            SMMU + CMDQ_BASE[0]: self.queue | 8,
        }
        self.prod = 0
        self.ste(8, ABORT)
        self.ste(16, ABORT)
        self.smmu = SmmuV3(self.memory, SMMU)
        self.attachments = StreamAttachments(MACHINE, self.smmu)

    def ste(self, sid: int, *words: int) -> None:
        self.memory.words(self.table + sid * 64, [*words, *[0] * (8 - len(words))])

    def cd(self, asid: int, top: int = TOP, valid: bool = True) -> None:
        self.memory.words(self.cds, [(1 << 31 if valid else 0) | 1 << 41 | asid << 48, top, 0, 0, 0, 0, 0, 0])

    def command(self, *words: int) -> None:
        for word in words:
            self.memory.words(self.queue + self.prod * 16, [word, 0])
            self.prod += 1
        self.memory.registers[SMMU + CMDQ_PROD[0]] = self.prod

    def attach(self, asid: int = 1, top: int = TOP) -> None:
        self.cd(asid, top)
        self.command(CFGI_CD, SYNC)
        self.ste(8, S1 | self.cds)
        self.command(CFGI_STE, SYNC)

    def detach(self) -> None:
        self.ste(8, ABORT)
        self.command(CFGI_STE, SYNC, FLUSH, SYNC)
        self.cd(1, valid=False)

    def after(self, attached: dict[str, str], lost: Sequence[Lost] = ()) -> list[tuple[str, tuple[str, ...]]]:
        """What the witness says of a phase, and begin the next."""
        phase = Phase((), "x\n", {}, (), (), (), (), (), (), tuple(lost), tuple(attached.items()))
        failures = [*self.attachments.after(phase), *self.attachments.shared(phase)]
        found = [(one.message, one.rules) for one in failures]
        self.attachments.before(GROUPS)
        return found


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel()
    made.attachments.before(GROUPS)
    return made


def test_attach_and_detach(kernel: Kernel) -> None:
    assert kernel.after({}) == []
    kernel.attach()
    assert kernel.after({"edu0": "d"}) == []
    kernel.detach()
    assert kernel.after({}) == []
    kernel.attach(1, OTHER)
    assert kernel.after({"edu0": "e"}) == []


def test_an_entry_that_is_still_cached(kernel: Kernel) -> None:
    kernel.cd(1)
    kernel.ste(8, S1 | kernel.cds)
    text = "the STE of stream 8 has changed, and no CMD_CFGI_STE follows"
    assert kernel.after({"edu0": "d"}) == [(text, ("TLB-4",))]
    kernel.cd(2, OTHER)
    text = "the CD of stream 8 has changed, and no CMD_CFGI_CD follows"
    assert kernel.after({"edu0": "e"}) == [(text, ("TLB-4",))]


@pytest.mark.parametrize("ends", [True, False])
def test_leaves_that_are_still_cached(kernel: Kernel, ends: bool) -> None:
    kernel.attach()
    assert kernel.after({"edu0": "d"}) == []
    lost = [Lost("d", "edu0", ends, PAGES, 7)]
    text = "line 7: domain d: 0x1000-0x2fff of ASID 1 is not invalidated"
    assert kernel.after({"edu0": "d"}, lost) == [(text, ("TLB-4",))]
    kernel.command(FLUSH, SYNC)
    assert kernel.after({"edu0": "d"}, lost) == []


def test_what_is_left_of_a_device_that_has_gone(kernel: Kernel) -> None:
    kernel.attach()
    kernel.after({"edu0": "d"})
    text = "edu0 is detached: the STE: Config is 0x5, must be 0x0"
    assert kernel.after({}) == [(text, ("HW-5",))]
    kernel.ste(8, ABORT)
    kernel.command(CFGI_STE, SYNC)
    text = "edu0 is detached: the CD is valid, and no STE leads to it"
    assert kernel.after({}) == [(text, ("HW-5",))]
    kernel.cd(1, valid=False)
    assert kernel.after({}) == []


def test_the_cd_of_a_device_that_has_gone_to_stage_2(kernel: Kernel) -> None:
    kernel.attach()
    kernel.after({"edu0": "d"})
    kernel.ste(8, S2, 0, 3, OTHER)
    kernel.command(CFGI_STE, SYNC, FLUSH, SYNC)
    text = "edu0 has left its domain of stage 1, but the CD of stream 8 is valid"
    assert kernel.after({"edu0": "e"}) == [(text, ("HW-5",))]


def test_a_device_that_was_pulled_out(kernel: Kernel) -> None:
    kernel.attach()
    kernel.after({"edu0": "d"})
    kernel.attachments.before({"00:02.0": "2"})
    kernel.memory.words(kernel.cds, [1 << 31] * 8)  # somebody else's memory
    phase = Phase((), "", {}, (), (), (), (), (), ())
    text = "edu0 is unplugged: the STE: Config is 0x5, must be 0x0"
    assert next((one.message, one.rules) for one in kernel.attachments.after(phase)) == (text, ("HW-5",))
    kernel.ste(8, ABORT)
    kernel.command(CFGI_STE, SYNC, FLUSH, SYNC)
    kernel.attachments.before({"00:02.0": "2"})
    assert kernel.attachments.after(phase) == []


def test_what_an_earlier_test_saw_is_no_evidence(kernel: Kernel) -> None:
    """The device may have been away since: its descriptors are somebody else's memory."""
    kernel.attach()
    kernel.after({"edu0": "d"})
    kernel.detach()
    kernel.after({})
    kernel.memory.words(kernel.cds, [1 << 31] * 8)
    kernel.attachments = StreamAttachments(MACHINE, kernel.smmu)
    kernel.attachments.before(GROUPS)
    assert kernel.after({}) == []


def test_an_id_of_two_domains(kernel: Kernel) -> None:
    kernel.attach()
    kernel.after({"edu0": "d"})
    more = kernel.memory.allocate(64)
    kernel.memory.words(more, [1 << 31 | 1 << 41 | 1 << 48, OTHER, 0, 0, 0, 0, 0, 0])
    kernel.ste(16, S1 | more)
    kernel.command(0x3 | 16 << 32, SYNC)
    text = "ASID 1 is that of domain d and of domain e at the same time"
    assert kernel.after({"edu0": "d", "edu1": "e"}) == [(text, ("HW-3",))]


def test_an_id_that_was_not_invalidated(kernel: Kernel) -> None:
    kernel.attach()
    kernel.after({"edu0": "d"})
    kernel.ste(8, ABORT)
    kernel.cd(1, valid=False)
    kernel.command(CFGI_STE, SYNC)
    assert kernel.after({}) == []
    kernel.attach(1, OTHER)
    text = "ASID 1 was that of domain d, is now that of domain e, and was not invalidated in between"
    assert kernel.after({"edu0": "e"}) == [(text, ("HW-3",))]


def test_groups_of_the_modules_devices() -> None:
    text = "edu0 0000:00:01.0 group=1 sid=8\nedu5 0000:01:02.0 group=- sid=-\n"
    assert parse_groups(text) == {"00:01.0": "1"}
