# SPDX-License-Identifier: GPL-2.0-only
"""The QMP client, against a scripted QEMU at the other end of a socketpair."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.qmp import Event, Qmp, QmpError

GREETING = {"QMP": {"version": {}, "capabilities": []}}


@pytest.fixture
def ends() -> Iterator[tuple[Qmp, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Qmp(ours), theirs
    ours.close()
    theirs.close()


def say(sock: socket.socket, *messages: object) -> None:
    sock.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))


def test_a_command_greets_first(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, GREETING, {"return": {}}, {"return": {"status": "running"}})
    assert qmp.command("query-status") == {"status": "running"}
    sent = [json.loads(line) for line in qemu.recv(4096).splitlines()]
    assert [message["execute"] for message in sent] == ["qmp_capabilities", "query-status"]


def test_events_are_kept_and_not_taken_for_answers(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, GREETING, {"return": {}}, {"event": "STOP", "timestamp": {}}, {"return": {}})
    assert qmp.command("stop") == {}
    assert qmp.events == [Event("STOP")]


def test_an_event_is_waited_for(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    gone = {"event": "DEVICE_DELETED", "data": {"device": "edu6", "path": "/machine/peripheral/edu6"}}
    say(qemu, GREETING, {"return": {}}, gone, {"return": {}}, {"event": "RESUME"}, {**gone, "data": {"device": "edu7"}})
    assert qmp.command("device_del", id="edu6") == {}
    found = qmp.wait("DEVICE_DELETED", 0, device="edu7")
    assert found is not None
    assert found.data == {"device": "edu7"}
    # One that came before is not lost, and none is given twice.
    assert [qmp.wait("DEVICE_DELETED", 0.01, device="edu6") is None for _ in range(2)] == [False, True]
    assert qmp.events == [Event("RESUME")]
    qemu.close()
    with pytest.raises(QmpError):
        qmp.wait("DEVICE_DELETED", 0)


def test_an_error_says_what_qemu_says(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    say(qemu, GREETING, {"return": {}}, {"error": {"class": "GenericError", "desc": "no such thing"}})
    with pytest.raises(QmpError, match="frobnicate: no such thing"):
        qmp.command("frobnicate")


def test_silence_ends_in_time(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, _ = ends
    with pytest.raises(QmpError, match="no answer"):
        qmp.command("query-status", timeout=0.05)


def test_a_closed_connection_is_an_error(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    qemu.close()
    with pytest.raises(QmpError):
        qmp.command("query-status")
