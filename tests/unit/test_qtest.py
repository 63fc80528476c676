# SPDX-License-Identifier: GPL-2.0-only
"""The qtest client, against a scripted QEMU at the other end of a socketpair."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.qtest import Qtest, QtestError


@pytest.fixture
def ends() -> Iterator[tuple[Qtest, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Qtest(ours, timeout=0.2), theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("size", "word"), [(1, "readb"), (2, "readw"), (4, "readl"), (8, "readq")])
def test_a_register_is_read_as_one_access(ends: tuple[Qtest, socket.socket], size: int, word: str) -> None:
    qtest, qemu = ends
    qemu.sendall(b"OK 0x000000000d44101b\n")
    assert qtest.read(0x09050080, size) == 0x0D44101B
    assert qemu.recv(100) == f"{word} 0x9050080\n".encode()


def test_a_register_is_written(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    qemu.sendall(b"OK\n")
    qtest.write(0x1000, 0xFFFF, 2)
    assert qemu.recv(100) == b"writew 0x1000 0xffff\n"


def test_an_answer_may_come_in_pieces_and_between_interrupts(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    qemu.sendall(b"IRQ raise 3\nIRQ lower 3\nOK 0x1\nOK 0x2\n")
    assert [qtest.read(0, 4), qtest.read(0, 4)] == [1, 2]


def test_a_refusal_says_what_qemu_says(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    qemu.sendall(b"FAIL Unknown command 'readl'\nOK 0x2\n")
    with pytest.raises(QtestError, match="readl 0x0: FAIL Unknown command"):
        qtest.read(0, 4)
    assert qtest.read(0, 4) == 2


def test_after_a_silence_no_late_answer_is_taken(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    with pytest.raises(QtestError, match="readl 0x0: no answer from QEMU: timed out"):
        qtest.read(0, 4)
    qemu.sendall(b"OK 0x1\n")
    with pytest.raises(QtestError, match="readl 0x8: no answer"):
        qtest.read(8, 4)


def test_a_closed_connection_is_an_error(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    qemu.close()
    with pytest.raises(QtestError):
        qtest.read(0, 4)
    qtest.close()
    with pytest.raises(QtestError):
        qtest.write(0, 0, 4)


def test_what_is_no_register_access_is_refused_here(ends: tuple[Qtest, socket.socket]) -> None:
    qtest, qemu = ends
    for address, size in ((0, 3), (0, 16), (2, 4), (4, 8)):
        with pytest.raises(ValueError, match="aligned"):
            qtest.read(address, size)
    for value in (-1, 1 << 32):
        with pytest.raises(ValueError, match="fit"):
            qtest.write(0, value, 4)
    qemu.setblocking(False)
    with pytest.raises(BlockingIOError):
        qemu.recv(1)
