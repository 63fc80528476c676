# SPDX-License-Identifier: GPL-2.0-only
"""DMA that QEMU passes after an identity domain says nothing of the kernel: it is not judged, and the guest goes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from iommu_entries import KINDS

from pytest_iommu.check.owners.default_domains import IDENTITY, STRICT, set_type
from pytest_iommu.check.witnesses import in_ram, passed
from pytest_iommu.check.witnesses.dma import Done
from pytest_iommu.core import machines
from pytest_iommu.core.model import Prot
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.formats import configure
from pytest_iommu.oracle import TableModel
from pytest_iommu.scenario import Dma, Sample

MACHINE = machines.get("vtdsm2")
TYPE = f"/sys/bus/pci/devices/0000:{MACHINE.device('edu0').address}/iommu_group/type"
STICKY = {"first", "second"}


class Asked:
    """A guest whose default domains are of one type; it does nothing else."""

    def __init__(self, kind: str, iommu: str = "second") -> None:
        self.kind = kind
        self.asked: list[str] = []
        self.in_ram = SimpleNamespace(iommu=KINDS[iommu]().iommu)
        self.spoilt = ""

    def run(self, batch: Sequence[Op]) -> Reply:
        self.asked += [op.path for op in batch]
        return Reply(tuple(Result(len(self.kind), f"{self.kind}\n".encode()) for _ in batch))

    def write(self, path: str, text: str) -> None:
        self.asked.append(path)
        self.kind = text

    def done(self) -> Done:
        return Done(self.run, MACHINE, None, self.in_ram.iommu)


@pytest.mark.parametrize("iommu", KINDS)
@pytest.mark.parametrize("kind", [IDENTITY, STRICT])
def test_of_which_devices_it_is(iommu: str, kind: str) -> None:
    guest = Asked(kind, iommu)
    found = passed.is_passed(guest.run, MACHINE, guest.in_ram.iommu, "edu0")
    assert found == (iommu in STICKY and kind == IDENTITY)
    assert guest.asked == ([TYPE] if iommu in STICKY else []), "others need not be asked"


@pytest.mark.parametrize("iommu", KINDS)
@pytest.mark.parametrize("kind", [IDENTITY, STRICT])
def test_a_kernel_that_makes_identity_domains(monkeypatch: pytest.MonkeyPatch, iommu: str, kind: str) -> None:
    guest = Asked(kind, iommu)
    monkeypatch.setattr(in_ram, "in_ram", lambda guest, machine: guest.in_ram)
    assert passed.passing(guest, MACHINE) == (iommu in STICKY and kind == IDENTITY)  # type: ignore[arg-type]


def test_transfers_of_a_domain_are_left_out() -> None:
    model = TableModel(configure("vtdss", levels=4, vasz=48))
    model.map(0x31230000, 0x18000000, 4096, Prot.from_letters("rw"))
    guest = Asked(IDENTITY)
    done = guest.done()
    for _ in range(2):
        assert done.sample(Sample("d", "edu0", model.snapshot(), attached=True, limit=10, line=1)) == []
    assert guest.asked == [TYPE], "asked once, and nothing was transferred"


def test_a_scenario_that_asks_for_transfers_is_skipped() -> None:
    step = Dma("edu0", write=True, iova=0x1000, size=8, event="F_TRANSLATION", oa=None, line=3)
    with pytest.raises(pytest.skip.Exception, match="identity domain"):
        Asked(IDENTITY).done().steps([step])


@pytest.mark.parametrize(("iommu", "kind", "goes"), [("second", IDENTITY, True), ("second", STRICT, False)])
def test_a_guest_with_such_a_device_goes(iommu: str, kind: str, goes: bool) -> None:
    guest = Asked(STRICT, iommu)
    set_type(guest, "/sys/kernel/iommu_groups/3/type", kind)  # type: ignore[arg-type]
    assert bool(guest.spoilt) == goes
    set_type(legacy := Asked(STRICT, "legacy"), "/sys/kernel/iommu_groups/3/type", IDENTITY)  # type: ignore[arg-type]
    assert not legacy.spoilt
