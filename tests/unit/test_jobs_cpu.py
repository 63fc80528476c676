# SPDX-License-Identifier: GPL-2.0-only
"""The agent's jobs that take a cpu, or see when they get it; a real-time process is throttled on this machine."""

from __future__ import annotations

import errno
import os
import time

import pytest
from agent_process import Agent, pid_of

from pytest_iommu.core.protocol import Result
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.jobs import Signal

SECOND = 1_000_000_000


def needs_realtime(result: Result) -> None:
    if result.value == -errno.EPERM:
        pytest.skip("SCHED_FIFO needs CAP_SYS_NICE")
    assert result.value == 0, ops.errno_name(result.value)


def test_a_spinner_sleeps_until_go_and_burns_until_stop(agent: Agent) -> None:
    cpu = max(os.sched_getaffinity(0))
    (started,) = agent.run(jobs.start_spinner(3, cpu))
    needs_realtime(started)
    pid = pid_of(agent, 3)
    assert os.sched_getscheduler(pid) == os.SCHED_FIFO
    waiting, asleep, go, running, state, stop, result = agent.run(
        jobs.wait_job(3, 20),
        jobs.job_state(3),
        jobs.signal_job(3, Signal.GO),
        jobs.wait_job(3, 50),
        jobs.job_state(3),
        jobs.signal_job(3, Signal.STOP),
        jobs.wait_job(3, 5000),
    )
    assert (waiting.value, go.value, running.value) == (-errno.ETIMEDOUT, 0, -errno.ETIMEDOUT)
    assert ops.text_of(asleep).startswith("S spinner ")
    assert ops.text_of(state).startswith(f"R spinner pid={pid} cpu={cpu} ")
    assert (stop.value, result.value) == (0, 0)
    (call,) = jobs.split_calls(result.data)
    assert call.end - call.begin >= 50_000_000


def test_a_spinner_that_never_went(agent: Agent) -> None:
    started, _, result = agent.run(
        jobs.start_spinner(3, min(os.sched_getaffinity(0))), jobs.signal_job(3, Signal.STOP), jobs.wait_job(3, 5000)
    )
    needs_realtime(started)
    assert result.value == 0


def test_a_ticker_is_late_when_its_cpu_is_taken(agent: Agent) -> None:
    """Taken by stopping it: nothing on this machine may come before a real-time process."""
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    (started,) = agent.run(jobs.start_ticker(1, max(os.sched_getaffinity(0)), 1000, 60_000))
    needs_realtime(started)
    pid = pid_of(agent, 1)
    os.kill(pid, 19)
    agent.run(ops.sleep(100))
    os.kill(pid, 18)
    _, _, result = agent.run(ops.sleep(100), jobs.signal_job(1, Signal.STOP), jobs.wait_job(1, 5000))
    took = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begin
    late = jobs.split_lateness(result.data)
    # the tenth of a second counts as one tick
    assert 0 < result.value <= (took - late.worst) / 1_000_000 + 2
    assert 90_000_000 < late.worst < took
    assert late.median < late.worst or result.value == 1
    assert begin < late.worst_at < begin + took


@pytest.mark.parametrize(("interval", "milliseconds"), [(0, 10), (1000, 0), (2000, 1), (1, 2000)])
def test_a_ticker_without_ticks_or_with_too_many(agent: Agent, interval: int, milliseconds: int) -> None:
    assert agent.run(jobs.start_ticker(1, None, interval, milliseconds))[0].value == -errno.EINVAL


def test_a_ticker_can_be_stopped(agent: Agent) -> None:
    started, _, _, result = agent.run(
        jobs.start_ticker(1, None, 1000, 60_000), ops.sleep(50), jobs.signal_job(1, Signal.STOP), jobs.wait_job(1, 5000)
    )
    needs_realtime(started)
    assert 0 < result.value < 5000
