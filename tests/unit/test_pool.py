# SPDX-License-Identifier: GPL-2.0-only
"""The pool of live guests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import IommuError, KernelCrash, NoGuest, SetupError
from pytest_iommu.core.protocol import Evidence, Op, Reply
from pytest_iommu.session.pool import Pool

PLAIN, DEBUG, OTHER = Key("smmuv3", "plain"), Key("smmuv3", "debug"), Key("vtd", "plain")


class FakeGuest:
    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = self.closed = False

    def run(self, ops: Sequence[Op], timeout: float = 10.0) -> Reply:
        return Reply(())

    def pause(self) -> None:
        self.paused = True

    def close(self) -> None:
        self.closed = True

    def evidence(self) -> Evidence:
        return Evidence()


class Bench:
    """A pool whose guests are fakes; ``errors`` are raised by the next starts."""

    def __init__(self) -> None:
        self.guests: list[FakeGuest] = []
        self.errors: list[IommuError] = []
        self.lost: list[tuple[str, str]] = []
        self.starts = 0
        self.pool = Pool(self.start, lambda guest: None, lambda guest, why: self.lost.append((guest.name, why)))

    def start(self, key: Key) -> FakeGuest:
        self.starts += 1
        if self.errors:
            raise self.errors.pop(0)
        self.guests.append(FakeGuest(str(key)))
        return self.guests[-1]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_guest_is_reused(bench: Bench) -> None:
    assert bench.pool.take(PLAIN) is bench.pool.take(PLAIN)
    assert bench.starts == 1


def test_fresh_is_a_new_one_and_the_old_one_is_closed(bench: Bench) -> None:
    old = bench.pool.take(PLAIN)
    assert bench.pool.take(PLAIN, fresh=True) is not old
    assert bench.guests[0].closed


def test_two_live_and_the_least_recently_used_goes(bench: Bench) -> None:
    bench.pool.take(PLAIN)
    bench.pool.take(DEBUG)
    bench.pool.take(PLAIN)
    bench.pool.take(OTHER)
    assert [(guest.name, guest.closed) for guest in bench.guests] == [
        ("smmuv3/plain", False),
        ("smmuv3/debug", True),
        ("vtd/plain", False),
    ]


@pytest.mark.parametrize(("room", "live"), [(True, ["e", "f", "g", "h"]), (False, ["g", "h"])])
def test_more_are_kept_where_there_is_memory(bench: Bench, room: bool, live: list[str]) -> None:
    bench.pool = Pool(bench.start, lambda guest: None, lambda guest, why: None, lambda: room)
    for machine in "defgh":
        bench.pool.take(Key(machine, "plain"))
    assert [guest.name.partition("/")[0] for guest in bench.guests if not guest.closed] == live


def test_a_guest_is_paused_while_another_boots(bench: Bench) -> None:
    bench.pool.take(PLAIN)
    bench.pool.take(DEBUG)
    assert bench.guests[0].paused


def test_a_discarded_guest_is_closed_and_told_about(bench: Bench) -> None:
    guest = bench.pool.take(PLAIN)
    bench.pool.discard(guest, "it crashed")
    assert bench.guests[0].closed
    assert bench.lost == [("smmuv3/plain", "it crashed")]
    assert bench.pool.take(PLAIN) is not guest


def test_a_boot_that_ends_badly_is_tried_twice(bench: Bench) -> None:
    bench.errors = [KernelCrash("panic")]
    bench.pool.take(PLAIN)
    assert bench.starts == 2


def test_a_set_up_that_is_broken_is_not_tried_again(bench: Bench) -> None:
    bench.errors = [SetupError("no QEMU", Evidence(command="qemu"))]
    with pytest.raises(NoGuest, match=r"^no guest of smmuv3/plain: no QEMU$"):
        bench.pool.take(PLAIN)
    with pytest.raises(NoGuest, match=r"^no guest of smmuv3/plain: no QEMU$") as second:
        bench.pool.take(PLAIN)
    assert bench.starts == 1
    assert second.value.evidence == Evidence(command="qemu")


@pytest.mark.parametrize("error", [ValueError("a plugin's mistake"), SetupError("not this one"), KeyboardInterrupt()])
def test_a_guest_that_somebody_objects_to_is_closed(bench: Bench, error: BaseException) -> None:
    def object_to(guest: object) -> None:
        raise error

    pool = Pool(bench.start, object_to, lambda guest, why: None)
    with pytest.raises(type(error)):
        pool.take(PLAIN)
    assert [guest.closed for guest in bench.guests] == [True]
    assert pool.live(PLAIN) is None


def test_a_lost_guest_is_closed_whatever_is_said_to_it(bench: Bench) -> None:
    def fail(guest: object, why: str) -> None:
        raise ValueError("a plugin's mistake")

    pool = Pool(bench.start, lambda guest: None, fail)
    guest = pool.take(PLAIN)
    with pytest.raises(ValueError, match="a plugin's mistake"):
        pool.discard(guest, "it crashed")
    assert bench.guests[0].closed
    assert pool.take(PLAIN) is not guest


def test_close_ends_the_others_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.pool.take(PLAIN)
    bench.pool.take(DEBUG)

    def fail() -> None:
        raise OSError("it does not end")

    monkeypatch.setattr(bench.guests[1], "close", fail)
    with pytest.raises(OSError, match="it does not end"):
        bench.pool.close()
    assert bench.guests[0].closed


def test_close_ends_all(bench: Bench) -> None:
    bench.pool.take(PLAIN)
    bench.pool.take(DEBUG)
    bench.pool.close()
    assert all(guest.closed for guest in bench.guests)
