# SPDX-License-Identifier: GPL-2.0-only
"""The agent as a process of this machine, spoken to over pipes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pytest_iommu.core.protocol import Op, Result
from pytest_iommu.guest import jobs, ops
from pytest_iommu.guest.channel import Channel


class Agent:
    """A running agent and the channel to it."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.read_fd = os.dup(self.process.stdout.fileno())
        self.write_fd = os.dup(self.process.stdin.fileno())
        self.process.stdin.close()
        self.process.stdout.close()
        self.channel = Channel((self.read_fd, self.write_fd))

    def run(self, *batch: Op) -> tuple[Result, ...]:
        return self.channel.run(batch, 20).results

    def close(self) -> None:
        self.channel.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()


def pid_of(agent: Agent, job: int) -> int:
    """The process of a job that runs."""
    text = ops.text_of(agent.run(jobs.job_state(job))[0])
    return int(text.split("pid=")[1].split()[0])
