# SPDX-License-Identifier: GPL-2.0-only
"""Streams whose domain changes by other hands than the test module's: sysfs, the PCI core, drivers that come and go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import pytest

from pytest_iommu.check import reading
from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.default_domains import STRICT, group_of
from pytest_iommu.check.owners.directories import DOMAINS, directories
from pytest_iommu.check.witnesses.in_ram import InRam
from pytest_iommu.check.witnesses.streams import BYPASS, DEFAULT, Streams, Wanted
from pytest_iommu.guest import ops
from pytest_iommu.guest.testmodule import MODULE
from pytest_iommu.oracle.guest_memory import walk

pytestmark = pytest.mark.iommu_needs(machine="smmuv3", dialect="io_ptdump", devices=("edu0", "edu1"))

DRIVER = "/sys/bus/pci/drivers/iommu_ptdump_test"
EDU1 = "0000:00:02.0"
EDU1_PATH = f"/sys/bus/pci/devices/{EDU1}"
SLOT = 1


@pytest.fixture
def streams(iommu_guest: GuestHandle, iommu: Iommu) -> Streams:
    """The streams of the guest's SMMU, no domain of the test module being there."""
    return iommu_guest.streams


def check(streams: Streams, *wanted: Wanted) -> None:
    """Hold all streams against memory and domains, and these against what they must be."""
    problems = streams.check(wanted)
    if problems:
        raise reading.joined(problems, streams.files)


def type_of_group(guest: GuestHandle) -> str:
    """The file that says, and changes, the type of the default domain of edu1's group."""
    return f"{group_of(guest, EDU1_PATH)}/type"


def on_its_default_domain(streams: Streams, guest: GuestHandle, device: str) -> str:
    """Check a device that is on its default domain: identity domains bypass. The id of the domain, `-` for those."""
    check(streams, Wanted(device, DEFAULT))
    sid = streams.sid(device)
    number = streams.read([sid])[sid].domain
    assert (number == "-") is (streams.default_config(device) == BYPASS), f"{device} is on domain {number}"
    assert number in {*directories(guest), "-"}
    return number


def default_domain(guest: GuestHandle, before: Set[str]) -> str:
    """The id of the one domain whose directory is not among ``before``."""
    new = directories(guest) - before
    assert len(new) == 1, f"one domain must have come, there are {sorted(new)}"
    return next(iter(new))


@pytest.fixture
def unbound(iommu_guest: GuestHandle, streams: Streams) -> Iterator[str]:
    """edu1 without a driver: its group is on its default domain. Its address."""
    type_file = type_of_group(iommu_guest)
    kind = iommu_guest.read(type_file).decode().strip()
    iommu_guest.write(f"{DRIVER}/unbind", EDU1)
    yield EDU1
    if iommu_guest.alive:
        if iommu_guest.read(type_file).decode().strip() != kind:
            iommu_guest.write(type_file, kind)
        iommu_guest.write(f"{DRIVER}/bind", EDU1)


@pytest.mark.iommu_rules("STE-1", "STE-3")
def test_the_agents_device_is_on_its_default_domain(streams: Streams, iommu_guest: GuestHandle) -> None:
    on_its_default_domain(streams, iommu_guest, "agent")


@pytest.mark.iommu_rules("STE-2", "STE-3", "STE-4")
def test_without_a_driver_it_is_back_on_the_default_domain(
    streams: Streams, iommu_guest: GuestHandle, unbound: str
) -> None:
    on_its_default_domain(streams, iommu_guest, "edu1")


@pytest.mark.iommu_rules("STE-2", "STE-3", "STE-4", "STE-6")
def test_identity_and_back_through_sysfs(streams: Streams, iommu_guest: GuestHandle, unbound: str) -> None:
    type_file = type_of_group(iommu_guest)
    iommu_guest.write(type_file, "identity")
    check(streams, Wanted("edu1", "BYPASS", "-"))
    before = directories(iommu_guest)
    iommu_guest.write(type_file, "DMA")
    check(streams, Wanted("edu1", "only S1_TRANS", default_domain(iommu_guest, before)))
    iommu_guest.write(type_file, "identity")
    check(streams, Wanted("edu1", "BYPASS", "-"))


@pytest.mark.iommu_rules("STE-3", "STE-4", "INF-2")
def test_dma_to_dma_fq_keeps_the_domain(streams: Streams, iommu_guest: GuestHandle, unbound: str) -> None:
    """The one change of type that leaves the domain where it is: the id stays, its info says the new type."""
    type_file = type_of_group(iommu_guest)
    iommu_guest.write(type_file, "identity")
    before = directories(iommu_guest)
    iommu_guest.write(type_file, "DMA")
    number = default_domain(iommu_guest, before)
    iommu_guest.write(type_file, "DMA-FQ")
    check(streams, Wanted("edu1", "only S1_TRANS", number))
    assert "type: dma-fq\n" in iommu_guest.read(f"{DOMAINS}/{number}/info").decode()


@pytest.mark.iommu_rules("STE-1", "STE-4")
def test_unbind_and_rebind_under_a_domain(streams: Streams, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    """Unbound while it is attached: the group goes back to its default domain, and is ours again afterwards."""
    domain = iommu.domain(device="edu1")
    domain.attach("edu1")
    other = iommu.domain(device="edu0")
    other.attach("edu0")
    check(streams, Wanted("edu1", "only S1_TRANS", domain.id), Wanted("edu0", "only S1_TRANS", other.id))
    iommu_guest.write(f"{DRIVER}/unbind", EDU1)
    try:
        assert on_its_default_domain(streams, iommu_guest, "edu1") not in (domain.id, other.id)
        check(streams, Wanted("edu0", "only S1_TRANS", other.id))
    finally:
        iommu_guest.write(f"{DRIVER}/bind", EDU1)
    check(streams, Wanted("edu1", "ABORT", "-"), Wanted("edu0", "only S1_TRANS", other.id))


@pytest.mark.iommu_rules("STE-1")
def test_remove_and_rescan(streams: Streams, iommu_guest: GuestHandle) -> None:
    """The directory is gone when the removal returns, an open file says EIO, and it is there again with the device."""
    directory = f"{streams.path}/{streams.sid('edu1')}"
    assert iommu_guest.run([ops.open_file(SLOT, f"{directory}/ste")]).results[0].ok
    try:
        iommu_guest.write(f"{EDU1_PATH}/remove", "1")
        try:
            check(streams, Wanted("edu1", present=False))
            (result,) = iommu_guest.run([ops.read(SLOT, 4096)]).results
            assert ops.errno_name(result.value) == "EIO", f"a file of a removed device: {result}"
        finally:
            iommu_guest.write("/sys/bus/pci/rescan", "1")
    finally:
        iommu_guest.run([ops.close(SLOT)])
    check(streams, Wanted("edu1", "ABORT", "-"))
    assert "edu1 " in iommu_guest.read(f"{MODULE}/devices").decode()


@pytest.mark.iommu_rules("STE-1")
def test_remove_and_rescan_under_a_domain(streams: Streams, iommu_guest: GuestHandle, iommu: Iommu) -> None:
    domain = iommu.domain(device="edu1")
    domain.attach("edu1")
    iommu_guest.write(f"{EDU1_PATH}/remove", "1")
    try:
        check(streams, Wanted("edu1", present=False))
    finally:
        iommu_guest.write("/sys/bus/pci/rescan", "1")
    check(streams, Wanted("edu1", "ABORT", "-"))


@pytest.mark.iommu_rules("CON-10", "STE-2")
@pytest.mark.parametrize("file", ["ste", "cd"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_any_read_size(streams: Streams, iommu_guest: GuestHandle, iommu: Iommu, file: str, chunk: int) -> None:
    iommu.domain(device="edu0").attach("edu0")
    path = f"{streams.path}/{streams.sid('edu0')}/{file}"
    whole, pieces = iommu_guest.run([ops.read_file(path), ops.read_file(path, chunk=chunk)]).results
    assert whole.ok
    assert whole.data
    assert pieces.data == whole.data


def tables(streams: Streams, witness: InRam) -> dict[int, tuple[str, Mapping[str, str]]]:
    """Every stream that translates, with the id its files show and the dump that follows from its table in RAM."""
    assert witness.smmu is not None
    found: dict[int, tuple[str, Mapping[str, str]]] = {}
    for sid in witness.smmu.sids():
        place = witness.smmu.table(sid)
        assert place is not None, f"stream {sid} is set up for a table that no SMMU can walk"
        found[sid] = streams.read([sid])[sid].domain, walk(witness.memory, *place).texts()
    return found


@pytest.mark.iommu_rules("ENT-1", "RNG-1", "STE-3")
def test_every_stream_leads_to_the_table_of_its_domain(
    streams: Streams, iommu_guest: GuestHandle, iommu: Iommu, unbound: str
) -> None:
    """Also those of default domains: what the stream's table holds in RAM is what the domain's files show."""
    witness = iommu_guest.in_ram
    if witness is None:
        pytest.skip("needs a guest whose memory the host can read")
    if streams.default_config("edu1") == BYPASS:
        iommu_guest.write(type_of_group(iommu_guest), STRICT)
    domain = iommu.domain(device="edu0", stage="s2")
    domain.map(0x31230000, 0x912340000, 3 * domain.page, "rw")
    domain.attach("edu0")
    held = tables(streams, witness)
    assert {streams.sid("edu0"), streams.sid("edu1")} <= held.keys(), "these streams do not translate"
    for sid in held:
        number, texts = held[sid]
        assert dump_of(iommu_guest, number) == texts, f"the dump of domain {number}, of stream {sid}, differs from RAM"


def dump_of(guest: GuestHandle, number: str) -> dict[str, str]:
    """The files of a domain that RAM knows, too."""
    path = f"{DOMAINS}/{number}"
    return {name: guest.read(f"{path}/{name}").decode() for name in ("page_table", "entries", "stats")}
