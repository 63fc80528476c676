# SPDX-License-Identifier: GPL-2.0-only
"""The agent itself, built for this machine and spoken to over pipes: the same program that is a guest's init."""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import Agent

from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import ops
from pytest_iommu.guest.channel import BATCH, ERROR, HEAD, MAGIC, MAX_FRAME, ChannelClosed


def test_it_speaks_first(start: Callable[[], Agent]) -> None:
    hello = start().channel.hello(10)
    assert hello["protocol"] == "1"
    assert hello["build"] == "test"
    assert hello["kernel"] == os.uname().release
    assert hello["machine"] == os.uname().machine
    assert int(hello["page_size"]) == os.sysconf("SC_PAGESIZE")
    assert int(hello["taint"]) >= 0


def test_it_ends_with_its_stream(agent: Agent) -> None:
    agent.channel.close()
    assert agent.process.wait(5) == 0


def test_an_empty_batch(agent: Agent) -> None:
    assert agent.run() == ()


def test_read_file_in_chunks_and_with_a_limit(agent: Agent, tmp_path: Path) -> None:
    blob = os.urandom(300_000)
    path = tmp_path / "blob"
    path.write_bytes(blob)
    whole, pieces, cut, missing = agent.run(
        ops.read_file(str(path)),
        ops.read_file(str(path), chunk=7),
        ops.read_file(str(path), chunk=1000, limit=2500),
        ops.read_file(str(tmp_path / "none")),
    )
    assert whole == Result(len(blob), blob)
    assert pieces == whole
    assert cut == Result(3000, blob[:3000])
    assert missing == Result(-errno.ENOENT)


def test_a_read_error_is_reported(agent: Agent, tmp_path: Path) -> None:
    assert agent.run(ops.read_file(str(tmp_path)))[0].value == -errno.EISDIR


def test_write_file_does_not_create(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert agent.run(ops.write_file(str(path), b"x"))[0].value == -errno.ENOENT
    path.touch()
    assert agent.run(ops.write_file(str(path), b"hello"))[0].value == 5
    assert path.read_bytes() == b"hello"


def test_list_stat_and_readlink(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"123")
    (tmp_path / "a").mkdir()
    (tmp_path / "c").symlink_to("b")
    os.chmod(tmp_path / "b", 0o400)
    listed, status, link, target, none = agent.run(
        ops.list_directory(str(tmp_path)),
        ops.stat(str(tmp_path / "b")),
        ops.stat(str(tmp_path / "c")),
        ops.readlink(str(tmp_path / "c")),
        ops.list_directory(str(tmp_path / "z")),
    )
    assert listed == Result(3, b"a/\nb\nc@")
    assert status.value == stat.S_IFREG | 0o400
    assert status.data.decode().split() == [str(os.getuid()), str(os.getgid()), "3", "1"]
    assert stat.S_ISLNK(link.value)
    assert target == Result(1, b"b")
    assert none.value == -errno.ENOENT


def test_an_open_file_outlives_its_batch(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    opened, first = agent.run(ops.open_file(3, str(path), os.O_RDWR), ops.read(3, 4))
    assert (opened.value, first.data) == (0, b"0123")
    second, at, sought, pread, wrote, pwrote, busy = agent.run(
        ops.read(3, 2),
        ops.lseek(3, -1, os.SEEK_END),
        ops.read(3, 100),
        ops.pread(3, 3, 2),
        ops.write(3, b"X"),
        ops.pwrite(3, b"YY", 1),
        ops.open_file(3, str(path)),
    )
    assert second.data == b"45"
    assert ops.split_offset(at.data) == 9
    assert sought.data == b"9"
    assert pread.data == b"234"
    assert (wrote.value, pwrote.value, busy.value) == (1, 2, -errno.EBUSY)
    assert [r.value for r in agent.run(ops.close(3), ops.close(3), ops.read(3, 1))] == [0, -errno.EBADF, -errno.EBADF]
    assert path.read_bytes() == b"0YY3456789X"


def test_slots_are_bounded(agent: Agent) -> None:
    results = agent.run(ops.open_file(64, "/dev/null"), ops.read(1 << 31, 1), ops.close(0xFFFFFFFF))
    assert [r.value for r in results] == [-errno.EBADF] * 3


def test_all_slots_are_closed_at_once(agent: Agent) -> None:
    opened = [ops.open_file(slot, "/dev/null") for slot in (0, 7, 63)]
    results = agent.run(*opened, ops.close(7), ops.close_all(), ops.close_all(), ops.open_file(63, "/dev/null"))
    assert [r.value for r in results[4:]] == [2, 0, 0]


def test_ioctl(agent: Agent) -> None:
    results = agent.run(ops.open_file(0, "/dev/null"), ops.ioctl(0, 0x5401), ops.close(0))
    assert [r.value for r in results] == [0, -errno.ENOTTY, 0]


def test_parallel_read(agent: Agent, tmp_path: Path) -> None:
    blob = os.urandom(100_000)
    (tmp_path / "f").write_bytes(blob)
    good, missing, none, many = agent.run(
        ops.parallel_read(str(tmp_path / "f"), chunk=4096, threads=5),
        ops.parallel_read(str(tmp_path / "g"), threads=2),
        ops.parallel_read(str(tmp_path / "f"), threads=0),
        ops.parallel_read(str(tmp_path / "f"), threads=65),
    )
    assert good.value == 5
    assert ops.split_parallel(good.data) == [blob] * 5
    assert (missing.value, ops.split_parallel(missing.data)) == (-errno.ENOENT, [b"", b""])
    assert (none.value, many.value) == (-errno.EINVAL, -errno.EINVAL)


def test_run_a_program(agent: Agent) -> None:
    told, killed, missing = agent.run(
        ops.run("/bin/sh", "-c", "echo out; echo err >&2; exit 3"),
        ops.run("/bin/sh", "-c", "kill -9 $$"),
        ops.run("/no/such/program"),
    )
    slow = ended_late(agent, "echo begun; sleep 300")
    assert told == Result(3, b"out\nerr\n")
    assert killed.value == 128 + 9
    assert missing.value == 127
    assert slow == Result(-errno.ETIMEDOUT, b"begun\n")


def ended_late(agent: Agent, script: str, stream: bool = False) -> Result:
    """What a script comes to that does not end in time; on a busy machine it gets more, until it has said something."""
    for seconds in (1, 4, 16):
        (found,) = agent.run(ops.run("/bin/sh", "-c", script, timeout=seconds, stream=stream))
        if found.data:
            break
    return found


def test_what_a_program_streams_is_there_before_it_ends(agent: Agent, tmp_path: Path) -> None:
    """It goes on when what it has said so far was seen."""
    seen = tmp_path / "seen"
    looked: list[bytes] = []

    def look() -> None:
        looked.append(agent.channel.output)
        if looked[-1] == b"one\ntwo\n":
            seen.touch()

    script = f"echo one; echo two >&2; until [ -e {seen} ]; do sleep 0.01; done; printf three; exit 3"
    batch = [ops.sleep(0), ops.run("/bin/sh", "-c", script, stream=True), ops.run("/bin/echo", "four", stream=True)]
    reply = agent.channel.run(batch, 60, look)
    assert [(one.value, one.data) for one in reply.results] == [(0, b""), (3, b"one\ntwo\nthree"), (0, b"four\n")]
    assert b"one\ntwo\n" in looked
    assert agent.run(ops.sleep(0))[0].ok


def test_what_a_program_has_streamed_outlives_the_agent(agent: Agent) -> None:
    with pytest.raises(ChannelClosed, match="the agent's end is closed"):
        agent.run(ops.run("/bin/sh", "-c", "echo begun; printf half; kill -9 $PPID", stream=True))
    assert agent.channel.output == b"begun\nhalf"


def test_a_program_that_streams_leaves_nobody_behind_who_could_write(agent: Agent) -> None:
    child = (
        "import os, time\nif os.fork() == 0:\n os.setpgid(0, 0)\n time.sleep(0.3)\n while 1: print('late', flush=True)"
    )
    quick, missing = agent.run(
        ops.run(sys.executable, "-c", child, stream=True), ops.run("/no/such/program", stream=True)
    )
    killed = ended_late(agent, "(while :; do echo x; sleep 0.1; done) & sleep 300", stream=True)
    assert (quick.value, quick.data) == (0, b"")
    assert killed.value == -errno.ETIMEDOUT
    assert set(killed.data.split()) == {b"x"}
    assert (missing.value, missing.data) == (127, b"")
    time.sleep(0.5)
    assert agent.run(ops.sleep(0))[0].ok


def test_a_program_can_be_put_there_and_run(agent: Agent, tmp_path: Path) -> None:
    path = str(tmp_path / "program")
    *_, ran = agent.run(
        ops.open_file(9, path, os.O_CREAT | os.O_WRONLY),
        ops.write(9, b"#!/bin/sh\necho $1\n"),
        ops.close(9),
        ops.run(path, "said"),
    )
    assert ran == Result(0, b"said\n")


def test_mkdir_and_sleep(agent: Agent, tmp_path: Path) -> None:
    start = time.monotonic()
    results = agent.run(ops.mkdir(str(tmp_path / "d"), 0o700), ops.mkdir(str(tmp_path / "d")), ops.sleep(50))
    assert [r.value for r in results] == [0, -errno.EEXIST, 0]
    assert time.monotonic() - start >= 0.05


def test_it_does_not_power_off_somebody_s_machine(agent: Agent) -> None:
    assert agent.run(ops.poweroff())[0].value == -errno.EPERM


def test_an_unknown_operation_does_not_stop_the_batch(agent: Agent) -> None:
    results = agent.run(Op(0), Op(max(ops.Code) + 1), Op(0xFFFFFFFF), ops.sleep(0))
    assert [r.value for r in results] == [-errno.ENOSYS] * 3 + [0]


def test_what_does_not_fit_a_frame_says_so_and_the_rest_comes(agent: Agent) -> None:
    huge, small = agent.run(ops.read_file("/dev/zero"), ops.sleep(0))
    assert (huge.value, huge.data) == (-errno.EMSGSIZE, b"")
    assert small.value == 0


def test_a_path_with_a_zero_or_odd_bytes_is_only_a_path(agent: Agent) -> None:
    assert agent.run(ops.stat("/tmp\0/x"))[0].ok
    assert agent.run(ops.stat("/\udce9".encode("utf-8", "surrogatepass").decode("latin1")))[0].value == -errno.ENOENT


def raw(agent: Agent, data: bytes) -> tuple[int, bytes]:
    """Send bytes past the channel's own checks and take one frame."""
    os.set_blocking(agent.write_fd, True)
    os.set_blocking(agent.read_fd, True)
    os.write(agent.write_fd, data)
    head = os.read(agent.read_fd, HEAD.size)
    _, kind, _, size = HEAD.unpack(head)
    return kind, os.read(agent.read_fd, size)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("<I", 1),
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", 1) + struct.pack("<5I", 1, 0, 0, 0xFFFFFFFF, 0),
        struct.pack("<I", 1) + struct.pack("<5I", 1, 0, 0, 2, 0xFFFFFFFE) + b"/x",
        struct.pack("<I", 0) + b"x",
    ],
)
def test_a_malformed_batch_is_refused_and_the_next_one_runs(agent: Agent, payload: bytes) -> None:
    kind, text = raw(agent, HEAD.pack(MAGIC, BATCH, 9, len(payload)) + payload)
    assert (kind, text) == (ERROR, b"malformed batch")
    os.set_blocking(agent.read_fd, False)
    assert agent.run(ops.sleep(0))[0].value == 0


@pytest.mark.parametrize("head", [HEAD.pack(0x31313131, BATCH, 1, 0), HEAD.pack(MAGIC, BATCH, 1, MAX_FRAME + 1)])
def test_a_stream_out_of_step_is_ended(agent: Agent, head: bytes) -> None:
    assert raw(agent, head) == (ERROR, b"not a frame: bad magic or length")
    assert agent.process.wait(5) == 0


def test_a_killed_agent_is_a_closed_channel(agent: Agent) -> None:
    agent.process.kill()
    with pytest.raises(ChannelClosed):
        agent.run(ops.sleep(1000))
