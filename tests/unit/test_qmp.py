# SPDX-License-Identifier: GPL-2.0-only
"""The QMP client, against a scripted QEMU at the other end of a socketpair."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_iommu.guest.qmp import Qmp, QmpError, QmpEvent, QmpTimeout

GREETING = {"QMP": {"version": {}, "capabilities": []}}
READY = (GREETING, {"return": {}, "id": 1})
"""What QEMU says before it answers the first command, whose id is then 2."""


@pytest.fixture
def ends() -> Iterator[tuple[Qmp, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Qmp(ours), theirs
    ours.close()
    theirs.close()


def say(sock: socket.socket, *messages: object) -> None:
    sock.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


def heard(sock: socket.socket) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sock.recv(4096).splitlines()]


def test_a_command_greets_first(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, *READY, {"return": {"status": "running"}, "id": 2})
    assert qmp.command("query-status") == {"status": "running"}
    assert [(one["execute"], one["id"]) for one in heard(qemu)] == [("qmp_capabilities", 1), ("query-status", 2)]


def test_events_are_kept_and_not_taken_for_answers(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, *READY, {"event": "STOP", "timestamp": {}}, {"return": {}, "id": 2})
    assert qmp.command("stop") == {}
    assert qmp.events == [QmpEvent("STOP")]


def test_an_event_is_waited_for(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    gone = {"event": "DEVICE_DELETED", "data": {"device": "edu6", "path": "/machine/peripheral/edu6"}}
    more = [{"event": "RESUME"}, {**gone, "data": {"device": "edu7"}}]
    say(qemu, *READY, gone, {"return": {}, "id": 2}, *more)
    assert qmp.command("device_del", id="edu6") == {}
    found = qmp.wait("DEVICE_DELETED", 0, device="edu7")
    assert found is not None
    assert found.data == {"device": "edu7"}
    # One that came before is not lost, and none is given twice.
    assert [qmp.wait("DEVICE_DELETED", 0.01, device="edu6") is None for _ in range(2)] == [False, True]
    assert qmp.events == [QmpEvent("RESUME")]
    qemu.close()
    with pytest.raises(QmpError):
        qmp.wait("DEVICE_DELETED", 0)


def test_an_error_says_what_qemu_says(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, *READY, {"error": {"class": "GenericError", "desc": "no such thing"}, "id": 2})
    with pytest.raises(QmpError, match="frobnicate: no such thing"):
        qmp.command("frobnicate")


def test_what_qemu_does_not_understand_is_an_error(ends: tuple[Qmp, socket.socket]) -> None:
    """Its answer has no id then."""
    qmp, qemu = ends
    say(qemu, *READY, {"error": {"class": "GenericError", "desc": "JSON parse error"}})
    with pytest.raises(QmpError, match="did not understand the command: .*JSON parse error"):
        qmp.command("query-status")


def test_silence_ends_in_time(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, _ = ends
    with pytest.raises(QmpTimeout, match="no answer"):
        qmp.command("query-status", timeout=0.05)


@pytest.mark.parametrize("late", [{"return": "late"}, {"error": {"desc": "late"}}])
def test_a_late_answer_is_not_taken_for_the_next_one(ends: tuple[Qmp, socket.socket], late: dict[str, Any]) -> None:
    qmp, qemu = ends
    say(qemu, *READY)
    with pytest.raises(QmpTimeout):
        qmp.command("human-monitor-command", timeout=0.05)
    say(qemu, {**late, "id": 2}, {"return": {"status": "paused"}, "id": 3})
    assert qmp.command("query-status") == {"status": "paused"}
    say(qemu, {"return": "mine", "id": 4})
    assert qmp.monitor("info registers") == "mine"


@pytest.mark.parametrize("said", [(), (GREETING,)])
def test_a_greeting_may_come_late(ends: tuple[Qmp, socket.socket], said: tuple[object, ...]) -> None:
    qmp, qemu = ends
    say(qemu, *said)
    with pytest.raises(QmpTimeout):
        qmp.command("query-status", timeout=0.05)
    say(qemu, *READY[len(said) :], {"return": {"status": "paused"}, "id": 2})
    assert qmp.command("query-status") == {"status": "paused"}
    assert [one["execute"] for one in heard(qemu)] == ["qmp_capabilities", "query-status"]


def test_half_a_command_breaks_the_connection(ends: tuple[Qmp, socket.socket]) -> None:
    """What is sent next would be taken for its other half."""
    qmp, qemu = ends
    say(qemu, *READY)
    with pytest.raises(QmpError, match="timed out"):
        qmp.command("human-monitor-command", timeout=0.05, line="x" * (8 << 20))
    with pytest.raises(QmpError, match="query-status: a command could not be sent"):
        qmp.command("query-status")


def test_a_closed_connection_is_an_error(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    qemu.close()
    with pytest.raises(QmpError):
        qmp.command("query-status")
