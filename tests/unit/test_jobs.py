# SPDX-License-Identifier: GPL-2.0-only
"""The agent's jobs, by an agent on this machine."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import termios
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import Agent, pid_of

from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Signal

SECOND = 1_000_000_000


def run_job(agent: Agent, started: Op, milliseconds: int = 10_000) -> Result:
    first, second = agent.run(started, jobs.wait_job(started.a, milliseconds))
    assert first.value == 0, ops.errno_name(first.value)
    return second


def until(what: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@pytest.fixture
def fifo(agent: Agent, tmp_path: Path) -> Path:
    """A pipe by name: who opens it sleeps in the kernel until somebody opens the other end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def unread(fd: int) -> int:
    """Bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_reader_s_reads_in_rounds(agent: Agent, tmp_path: Path) -> None:
    blob = os.urandom(2500)
    (tmp_path / "f").write_bytes(blob)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    done = run_job(agent, jobs.start_reader(0, str(tmp_path / "f"), chunk=1000, rounds=3))
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    reads = jobs.split_reads(done.data)
    assert done.value == 7500
    assert [(r.round, r.value) for r in reads] == [(n, v) for n in range(3) for v in (1000, 1000, 500, 0)]
    for number in range(3):
        assert b"".join(r.data for r in reads if r.round == number) == blob
    times = [t for r in reads for t in (r.begin, r.end)]
    assert times == sorted(times)
    assert before < times[0]
    assert times[-1] < after


def test_a_chunk_of_0_is_64_kib(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(65537))
    reads = jobs.split_reads(run_job(agent, jobs.start_reader(0, str(tmp_path / "f"))).data)
    assert [r.value for r in reads] == [65536, 1, 0]


def test_a_job_is_gone_with_its_result(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    run_job(agent, jobs.start_reader(5, str(tmp_path / "f")))
    results = agent.run(
        jobs.wait_job(5, 0), jobs.job_state(5), jobs.signal_job(5, Signal.GO), jobs.signal_job(5, Signal.KILL)
    )
    assert [r.value for r in results] == [-errno.ESRCH] * 4
    assert run_job(agent, jobs.start_reader(5, str(tmp_path / "f"))).value == 1


def test_errors_of_open_read_and_room(agent: Agent, tmp_path: Path) -> None:
    missing = run_job(agent, jobs.start_reader(0, str(tmp_path / "none")))
    assert (missing.value, jobs.split_reads(missing.data)) == (-errno.ENOENT, [])
    # Nothing is mapped at address 0.
    unread = run_job(agent, jobs.start_reader(0, "/proc/self/mem"))
    assert unread.value == -errno.EIO
    assert [(r.value, r.data) for r in jobs.split_reads(unread.data)] == [(-errno.EIO, b"")]
    endless = run_job(agent, jobs.start_reader(0, "/dev/zero", chunk=1 << 20))
    assert endless.value == -errno.EMSGSIZE
    assert [len(r.data) for r in jobs.split_reads(endless.data)] == [1 << 20] * 40
    many = run_job(agent, jobs.start_reader(0, "/dev/zero", chunk=1, keep=False))
    assert many.value == -errno.EMSGSIZE
    assert jobs.split_digest(many.data).bytes == 1 << 19


def test_a_directory_is_read_by_its_entries(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "named-like-no-other").touch()
    directory = run_job(agent, jobs.start_reader(0, str(tmp_path)))
    first, end = jobs.split_reads(directory.data)
    assert directory.value == first.value > 0
    assert b"named-like-no-other\0" in first.data
    assert end.value == 0


def test_numbers_are_bounded_and_taken_once(agent: Agent, fifo: Path) -> None:
    results = agent.run(
        jobs.start_reader(16, "/dev/null"),
        jobs.start_spinner(1 << 31, 0),
        jobs.wait_job(16, 0),
        jobs.signal_job(0xFFFFFFFF, Signal.STOP),
        jobs.start_reader(15, str(fifo)),
        jobs.start_reader(15, "/dev/null"),
        jobs.start_writer(15, "/dev/null", b"x"),
        Op(ops.Code.SIGNAL_JOB, 15, 9),
        jobs.start_reader(14, "/dev/null", cpu=1000),
        jobs.start_reader(14, "/dev/null", cpu=2000),
        Op(ops.Code.START_READER, 14, 0, "/dev/null", b"short"),
    )
    assert [r.value for r in results[:4]] == [-errno.EBADF] * 4
    assert [r.value for r in results[4:8]] == [0, -errno.EBUSY, -errno.EBUSY, -errno.EINVAL]
    assert [r.value for r in results[8:]] == [-errno.EINVAL] * 3
    # what could not start has not taken its number
    assert run_job(agent, jobs.start_reader(14, "/dev/null")).value == 0


def test_the_digest_is_of_all_rounds(agent: Agent, tmp_path: Path) -> None:
    blob = b"line\n" * 30_000 + os.urandom(1000)
    (tmp_path / "f").write_bytes(blob)
    done = run_job(agent, jobs.start_reader(0, str(tmp_path / "f"), rounds=2, keep=False))
    digest = jobs.split_digest(done.data)
    assert done.value == digest.bytes == 2 * len(blob)
    assert digest.lines == 2 * blob.count(b"\n")
    assert digest.crc32 == zlib.crc32(blob * 2)
    assert sum(r.value for r in digest.reads) == digest.bytes
    empty = jobs.split_digest(run_job(agent, jobs.start_reader(0, "/dev/null", keep=False)).data)
    assert (empty.bytes, empty.lines, empty.crc32) == (0, 0, 0)


def test_a_writer_writes_once(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert run_job(agent, jobs.start_writer(0, str(path), b"x")).value == -errno.ENOENT
    path.touch()
    blob = os.urandom(300_000)
    done = run_job(agent, jobs.start_writer(0, str(path), blob))
    (call,) = jobs.split_calls(done.data)
    assert done.value == call.value == len(blob)
    assert 0 < call.begin < call.end
    assert path.read_bytes() == blob
    refused = run_job(agent, jobs.start_writer(0, "/dev/full", b"x"))
    assert refused.value == -errno.ENOSPC


def test_rounds_are_awaited(agent: Agent, tmp_path: Path) -> None:
    """Reader and writer go on until each has done rounds that began after the other had begun."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    started, read, writing, wrote, again, late = agent.run(
        jobs.start_reader(0, str(path), rounds=0),
        jobs.await_rounds([0], 0, 60000),
        jobs.start_writer(1, str(path), b"y", rounds=0),
        jobs.await_rounds([1], 2, 60000),
        jobs.await_rounds([0, 1], 3, 60000),
        jobs.await_rounds([0, 2], 1, 0),
    )
    assert started.ok
    assert writing.ok
    assert read.value >= 1
    assert wrote.value >= 3
    assert again.value >= min(read.value, wrote.value) + 3
    assert late.value == -errno.ESRCH
    stops = [jobs.signal_job(number, Signal.STOP) for number in range(2)]
    _, _, reader, writer = agent.run(*stops, jobs.wait_job(0, 60000), jobs.wait_job(1, 60000))
    rounds = [call.round for call in jobs.split_calls(writer.data)]
    assert rounds == list(range(len(rounds)))
    assert len(rounds) >= wrote.value
    begin, end = jobs.split_calls(writer.data)[0].begin, jobs.split_calls(writer.data)[-1].end
    assert any(begin < one.begin and one.end < end for one in jobs.split_reads(reader.data))


def test_a_job_without_end_does_not_run_out_before_the_other_begins(agent: Agent, tmp_path: Path) -> None:
    """Its rounds become slow where half of its room is used: whoever is to overlap with it may be late."""
    text, path = tmp_path / "text", tmp_path / "f"
    with text.open("wb") as file:
        file.truncate(21 << 20)
    path.touch()
    started, read, writing, wrote, stopped, reader = agent.run(
        jobs.start_reader(0, str(text), rounds=0),
        jobs.await_rounds([0], 0, 60000),
        jobs.start_writer(1, str(path), b"y", rounds=0),
        jobs.await_rounds([1], 500_000, 4000),
        jobs.signal_job(0, Signal.STOP),
        jobs.wait_job(0, 10000),
    )
    assert (started.value, read.value, writing.value, stopped.value) == (0, 1, 0, 0)
    assert wrote.value == -errno.ETIMEDOUT
    assert reader.value == 21 << 20


def test_a_digest_takes_no_room_for_text(agent: Agent, tmp_path: Path) -> None:
    """A reader that keeps no text is as fast after 40 MiB as before."""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(21 << 20)
    _, read = agent.run(jobs.start_reader(0, str(path), rounds=0, keep=False), jobs.await_rounds([0], 3, 15000))
    assert read.value >= 4


def test_rounds_that_do_not_come(agent: Agent, fifo: Path) -> None:
    started, waited, early = agent.run(
        jobs.start_reader(0, str(fifo)), jobs.await_rounds([0], 1, 20), jobs.await_rounds([0], 1 << 31, 20)
    )
    assert started.ok
    assert [waited.value, early.value] == [-errno.ETIMEDOUT] * 2
    fifo.write_bytes(b"")
    (ended,) = agent.run(jobs.await_rounds([0], 5, 60000))
    assert ended.value == 1


def test_the_agent_serves_on_while_a_job_sleeps(agent: Agent, fifo: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"served")
    started, early, state, served = agent.run(
        jobs.start_reader(1, str(fifo)), jobs.wait_job(1, 20), jobs.job_state(1), ops.read_file(str(tmp_path / "f"))
    )
    assert (started.value, early, served.data) == (0, Result(-errno.ETIMEDOUT), b"served")
    assert ops.text_of(state).startswith("S reader pid=")
    fifo.write_bytes(b"late\n")
    (late,) = agent.run(jobs.wait_job(1, 5000))
    assert late.value == 5
    assert jobs.split_reads(late.data)[0].data == b"late\n"


def test_waiting_ends_with_its_time(agent: Agent, fifo: Path) -> None:
    agent.run(jobs.start_reader(0, str(fifo)))
    begin = time.monotonic()
    assert agent.run(jobs.wait_job(0, 150))[0].value == -errno.ETIMEDOUT
    assert time.monotonic() - begin >= 0.15


def test_kill_says_how_long_it_took_and_what_there_was(agent: Agent, fifo: Path) -> None:
    agent.run(jobs.start_reader(2, str(fifo)))
    writer = os.open(fifo, os.O_WRONLY)
    os.write(writer, b"before")
    # it sleeps again only behind what it read
    assert until(lambda: unread(writer) == 0)
    assert until(lambda: agent.run(jobs.job_state(2))[0].data.startswith(b"S"))
    killed, ended, again, result = agent.run(
        jobs.signal_job(2, Signal.KILL), jobs.job_state(2), jobs.signal_job(2, Signal.KILL), jobs.wait_job(2, 0)
    )
    os.close(writer)
    assert killed.value == again.value == 0
    assert 0 < jobs.split_time(killed.data) < 10 * SECOND
    assert ops.text_of(ended).startswith("X reader ended")
    assert result.value == -errno.EINTR
    assert [r.data for r in jobs.split_reads(result.data)] == [b"before"]


def test_a_killed_job_s_number_can_be_had_at_once(agent: Agent, fifo: Path) -> None:
    results = agent.run(
        jobs.start_reader(2, str(fifo)), jobs.signal_job(2, Signal.KILL), jobs.start_reader(2, "/dev/null")
    )
    assert [r.value for r in results] == [0, 0, 0]
    assert agent.run(jobs.wait_job(2, 5000))[0].value == 0


def test_a_job_that_ended_before_it_was_killed_keeps_its_value(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"123")
    agent.run(jobs.start_reader(0, str(tmp_path / "f")), ops.sleep(100))
    killed, result = agent.run(jobs.signal_job(0, Signal.KILL), jobs.wait_job(0, 0))
    assert (killed.value, result.value) == (0, 3)


def test_the_agent_s_reaping_leaves_a_job_its_status(agent: Agent, tmp_path: Path) -> None:
    """Behind every batch the agent reaps all children there are."""
    (tmp_path / "f").write_bytes(b"123")
    agent.run(jobs.start_reader(0, str(tmp_path / "f")))
    for _ in range(20):
        agent.run(ops.sleep(5))
    assert agent.run(jobs.wait_job(0, 0))[0].value == 3


def test_a_job_that_somebody_else_killed(agent: Agent, fifo: Path) -> None:
    agent.run(jobs.start_reader(0, str(fifo)))
    os.kill(pid_of(agent, 0), 9)
    result, gone = agent.run(jobs.wait_job(0, 5000), jobs.wait_job(0, 0))
    assert (result.value, gone.value) == (-errno.EINTR, -errno.ESRCH)


def test_stop_ends_a_reader_behind_its_round(agent: Agent, tmp_path: Path) -> None:
    blob = os.urandom(100_000)
    (tmp_path / "f").write_bytes(blob)
    started, running, stopped, result = agent.run(
        jobs.start_reader(0, str(tmp_path / "f"), rounds=0, keep=False),
        jobs.wait_job(0, 30),
        jobs.signal_job(0, Signal.STOP),
        jobs.wait_job(0, 5000),
    )
    assert (started.value, running.value, stopped.value) == (0, -errno.ETIMEDOUT, 0)
    assert result.value > 0
    assert result.value % len(blob) == 0


def test_reset_forgets_all(agent: Agent, fifo: Path) -> None:
    started = agent.run(*[jobs.start_reader(n, str(fifo)) for n in range(16)])
    assert [r.value for r in started] == [0] * 16
    pids = [pid_of(agent, n) for n in range(16)]
    results = agent.run(jobs.reset_jobs(), jobs.wait_job(0, 0), jobs.wait_job(15, 0), jobs.reset_jobs())
    assert [r.value for r in results] == [16, -errno.ESRCH, -errno.ESRCH, 0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("kill", [False, True])
def test_jobs_end_with_the_agent(agent: Agent, fifo: Path, kill: bool) -> None:
    agent.run(jobs.start_reader(0, str(fifo)))
    pid = pid_of(agent, 0)
    if kill:
        agent.process.kill()
    else:
        agent.channel.close()
    agent.process.wait(5)
    assert until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_a_job_is_cut_loose_from_the_agent(agent: Agent, fifo: Path) -> None:
    agent.run(jobs.start_reader(7, str(fifo)))
    process = Path(f"/proc/{pid_of(agent, 7)}")
    assert {fd.name: os.readlink(fd) for fd in process.glob("fd/*") if fd.name != "2"} == {
        "0": "/dev/null",
        "1": "/dev/null",
    }
    status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Name"] == "job7 reader"
    # Signals 32 and 33 are glibc's own; who started us may ignore them, and no program can change that through glibc.
    glibc = 1 << 31 | 1 << 32
    assert [int(status[name], 16) & ~glibc for name in ("SigIgn", "SigBlk", "SigCgt")] == [0, 0, 0]


def test_two_readers_share_a_place(agent: Agent, tmp_path: Path) -> None:
    text = b"".join(b"%07d\n" % number for number in range(20000))
    (tmp_path / "f").write_bytes(text)
    agent.run(ops.open_file(5, str(tmp_path / "f")), ops.read(5, 800))
    started = agent.run(*(jobs.start_sharing_reader(job, 5, chunk=80) for job in (0, 1)))
    assert [one.value for one in started] == [0, 0]
    done = agent.run(*(jobs.wait_job(job, 10_000) for job in (0, 1)))
    assert sum(one.value for one in done) == len(text) - 800
    pieces = [read.data for one in done for read in jobs.split_reads(one.data)]
    assert b"".join(sorted(pieces)) == text[800:]
    (at_end, _) = agent.run(ops.read(5, 10), ops.close(5))
    assert at_end.value == 0
    (none,) = agent.run(jobs.start_sharing_reader(0, 5))
    assert ops.errno_name(none.value) == "EBADF"


def test_a_job_on_its_cpu(agent: Agent, fifo: Path) -> None:
    for cpu in sorted(os.sched_getaffinity(0)):
        started, _ = agent.run(jobs.start_reader(cpu % 16, str(fifo), cpu=cpu), ops.sleep(0))
        assert started.value == 0
        assert os.sched_getaffinity(pid_of(agent, cpu % 16)) == {cpu}


def start_held(agent: Agent, job: int, path: Path, **options: int) -> None:
    (started,) = agent.run(jobs.start_reader(job, str(path), held=True, **options))
    if started.value in (-errno.EPERM, -errno.ENOSYS):
        pytest.skip(f"userfaultfd for the kernel's faults: {ops.errno_name(started.value)}")
    assert started.value == 0, ops.errno_name(started.value)


def is_held(agent: Agent, job: int) -> bool:
    return " held=1 " in ops.text_of(agent.run(jobs.job_state(job))[0])


def test_a_held_reader_reads_when_it_is_released(agent: Agent, tmp_path: Path) -> None:
    blob = os.urandom(200_000)
    (tmp_path / "f").write_bytes(blob)
    start_held(agent, 0, tmp_path / "f", rounds=2)
    assert until(lambda: is_held(agent, 0))
    (early,) = agent.run(jobs.wait_job(0, 100))
    assert early.value == -errno.ETIMEDOUT
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    released, result = agent.run(jobs.signal_job(0, Signal.RELEASE), jobs.wait_job(0, 5000))
    assert (released.value, result.value) == (0, 2 * len(blob))
    reads = jobs.split_reads(result.data)
    assert reads[0].begin < before - SECOND // 10
    assert reads[0].end > before
    assert b"".join(r.data for r in reads) == blob * 2


def test_a_held_reader_that_was_released_before_it_came(agent: Agent, fifo: Path) -> None:
    start_held(agent, 0, fifo)
    assert agent.run(jobs.signal_job(0, Signal.RELEASE))[0].value == 0
    fifo.write_bytes(b"through")
    assert agent.run(jobs.wait_job(0, 5000))[0].value == 7


def test_a_held_reader_can_be_killed(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    start_held(agent, 0, tmp_path / "f")
    assert until(lambda: is_held(agent, 0))
    killed, result = agent.run(jobs.signal_job(0, Signal.KILL), jobs.wait_job(0, 0))
    assert killed.value == 0
    assert jobs.split_time(killed.data) < 10 * SECOND
    assert (result.value, jobs.split_reads(result.data)) == (-errno.EINTR, [])


RECORD = struct.pack("<IiQQ", 0, 3, 1, 2)


@pytest.mark.parametrize(
    "data", [b"", b"\1\0\0", b"\1\0\0\0" + RECORD[:-1], b"\1\0\0\0" + RECORD + b"ab", b"\1\0\0\0" + RECORD + b"abcd"]
)
def test_data_that_is_cut_short_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        jobs.split_reads(data)
    with pytest.raises(ValueError, match="bytes"):
        jobs.split_digest(data)
    with pytest.raises(ValueError, match="bytes"):
        jobs.split_lateness(data)


def test_results_of_one_kind_are_not_taken_for_another() -> None:
    assert jobs.split_reads(b"\1\0\0\0" + RECORD + b"abc") == [jobs.Read(0, 3, 1, 2, b"abc")]
    with pytest.raises(ValueError, match="3 bytes after the records"):
        jobs.split_calls(b"\1\0\0\0" + RECORD + b"abc")
    with pytest.raises(ValueError, match="20 bytes of text"):
        jobs.split_reads(bytes(24))
    with pytest.raises(ValueError, match="expected 8"):
        jobs.split_time(b"")
