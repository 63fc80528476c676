# SPDX-License-Identifier: GPL-2.0-only
"""What flavour debug is to find it does find, and it ends the guest as it would end a test: each is provoked once."""

from __future__ import annotations

import re
import struct
import time

import pytest

from pytest_iommu.core.outcomes import KernelCrash
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.gdb import Point
from pytest_iommu.guest.testmodule import DEBUGFS, MODULE, command_ops, parse_status, status_text
from pytest_iommu.guest.virtual import VirtualGuest

pytestmark = pytest.mark.iommu_flavour("debug")

IOVA = 0x40000000
KMEMLEAK = "/sys/kernel/debug/kmemleak"
#: kernel's virtual address of the beginning of RAM, with 48 bits of them
LINEAR = 0xFFFF << 48
#: bytes of a slab object, and of what struct external_name has before the name
SLAB, HEAD = 256, 24
#: seconds that a grace period may take on this kernel before it says that something is wrong
STALL = 10


def command(guest: VirtualGuest, line: str) -> dict[str, str]:
    """What the test module answers to a command that must pass."""
    status = parse_status(status_text(guest.run(command_ops(f"{line}\n")).results))[1]
    assert status.errno is None, status
    return status.values


@pytest.mark.iommu_boot_mode("races")
def test_a_reader_that_is_held_for_too_long(guest: VirtualGuest) -> None:
    """A vCPU stands still where the walk has just loaded an item: no grace period ends."""
    made = command(guest, "domain d dev=edu0 stage=1")
    command(guest, f"map d {IOVA:#x} 0x900000000 4K rw")
    item = int(command(guest, f"plant d {IOVA:#x} 0 raw=0")["pa"], 0)
    command(guest, "restore d")
    path = f"{DEBUGFS}/domains/{made['id']}/page_table"
    (reader,) = guest.run([jobs.start_reader(0, path, cpu=1, rounds=0, keep=False)]).results
    assert reader.ok
    guest.gdb.attach()
    guest.gdb.set(Point.READ, LINEAR + item - guest.memory.base)
    guest.gdb.go()
    stop = guest.gdb.wait(30)
    assert stop is not None, "the reader does not come to the item"
    assert stop.cpu == 1
    guest.gdb.go([0])
    began = time.monotonic()
    with pytest.raises(KernelCrash, match="rcu-stall") as caught:
        while time.monotonic() - began < 6 * STALL:
            # A file that is closed is freed after a grace period.
            guest.run([ops.open_file(0, "/proc/version"), ops.close(0), ops.sleep(500)], timeout=60)
    assert time.monotonic() - began > STALL / 2
    assert caught.value.evidence is not None
    assert re.search(r"detected (expedited )?stalls? on CPU", caught.value.evidence.splat)


def test_a_task_that_hangs(guest: VirtualGuest) -> None:
    """Two share an open file: one stands in its own buffer with the lock of its place, which the other waits for."""
    opened, held = guest.run(
        [ops.open_file(0, f"{MODULE}/devices"), jobs.start_sharing_reader(0, 0, held=True)]
    ).results
    assert opened.ok
    assert held.ok
    while b" held=1" not in guest.run([ops.sleep(10), jobs.job_state(0)]).results[1].data:
        pass
    guest.run([jobs.start_sharing_reader(1, 0)])
    began = time.monotonic()
    with pytest.raises(KernelCrash, match="hung-task") as caught:
        while time.monotonic() - began < 6 * STALL:
            guest.run([ops.sleep(500)])
    assert caught.value.evidence is not None
    assert "task job1 reader" in caught.value.evidence.splat


def test_memory_that_nobody_knows_any_more(guest: VirtualGuest) -> None:
    """All pointers to the name of a directory are overwritten. Only a second scan is sure of it."""
    # Long enough not to be in the dentry itself, and for a slab of that size.
    name = b"leaked-" + b"x" * (SLAB - HEAD - 8)
    assert guest.run([ops.mkdir(f"/tmp/{name.decode()}")]).results[0].ok
    ram = guest.memory.read(guest.memory.base, guest.memory.size)
    lost = 0
    for found in re.finditer(name + b"\0", ram):
        lost += _forget(guest, ram, LINEAR + found.start())
    assert lost, "no pointer leads to the name"
    # It says nothing of what is younger than five seconds.
    scan = [ops.sleep(6000), ops.write_file(KMEMLEAK, b"scan")]
    with pytest.raises(KernelCrash, match=r"kmemleak: \d+ new suspected memory leaks"):
        for _ in range(3):
            guest.run(scan, timeout=120)


def _forget(guest: VirtualGuest, ram: memoryview, address: int) -> int:
    """Overwrite all pointers to a name and to the struct external_name that it stands in; their number."""
    pointers = b"|".join(re.escape(struct.pack("<Q", address - back)) for back in (0, HEAD))
    found = [at.start() for at in re.finditer(pointers, ram) if at.start() % 8 == 0]
    if not any(struct.unpack_from("<Q", ram, at)[0] == address for at in found):
        return 0
    for at in found:
        # kmemleak's own record of it has the size behind the address: by that it has to be found.
        if struct.unpack_from("<Q", ram, at + 8)[0] != SLAB:
            guest.memory.write(guest.memory.base + at, bytes(8))
    return len(found)
