# SPDX-License-Identifier: GPL-2.0-only
"""The QMP client, against a scripted QEMU at the other end of a socketpair."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from pytest_iommu.guest.qmp import Qmp, QmpError

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
    assert qmp.events == ["STOP"]


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
