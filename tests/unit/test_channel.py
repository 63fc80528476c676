# SPDX-License-Identifier: GPL-2.0-only
"""The framed channel: what it sends and reads, and what it says when the other end misbehaves."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pytest_iommu.core.protocol import Op
from pytest_iommu.guest import ops
from pytest_iommu.guest.channel import (
    BATCH,
    ERROR,
    HEAD,
    HELLO,
    MAGIC,
    MAX_FRAME,
    REPLY,
    Channel,
    ChannelClosed,
    ChannelTimeout,
    HalfFrame,
    ProtocolError,
    decode_reply,
)

HELLO_TEXT = b"protocol=1\nbuild=abc\ntaint=4096\nkernel=7.3.4\n"


def frame(kind: int, payload: bytes, seq: int = 0, magic: int = MAGIC) -> bytes:
    return HEAD.pack(magic, kind, seq, len(payload)) + payload


def reply(*results: tuple[int, bytes], taint: int = 0, kmsg: bytes = b"") -> bytes:
    body = b"".join(struct.pack("<iI", value, len(data)) + data for value, data in results)
    return struct.pack("<II", taint, len(kmsg)) + kmsg + struct.pack("<I", len(results)) + body


class Ends:
    """A channel and the agent's end of it."""

    def __init__(self) -> None:
        ours, self.agent = socket.socketpair()
        self.channel = Channel(ours)

    def close(self) -> None:
        self.channel.close()
        self.agent.close()

    def answer(self, *pieces: bytes, pause: float = 0.0, close: bool = False) -> None:
        """Send the pieces from a thread, as an agent would while the host waits; ``close``: after its batch came."""

        def send() -> None:
            if close:
                self.agent.recv(4096)
            for piece in pieces:
                with suppress(OSError):
                    self.agent.sendall(piece)
                time.sleep(pause)
            if close:
                self.agent.close()

        threading.Thread(target=send, daemon=True).start()


@pytest.fixture
def ends() -> Iterator[Ends]:
    pair = Ends()
    yield pair
    pair.close()


def test_hello_is_a_dict_of_its_lines(ends: Ends) -> None:
    ends.answer(frame(HELLO, HELLO_TEXT))
    assert ends.channel.hello(5) == {"protocol": "1", "build": "abc", "taint": "4096", "kernel": "7.3.4"}


def test_hello_joins_what_comes_several_times(ends: Ends) -> None:
    ends.answer(frame(HELLO, HELLO_TEXT + b"error=one\nerror=two=2\n"))
    assert ends.channel.hello(5)["error"] == "one\ntwo=2"


def test_hello_of_another_protocol_is_refused(ends: Ends) -> None:
    ends.answer(frame(HELLO, b"protocol=2\n"))
    with pytest.raises(ProtocolError, match="protocol 2, expected 1"):
        ends.channel.hello(5)


def test_a_batch_goes_out_in_order_and_its_results_come_back(ends: Ends) -> None:
    ends.answer(frame(REPLY, reply((3, b"abc"), (-2, b""), taint=512, kmsg=b"[ 1.0] oh\n"), seq=1))
    got = ends.channel.run([ops.read_file("/x", chunk=7), ops.close(3)], 5)
    assert [(r.value, r.data, r.ok) for r in got.results] == [(3, b"abc", True), (-2, b"", False)]
    assert (got.taint, got.kmsg) == (512, "[ 1.0] oh\n")

    sent = ends.agent.recv(4096)
    magic, kind, seq, size = HEAD.unpack_from(sent)
    assert (magic, kind, seq, size) == (MAGIC, BATCH, 1, len(sent) - HEAD.size)
    want = struct.pack("<I", 2) + struct.pack("<5I", 1, 7, 0, 2, 0) + b"/x" + struct.pack("<5I", 11, 3, 0, 0, 0)
    assert sent[HEAD.size :] == want


def test_a_reply_in_single_bytes_is_put_together(ends: Ends) -> None:
    whole = frame(REPLY, reply((1, b"x")), seq=1)
    ends.answer(*(whole[i : i + 1] for i in range(len(whole))))
    assert ends.channel.run([ops.sleep(0)], 5).results[0].data == b"x"


def test_megabytes_go_both_ways(ends: Ends) -> None:
    blob = os.urandom(5 << 20)

    def agent() -> None:
        left = HEAD.size + 4 + 20 + 4 + len(blob)
        while left:
            left -= len(ends.agent.recv(min(left, 1 << 20)))
        ends.agent.sendall(frame(REPLY, reply((len(blob), blob)), seq=1))

    threading.Thread(target=agent, daemon=True).start()
    assert ends.channel.run([ops.write_file("/tmp", blob)], 20).results[0].data == blob


def test_silence_is_a_timeout(ends: Ends) -> None:
    with pytest.raises(ChannelTimeout, match=r"0 of 16 bytes of a frame header"):
        ends.channel.hello(0.1)


def test_half_a_frame_and_then_silence_is_a_timeout(ends: Ends) -> None:
    ends.answer(frame(REPLY, b"x" * 100, seq=1)[:50])
    with pytest.raises(ChannelTimeout, match=r"34 of 100 bytes of a frame payload"):
        ends.channel.run([ops.sleep(0)], 0.2)


def test_an_agent_that_does_not_read_is_a_timeout(ends: Ends) -> None:
    with pytest.raises(ChannelTimeout, match="could not be sent"):
        ends.channel.run([ops.write_file("/x", bytes(8 << 20))], 0.2)


@pytest.mark.parametrize("cut", [1, 15, 16, 40])
def test_half_a_frame_and_then_the_end(ends: Ends, cut: int) -> None:
    ends.answer(frame(REPLY, b"x" * 100, seq=1)[:cut], close=True)
    with pytest.raises(HalfFrame, match="the stream ended after"):
        ends.channel.run([ops.sleep(0)], 5)


def test_the_end_between_frames(ends: Ends) -> None:
    ends.agent.close()
    with pytest.raises(ChannelClosed, match="is closed") as caught:
        ends.channel.hello(5)
    assert not isinstance(caught.value, HalfFrame)


def test_writing_to_a_closed_end(ends: Ends) -> None:
    ends.agent.close()
    with pytest.raises(ChannelClosed, match="is closed"):
        ends.channel.run([ops.sleep(0)], 5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (frame(REPLY, b"", seq=1, magic=0x12345678), "not a frame header"),
        (HEAD.pack(MAGIC, REPLY, 1, MAX_FRAME + 1), "not a frame header"),
        (frame(REPLY, reply((0, b"")), seq=2), "type 3, number 2"),
        (frame(HELLO, HELLO_TEXT), "it was restarted"),
        (frame(ERROR, b"malformed batch", seq=1), "the agent reports: malformed batch"),
        (frame(REPLY, reply(), seq=1), "0 results for 1 operations"),
        (frame(REPLY, b"\0" * 11, seq=1), "malformed reply"),
        (frame(REPLY, reply((0, b"")) + b"\0", seq=1), "1 bytes after the last result"),
    ],
)
def test_what_is_no_answer_is_refused(ends: Ends, answer: bytes, message: str) -> None:
    ends.answer(answer)
    with pytest.raises(ProtocolError, match=message):
        ends.channel.run([ops.sleep(0)], 5)


def test_after_an_error_the_channel_is_not_used_again(ends: Ends) -> None:
    with pytest.raises(ChannelTimeout):
        ends.channel.run([ops.sleep(0)], 0.05)
    ends.answer(frame(REPLY, reply((0, b"late")), seq=1))
    with pytest.raises(ChannelClosed, match="no longer usable: timeout"):
        ends.channel.run([ops.sleep(0)], 5)


def test_a_batch_that_is_too_large_is_not_sent(ends: Ends) -> None:
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        ends.channel.run([ops.write_file("/x", bytes(MAX_FRAME))], 5)
    ends.answer(frame(REPLY, reply((0, b"")), seq=2))
    assert ends.channel.run([ops.sleep(0)], 5).results


def test_close_twice(ends: Ends) -> None:
    ends.channel.close()
    ends.channel.close()
    with pytest.raises(ChannelClosed, match="was closed"):
        ends.channel.run([ops.sleep(0)], 5)


def test_a_result_that_is_cut_short_is_no_reply() -> None:
    with pytest.raises(ValueError, match="result 0 is truncated"):
        decode_reply(struct.pack("<III", 0, 0, 1) + struct.pack("<iI", 0, 100) + b"short")


def test_split_parallel() -> None:
    assert ops.split_parallel(b"\x01\0\0\0a\x00\0\0\0\x02\0\0\0bc") == [b"a", b"", b"bc"]
    with pytest.raises(ValueError, match="part 1 ends after 1 of 2"):
        ops.split_parallel(b"\x01\0\0\0a\x02\0\0\0b")


@pytest.mark.parametrize(
    ("value", "name"), [(0, "ok"), (7, "ok"), (-2, "ENOENT"), (-95, "EOPNOTSUPP"), (-11, "EAGAIN"), (-999, "errno 999")]
)
def test_errno_name(value: int, name: str) -> None:
    assert ops.errno_name(value) == name


@pytest.mark.parametrize(
    ("op", "code", "a", "b", "data"),
    [
        (ops.pread(5, 100, 1 << 40), 8, 5, 100, struct.pack("<q", 1 << 40)),
        (ops.lseek(5, -8, os.SEEK_END), 9, 5, 2, struct.pack("<q", -8)),
        (ops.pwrite(1, b"xy", 3), 17, 1, 0, struct.pack("<q", 3) + b"xy"),
        (ops.parallel_read("/f", chunk=1, threads=4), 13, 1, 4, b""),
        (ops.insmod("/m.ko", "a=1"), 14, 0, 0, b"a=1"),
        (ops.run("/bin/sh", "-c", "id", timeout=3), 18, 3, 0, b"-c\0id"),
        (ops.mount("none", "/mnt", "tmpfs", "size=1M", 4), 21, 0, 4, b"none\0tmpfs\0size=1M"),
        (ops.open_file(2, "/f", os.O_RDWR), 6, 2, os.O_RDWR, b""),
    ],
)
def test_constructors(op: Op, code: int, a: int, b: int, data: bytes) -> None:
    assert (op.code, op.a, op.b, op.data) == (code, a, b, data)
