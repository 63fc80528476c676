# SPDX-License-Identifier: GPL-2.0-only
"""The agent, built for this machine: the same program that is a guest's init."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import Agent

from pytest_iommu.core.paths import agent as agent_sources
from pytest_iommu.targets import running

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


@pytest.fixture(scope="session")
def agent_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the agent of targets that send it is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def debugfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a machine with a dump and the test module, which knows of one device."""
    root = tmp_path / "debug"
    (root / "iommu").mkdir(parents=True)
    (root / running.MODULE).mkdir()
    (root / running.MODULE / "devices").write_text("edu0 0000:00:01.0 group=0 sid=8\n")
    (root / running.MODULE / "control").touch()
    monkeypatch.setattr(running, "DEBUGFS", str(root))
    monkeypatch.setattr(running, "_has_driver", lambda listed, iommu: True)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return root
