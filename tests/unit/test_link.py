# SPDX-License-Identifier: GPL-2.0-only
"""The link over a bad line, both ends in Python: what goes in comes out, once and in order, whatever the line does."""

from __future__ import annotations

import random

import pytest
from bad_line import Damage, Noise

from pytest_iommu.guest.console import scan
from pytest_iommu.guest.link import ACK, AGAIN, DATA, END, PIECE, WINDOW, Console, Line, Link, decode, encode

SESSION = b"1f3a"
KERNEL = (
    b"[   12.345678] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008\r\n",
    b"[   12.345680] Mem abort info:\r\n",
    b"[   12.345684]   ESR = 0x0000000096000004, about ~5 of them = many\r\n",
)
NOISES = [
    Noise(),
    Noise(lost=1 / 300),
    Noise(garbled=1 / 300),
    Noise(doubled=1 / 300),
    Noise(lost=1 / 900, garbled=1 / 900, doubled=1 / 900),
]


class Wire:
    """Two ends, a clock that only goes on when nothing else does, and a kernel that prints into what goes back."""

    def __init__(self, noise: Noise, seed: int, kernel: tuple[bytes, ...] = ()) -> None:
        self.host, self.board = Link(SESSION, 1.0), Link(SESSION, 1.0)
        self.there, self.back = Damage(noise, seed), Damage(noise, seed + 1)
        self.now = 0.0
        self._kernel = list(kernel)
        self._random = random.Random(seed)

    def exchange(self) -> None:
        """What is to be written, one way and the other."""
        self.now += 0.01
        there, back = bytes(self.host.out), bytes(self.board.out)
        self.host.out.clear()
        self.board.out.clear()
        if not there and not back:
            self.now += 1.0
        if back and self._kernel and self._random.random() < 0.7:
            at = self._random.randrange(len(back))
            back = back[:at] + self._kernel.pop(0) + back[at:]
        self.board.feed(self.there(there), self.now)
        self.host.feed(self.back(back), self.now)
        self.host.tick(self.now)
        self.board.tick(self.now)


def send_all(wire: Wire, to_board: bytes, to_host: bytes) -> None:
    """Send both, and their ends, until both are there."""
    left = {wire.host: to_board, wire.board: to_host}
    ended: set[Link] = set()
    for _ in range(200_000):
        for end in left:
            while end.room and left[end]:
                end.send(left[end][:PIECE], wire.now)
                left[end] = left[end][PIECE:]
            if end.room and end not in ended and not left[end]:
                end.send(b"0", wire.now, END)
                ended.add(end)
        wire.exchange()
        if wire.host.ended and wire.board.ended and wire.host.idle and wire.board.idle:
            return
    raise AssertionError("it does not get there")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_all_arrives_once_and_in_order(noise: Noise, seed: int) -> None:
    wire, draw = Wire(noise, seed, KERNEL * 5), random.Random(seed)
    to_board, to_host = draw.randbytes(8_000), draw.randbytes(16_000)
    send_all(wire, to_board, to_host)
    assert bytes(wire.board.received) == to_board
    assert bytes(wire.host.received) == to_host
    assert wire.host.last == b"0"
    damaged = noise != Noise()
    assert (wire.there.damaged > 5) is damaged


@pytest.mark.parametrize("seed", range(40))
def test_what_the_kernel_says_comes_out_as_it_went_in(seed: int) -> None:
    """On a line that damages nothing, wherever the kernel breaks a line of ours."""
    wire = Wire(Noise(), seed, KERNEL)
    send_all(wire, b"", random.Random(seed).randbytes(20_000))
    assert bytes(wire.host.console.text) == b"".join(KERNEL)
    splat = scan(wire.host.console.text.decode().replace("\r\n", "\n"))
    assert splat is not None
    assert splat.kind == "oops"


def test_a_line_the_kernel_broke_in_two_is_put_together() -> None:
    console = Console(SESSION)
    whole = encode(SESSION, DATA, 7, 3, b"payload")
    broken = whole[:20] + KERNEL[0] + KERNEL[1] + whole[20:]
    assert console.feed(broken) == [Line(SESSION, DATA, 7, 3, b"payload")]
    assert bytes(console.text) == KERNEL[0] + KERNEL[1]
    assert console.broken == 0


@pytest.mark.parametrize("at", range(1, 60))
def test_a_line_that_was_cut_leaves_no_rest(at: int) -> None:
    whole = encode(SESSION, DATA, 1, 0, bytes(range(30)))
    lost = whole[:at] + whole[at + 1 :]
    console = Console(SESSION)
    found = console.feed(lost + encode(SESSION, ACK) + b"[    1.000000] after\r\n")
    assert [line.kind for line in found][-1:] == [ACK]
    text = bytes(console.text)
    # Within the marker it cannot be told from a line of somebody else; else nothing of it is left.
    assert text.endswith(b"[    1.000000] after\r\n")
    assert at < 5 or text == b"[    1.000000] after\r\n"


def test_lines_of_another_session_are_not_taken() -> None:
    link = Link(SESSION, 1.0)
    link.feed(encode(b"0000", DATA, 0, 0, b"old"), 0.0)
    assert (bytes(link.received), link.heard, bytes(link.out)) == (b"", None, b"")


def test_a_hole_is_complained_of_once() -> None:
    link = Link(SESSION, 1.0)
    for number in (1, 2, 3):
        link.feed(encode(SESSION, DATA, number, 0, b"x"), 0.5)
    assert bytes(link.out) == encode(SESSION, AGAIN)
    link.feed(encode(SESSION, DATA, 4, 0, b"x"), 2.0)
    assert bytes(link.out) == encode(SESSION, AGAIN) * 2, "the complaint may have been lost"
    assert not link.received


def test_no_more_goes_than_fits_the_window() -> None:
    link = Link(SESSION, 1.0)
    for _ in range(WINDOW):
        assert link.room
        link.send(b"x", 0.0)
    assert not link.room
    link.feed(encode(SESSION, ACK, 0, 3), 0.0)
    assert link.room


def test_nothing_is_sent_again_while_the_line_is_not_free() -> None:
    link = Link(SESSION, 1.0)
    link.send(b"x", 0.0)
    link.tick(5.0)
    assert link.again == 0
    link.out.clear()
    link.tick(5.9)
    assert link.again == 0
    link.tick(6.0)
    assert link.again == 1


@pytest.mark.parametrize("text", [b"", b"1f3aD00000000", b"1f3aD00000000zzzzzzzz", b"1f3aD00000000A===00000000"])
def test_what_is_no_line(text: bytes) -> None:
    assert decode(text) is None


def test_what_has_begun_is_the_consoles_in_the_end() -> None:
    console = Console(SESSION)
    assert console.feed(b"[    1.000000] Kernel panic - not sync") == []
    console.finish()
    assert bytes(console.text) == b"[    1.000000] Kernel panic - not sync"
