# SPDX-License-Identifier: GPL-2.0-only
"""The agent, built for this machine: the same program that is a guest's init."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import Agent

from pytest_iommu.paths import agent as agent_sources

FLAGS = ["-Wall", "-Wextra", "-O1", "-g", "-pthread", '-DAGENT_BUILD="test"']


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent for this machine; static where the C library allows it, as it is in the guest."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc on PATH: the agent cannot be built for this machine")
    target = tmp_path_factory.mktemp("agent") / "agent"
    sources = [str(path) for path in sorted(agent_sources().glob("*.c"))]
    static = subprocess.run([compiler, *FLAGS, "-static", "-o", str(target), *sources], capture_output=True)
    if static.returncode:
        dynamic = subprocess.run([compiler, *FLAGS, "-o", str(target), *sources], capture_output=True, text=True)
        assert dynamic.returncode == 0, dynamic.stderr
    return target


@pytest.fixture
def start(program: Path) -> Iterator[Callable[[], Agent]]:
    running: list[Agent] = []

    def one() -> Agent:
        running.append(Agent(program))
        return running[-1]

    yield one
    for agent in running:
        agent.close()


@pytest.fixture
def agent(start: Callable[[], Agent]) -> Agent:
    one = start()
    one.channel.hello(10)
    return one
