# SPDX-License-Identifier: GPL-2.0-only
"""What the stream table says of a device that changes hands, and what is left of the domain that it was on.

Judged in memory alone: STE and CD, and the commands that the SMMU got. Scenarios check the same after each attach and
detach; here sysfs moves the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_iommu.check.handles import GuestHandle, Iommu
from pytest_iommu.check.owners.default_domains import IDENTITY, STRICT, group_of
from pytest_iommu.core.outcomes import CheckFailed, Verdict
from pytest_iommu.formats import smmuv3
from pytest_iommu.guest import ops
from pytest_iommu.oracle.command_queue import CommandQueue
from pytest_iommu.oracle.invalidation import stale_entry
from pytest_iommu.oracle.stream_table import SmmuV3

DEVICE = "edu1"
DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
IOVA, OA = 0x31230000, 0x912340000
ABORT, BYPASS, STAGE1 = "ABORT", "BYPASS", "only S1_TRANS"

pytestmark = pytest.mark.iommu_needs(machine="smmuv3", devices=(DEVICE,))


class Stream:
    """A device's stream in memory, and the commands since the last look."""

    def __init__(self, guest: GuestHandle, smmu: SmmuV3, base: int) -> None:
        memory = guest.memory
        assert memory is not None
        self._memory = memory
        self._smmu = smmu
        self._queue = CommandQueue(memory, base)
        self._sid = guest.machine.device(DEVICE).sid
        self.cd_address: int | None = None
        self._words: tuple[int, ...] = ()
        self.look()

    def look(self) -> str:
        """Return Config, once the SMMU has been told of the change."""
        ste = self._smmu.ste(self._sid)
        assert ste is not None
        commands = self._queue.new()
        if self._words and ste.words != self._words and commands is not None:
            text = stale_entry(commands, self._sid, ste=True)
            if text is not None:
                raise CheckFailed(text, ("TLB-4",), verdict=Verdict.CACHE)
        self._words = ste.words
        self.cd_address = self._smmu.cd_address(self._sid) or self.cd_address
        if not ste.valid:
            raise CheckFailed(f"the STE of stream {self._sid} is not valid", ("HW-5",), verdict=Verdict.STREAM)
        return ste.config

    def must_be(self, config: str, why: str) -> None:
        """HW-5: Config is this, and unless it is stage 1 no CD of before is valid."""
        have = self.look()
        if have != config:
            what = f"{why}, but the STE of stream {self._sid} is {have}, expected {config}"
            raise CheckFailed(what, ("HW-5",), verdict=Verdict.STREAM)
        valid = self.top() is not None
        if valid is not (config == STAGE1):
            what = f"{why}, but the CD of stream {self._sid} is {'valid' if valid else 'not valid'}"
            raise CheckFailed(what, ("HW-5",), verdict=Verdict.STREAM)

    def top(self) -> int | None:
        """Return the table that the CD of SSID 0 leads to, None if it is not valid or has never been there."""
        if self.cd_address is None:
            return None
        words = memoryview(self._memory.read(self.cd_address, smmuv3.CD_BYTES)).cast("Q").tolist()
        cd = smmuv3.decode_cd(self._sid, 0, words)
        return cd.ttb0 if cd.valid else None


@pytest.fixture
def stream(iommu_guest: GuestHandle, iommu: Iommu) -> Stream:
    """For a guest whose memory the host can read."""
    witness = iommu_guest.in_ram
    if witness is None or witness.smmu is None or iommu_guest.machine.smmu is None:
        pytest.skip("needs a guest whose memory the host can read")
    return Stream(iommu_guest, witness.smmu, iommu_guest.machine.smmu)


Change = Callable[[str], None]


@pytest.fixture
def default(iommu_guest: GuestHandle) -> Iterator[Change]:
    """Takes the device's driver away, and sets the type of its default domain, which it is then on."""
    address = f"0000:{iommu_guest.machine.device(DEVICE).address}"
    file = f"{group_of(iommu_guest, f'/sys/bus/pci/devices/{address}')}/type"
    at_boot = iommu_guest.read(file).decode().strip()

    def bound() -> bool:
        return iommu_guest.run([ops.stat(f"{DRIVER}/{address}")]).results[0].ok

    def change(kind: str) -> None:
        if bound():
            iommu_guest.write(f"{DRIVER}/unbind", address)
        iommu_guest.write(file, kind)

    yield change
    if iommu_guest.alive and not bound():
        if iommu_guest.read(file).decode().strip() != at_boot:
            iommu_guest.write(file, at_boot)
        iommu_guest.write(f"{DRIVER}/bind", address)


@pytest.mark.iommu_rules("HW-5", "TLB-4")
def test_from_stage_1_to_identity_and_back(stream: Stream, iommu: Iommu, default: Change) -> None:
    domain = iommu.domain(device=DEVICE, stage="s1")
    domain.map(IOVA, OA, 3 * domain.page, "rw")
    domain.attach(DEVICE)
    stream.must_be(STAGE1, f"{DEVICE} is on a domain of stage 1")
    ours = stream.top()
    iommu.command(f"detach {DEVICE}")
    stream.must_be(ABORT, f"{DEVICE} is detached")
    default(IDENTITY)
    stream.must_be(BYPASS, f"{DEVICE} is on an identity domain")
    default(STRICT)
    stream.must_be(STAGE1, f"{DEVICE} is on a domain of the DMA API")
    assert stream.top() != ours, "the default domain has the table of a domain of ours"
    default(IDENTITY)
    stream.must_be(BYPASS, f"{DEVICE} is on an identity domain")


@pytest.mark.iommu_rules("HW-5", "TLB-4")
def test_a_driver_that_takes_the_device_blocks_it(
    stream: Stream, iommu: Iommu, iommu_guest: GuestHandle, default: Change
) -> None:
    """Our driver claims the group for itself, which takes the device off its default domain."""
    default(STRICT)
    stream.must_be(STAGE1, f"{DEVICE} is on a domain of the DMA API")
    iommu_guest.write(f"{DRIVER}/bind", f"0000:{iommu_guest.machine.device(DEVICE).address}")
    stream.must_be(ABORT, f"{DEVICE} is claimed and not attached")


@pytest.mark.iommu_rules("HW-5", "TLB-4")
def test_from_stage_1_to_stage_2(stream: Stream, iommu: Iommu) -> None:
    first, second = iommu.domain(device=DEVICE, stage="s1"), iommu.domain(device=DEVICE, stage="s2")
    first.attach(DEVICE)
    stream.must_be(STAGE1, f"{DEVICE} is on a domain of stage 1")
    iommu.command(f"replace {second.name} {DEVICE}")
    stream.must_be("only S2_TRANS", f"{DEVICE} is on a domain of stage 2")
    iommu.command(f"replace {first.name} {DEVICE}")
    stream.must_be(STAGE1, f"{DEVICE} is on a domain of stage 1")
