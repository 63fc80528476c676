# SPDX-License-Identifier: GPL-2.0-only
"""A guest's memory from outside, with a memfd of our own for RAM and nobody at the other end of qtest."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pytest_iommu.core.outcomes import GuestLost
from pytest_iommu.core.protocol import Memory, OutsideMemory
from pytest_iommu.guest.memory import GuestMemory
from pytest_iommu.guest.qtest import Qtest
from pytest_iommu.targets.qemu import memory_file

BASE, SIZE = 0x40000000, 1 << 20


@pytest.fixture
def ram() -> Iterator[int]:
    fd = memory_file("ram", SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def memory(ram: int) -> Iterator[GuestMemory]:
    ours, theirs = socket.socketpair()
    theirs.close()
    made = GuestMemory(ram, BASE, SIZE, Qtest(ours), lambda cause: GuestLost(f"lost: {cause}"))
    yield made
    made.close()


def test_it_is_what_the_protocol_says(memory: GuestMemory) -> None:
    used: Memory = memory
    assert len(used.read(BASE, 0)) == 0


def test_ram_is_seen_as_it_changes(memory: GuestMemory, ram: int) -> None:
    view = memory.read(BASE + 0x1000, 8)
    os.pwrite(ram, b"ABCDEFGH", 0x1000)
    assert view == b"ABCDEFGH"
    memory.write(BASE + 0x1002, b"xy")
    assert os.pread(ram, 8, 0x1000) == b"ABxyEFGH"


@pytest.mark.parametrize(
    ("address", "size"),
    [(BASE - 1, 1), (BASE - 1, 2), (BASE + SIZE, 1), (BASE + SIZE - 1, 2), (0, 8), (BASE, -1), (BASE, SIZE + 1)],
)
def test_what_is_not_all_ram_is_refused(memory: GuestMemory, address: int, size: int) -> None:
    with pytest.raises(OutsideMemory, match=r"outside RAM, 0x40000000 to 0x400fffff"):
        memory.read(address, size)
    if size > 0:
        with pytest.raises(OutsideMemory):
            memory.write(address, bytes(size))


def test_the_whole_of_it_can_be_read(memory: GuestMemory) -> None:
    assert len(memory.read(BASE, SIZE)) == SIZE
    assert len(memory.read(BASE + SIZE, 0)) == 0


def test_a_register_of_a_qemu_that_went_away(memory: GuestMemory) -> None:
    with pytest.raises(GuestLost, match="lost: readl 0x9050000"):
        memory.register(0x09050000)
    with pytest.raises(GuestLost, match="lost: writeq 0x9050000 0x1"):
        memory.set_register(0x09050000, 1, 8)
    with pytest.raises(ValueError, match="aligned"):
        memory.register(0x09050001)


def test_closing_gives_the_memory_back_though_views_are_left(ram: int) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair()
    theirs.close()
    memory = GuestMemory(ram, BASE, SIZE, Qtest(ours), GuestLost)
    memory.write(BASE, b"x" * SIZE)
    left = memory.read(BASE, 4096).cast("Q")
    assert os.fstat(ram).st_blocks
    memory.close()
    assert os.fstat(ram).st_blocks == 0
    assert left[0] == 0
    left.release()
    del memory
    assert sorted(os.listdir("/proc/self/fd")) == before
