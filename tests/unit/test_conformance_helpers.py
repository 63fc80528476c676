# SPDX-License-Identifier: GPL-2.0-only
"""What tests in Python on other boots, costs and failing allocations read out of the guest's text, without a guest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_iommu.check.races.storm_log import parse_storm
from pytest_iommu.conformance.helpers import beside, meminfo
from pytest_iommu.conformance.test_boots import OURS, complaints
from pytest_iommu.conformance.test_busy_domains import NAME, Rings
from pytest_iommu.conformance.test_cost import Pair, counters
from pytest_iommu.conformance.test_no_memory import QUIET, Allocations
from pytest_iommu.conformance.test_vtd_text import BASE, _of_another_cell
from pytest_iommu.core.key import Key
from pytest_iommu.core.model import Prot
from pytest_iommu.core.printed import Row
from pytest_iommu.core.protocol import Reply, Result
from pytest_iommu.session.run import RUN

KALLSYMS = """\
ffff800080a0 T iommu_ptd_add
ffff800080b0 t ptd_create_dir
ffff800080c0 t iommu_free_table_rcu
ffff800080d0 T iommu_free_table
ffff800080e0 t ptt_cmd_domain\t[iommu_ptdump_test]
ffff800080f0 t domain_id_iommu_ptd_id\t[iommu_ptdump_test]
"""


class Log:
    """A guest whose log has these records, and nothing more."""

    def __init__(self, *records: str) -> None:
        self._records = records

    def run(self, batch: list[object]) -> Reply:
        said = [Result(len(record), record.encode()) for record in self._records]
        rest = [Result(-11)] * (len(batch) - 3 - len(said))
        return Reply((Result(0), Result(0), *said, *rest, Result(0)))


def test_symbols_of_the_dump_in_the_kernel_itself() -> None:
    assert OURS.findall(KALLSYMS) == ["iommu_ptd_add", "ptd_create_dir", "iommu_free_table_rcu"]


@pytest.mark.parametrize(
    ("record", "complains"),
    [
        ("4,87,12401,-;**  IOMMU DebugFS SUPPORT HAS BEEN ENABLED IN THIS KERNEL  **\n", False),
        ("4,90,12401,-;debugfs: 'domains' already exists in 'iommu'\n", True),
        ("6,90,12401,-;iommu: Default domain type: Translated\n", False),
        ("12,90,12401,-;arm-smmu-v3 9050000.smmuv3: event 0x10 received:\n SUBSYSTEM=platform\n", True),
        ("3,91,12401,-;anything that is an error\n", True),
        ("4,92,12401,-;pci-host-generic: Memory resource size exceeds max for 32 bits\n", False),
    ],
)
def test_complaints_in_the_log(record: str, complains: bool) -> None:
    found = complaints(Log("6,1,0,-;Booting Linux\n", record))  # type: ignore[arg-type]
    assert found == ([record.partition(";")[2].splitlines()[0]] if complains else [])


def test_counters_and_free_memory() -> None:
    assert counters("nr_free_pages 7\nnr_iommu_pages 3\nnr_sec_page_table_pages 4\n") == {
        "nr_iommu_pages": 3,
        "nr_sec_page_table_pages": 4,
    }
    assert meminfo(b"MemTotal:         442028 kB\nMemFree:          421456 kB\n")["MemFree"] == 421456 << 10


def test_what_a_pair_says() -> None:
    assert Pair("map", {"map": 100}, {"map": 116}).more("map") == 16


def test_allocations_go_on_until_none_matters() -> None:
    allocations = Allocations()
    seen = []
    for nth in allocations:
        seen.append(nth)
        if nth in (1, 5):
            allocations.mattered()
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, *range(5, 5 + QUIET + 1)]


def test_a_flavour_that_the_run_does_not_have_is_named() -> None:
    key = Key("smmuv3", "nodump", "counted")
    run = SimpleNamespace(allowed=[key.kernel])
    item = SimpleNamespace(config=SimpleNamespace(stash={RUN: run}))
    with pytest.raises(pytest.skip.Exception, match=r"--iommu-flavour=plain,nodump"):
        beside(item, SimpleNamespace(key=key), "plain")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("oa", "prot", "freed"),
    [
        pytest.param(0x8000000001000 + (1 << 21), "rw", False, id="a state of its own cell"),
        pytest.param(0x8000000001000 + (3 << 21), "rw", True, id="a state of another cell"),
        pytest.param(0x8000000001000 + (3 << 21), "r", False, id="with other permissions"),
        pytest.param(0x8000000001000 + (24 << 21), "rw", False, id="of a cell that there is not"),
        pytest.param(0x8000000002000 + (3 << 21), "rw", False, id="of another page of that cell"),
    ],
)
def test_a_row_of_another_cell(oa: int, prot: str, freed: bool) -> None:
    """VT-d's debugfs: only this says that the reader was in a freed table that is another cell's now."""
    state = "state {} pa=0x8000000001000 size=0x200000 leaf=0x1000 prot=rw\n"
    head = f"storm d iova={BASE:#x} cell=0x200000 gap=0x400000 round=0x0 cells=24 threads=2 changes=0 error=0\n"
    log = parse_storm(head + "".join(map(state.format, range(1, 5))))
    at = BASE + 0x400000
    row = Row(1, at, at + 0xFFF, oa, 0, 0x1000, Prot.from_letters(prot))
    assert _of_another_cell(log, row) == freed
    assert not _of_another_cell(log, row._replace(first=BASE - 0x1000)), "beside the storm"


def test_rings_that_the_driver_has_not_made_yet() -> None:
    """A device that was plugged in is there before its driver has told it where they are."""
    told = iter([(0, 0, 0), (0, 0, 0), (0xFFFFE000, 0xFFFFD000, 0xFFFFC000)])

    def ask_qemu(command: str, **_: object) -> object:
        if command == "x-query-virtio":
            return [{"path": "/rng", "name": NAME}]
        return dict(zip(("vring-desc", "vring-avail", "vring-used"), next(told), strict=True))

    assert Rings(SimpleNamespace(ask_qemu=ask_qemu)).iovas == [0xFFFFE000, 0xFFFFD000, 0xFFFFC000]  # type: ignore[arg-type]
