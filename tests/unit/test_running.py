# SPDX-License-Identifier: GPL-2.0-only
"""Targets that boot nothing, with the real agent on this machine; a directory stands for debugfs."""

from __future__ import annotations

import io
import os
import platform
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.machines import DRIVERS
from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops
from pytest_iommu.targets import running
from pytest_iommu.targets.running import RunningTarget
from pytest_iommu.targets.ssh import SshHost
from pytest_iommu.targets.stdio import AgentGuest, RunningHost

KEY = Key("smmuv3", "plain")
PAGE = os.sysconf("SC_PAGESIZE")
READ = [ops.read_file("/proc/version")]

pytestmark = pytest.mark.skipif(platform.machine() not in running.ARCHES, reason="no agent for this machine")


class Here(RunningHost):
    """This machine, with whoever we are for root; ``before`` is what its shell says first."""

    name = "here"

    def __init__(self, before: str = "id() { echo 0; }", log: str = "") -> None:
        self.before = before
        self.log = log

    def argv(self, command: str) -> list[str]:
        if command == "dmesg":
            return ["printf", "%s", self.log]
        return ["/bin/sh", "-c", f"{self.before}; {command}"]


@pytest.fixture
def target(agent_cache: Path, tmp_path: Path, debugfs: Path) -> Callable[..., RunningTarget]:
    def make(host: Here | None = None, key: Key = KEY, page: int = PAGE, **settings: object) -> RunningTarget:
        workers = settings.pop("workers", 1)
        assert isinstance(workers, int)
        given = Settings(**{"target": "local", "cache": agent_cache, "where": tmp_path, "folder": tmp_path, **settings})
        return RunningTarget(host or Here(), given, machines.get(key.machine), key, page, workers)

    return make


@pytest.fixture
def guest(target: Callable[..., RunningTarget]) -> Iterator[AgentGuest]:
    found = target().start()
    yield found
    found.close()


def test_it_answers_and_leaves_nothing(target: Callable[..., RunningTarget], tmp_path: Path) -> None:
    guest = target().start()
    assert guest.run(READ).results[0].data.startswith(b"Linux version")
    assert guest.run([ops.poweroff()]).results[0] == guest.run([ops.poweroff()]).results[0]
    assert ops.errno_name(guest.run([ops.poweroff()]).results[0].value) == "EPERM"
    assert guest.memory is None
    assert guest.kernel == f"Linux {os.uname().release}, {os.uname().machine}"
    assert list((tmp_path / "tmp").iterdir())
    guest.close()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert guest.child.poll() == 0
    with pytest.raises(GuestLost, match="was closed"):
        guest.run(READ)


def test_a_killed_connection_leaves_nothing(guest: AgentGuest, tmp_path: Path) -> None:
    """The shell that started the agent tidies up when it is hung up on."""
    os.kill(guest.child.pid, signal.SIGHUP)
    guest.close()
    deadline = time.monotonic() + 60
    while list((tmp_path / "tmp").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_greeting_of_the_shell_is_passed_over(target: Callable[..., RunningTarget]) -> None:
    target(Here("id() { echo 0; }; echo Welcome; echo pytest-iommu")).start().close()


@pytest.mark.parametrize(
    ("before", "match"),
    [
        ("echo 'Permission denied (publickey)' >&2; exit 255", r"no connection to here: Permission denied \(publickey"),
        ("exit 0", "no connection to here: it ended at once"),
        ("id() { echo 1000; }", "the user id on here is 1000, but the agent has to be root"),
        ("uname() { echo vax; }; id() { echo 0; }", "there is no agent for the architecture of here, vax"),
        ("id() { echo 0; }; head() { echo full >&2; return 1; }", "here does not accept files: .*; it said: full"),
        ("id() { echo 0; }; chmod() { :; }", "no agent on here: .*ermission denied"),
    ],
)
def test_what_is_wrong_with_the_machine_is_said(target: Callable[..., RunningTarget], before: str, match: str) -> None:
    with pytest.raises(SetupError, match=match):
        target(Here(before)).start()


def test_a_machine_without_debugfs(target: Callable[..., RunningTarget], debugfs: Path) -> None:
    debugfs.rename(debugfs.with_name("elsewhere"))
    with pytest.raises(SetupError, match="here has no debugfs mounted: mount -t debugfs"):
        target().start()


def test_a_kernel_without_a_dump_is_asked_once(target: Callable[..., RunningTarget], debugfs: Path) -> None:
    (debugfs / "iommu").rmdir()
    one = target()
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="here runs .*, which has no page-table dump"):
            one.start()
        one._host = Here("exit 1")  # type: ignore[assignment]


@pytest.fixture
def headers(debugfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a kernel's build directory would be; the module is not loaded."""
    (debugfs / running.MODULE).rename(debugfs / "other")
    monkeypatch.setattr(running, "HEADERS", str(tmp_path / "build"))
    return tmp_path / "build"


def test_a_machine_without_module_and_headers(target: Callable[..., RunningTarget], headers: Path) -> None:
    with pytest.raises(SetupError, match=rf"here has no test module and no {headers} .*: give --iommu-modules"):
        target().start()


def test_a_module_that_does_not_build(target: Callable[..., RunningTarget], headers: Path) -> None:
    headers.mkdir()
    (headers / "Makefile").write_text("modules:\n\t@echo iommu-pages.h: No such file; exit 1\n")
    with pytest.raises(SetupError, match=r"(?s)does not build on here \(.*\):\n.*iommu-pages.h: No such file"):
        target().start()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_a_module_is_built_there_once(target: Callable[..., RunningTarget], headers: Path, tmp_path: Path) -> None:
    """From all of its sources; what came out is sent the next time, and is no module of any kernel here."""
    headers.mkdir()
    build = f"modules:\n\tcat $(M)/Kbuild $(M)/main.c > $(M)/{running.KO}; echo x >> {tmp_path}/built\n"
    (headers / "Makefile").write_text(build)
    for _ in range(2):
        with pytest.raises(SetupError, match=rf"cannot load {running.KO} on here: E[A-Z]+"):
            target(cache=tmp_path / "own").start()
    assert (tmp_path / "built").read_text() == "x\n"


def test_a_module_that_is_none(target: Callable[..., RunningTarget], debugfs: Path, tmp_path: Path) -> None:
    (debugfs / running.MODULE).rename(debugfs / "other")
    given = tmp_path / "given"
    given.mkdir()
    (given / running.KO).write_bytes(b"no module")
    with pytest.raises(SetupError, match=rf"cannot load {running.KO} on here: E[A-Z]+"):
        target(modules=given).start()


def test_only_the_module_that_we_loaded_is_unloaded(guest: AgentGuest) -> None:
    assert guest.module == "", "it was there before"
    guest.module = "no_such_module"
    with pytest.warns(UserWarning, match="no_such_module stays loaded on here: E[A-Z]+"):
        guest.close()


def test_pages_of_another_size(target: Callable[..., RunningTarget]) -> None:
    with pytest.raises(SetupError, match=rf"here has {PAGE >> 10}K pages, but the tests assume {PAGE >> 9}K"):
        target(page=2 * PAGE).start()


def test_one_machine_is_one_guest(target: Callable[..., RunningTarget]) -> None:
    with pytest.raises(SetupError, match="only one here with one test module: run without -n"):
        target(workers=2).start()
    with pytest.raises(pytest.skip.Exception, match="booted in mode races: here is not booted"):
        target(key=Key("smmuv3", "plain", "races")).start()
    with pytest.raises(
        pytest.skip.Exception, match="needs smmuv3topo/plain: here is a single machine, and stands for smmuv3/"
    ):
        target(key=Key("smmuv3topo", "plain")).start()


def test_devices_that_are_not_there(guest: AgentGuest, debugfs: Path) -> None:
    """A command with one is not given: the test is skipped."""
    control = str(debugfs / running.MODULE / "control")
    assert guest.run([ops.write_file(control, b"reset\ndomain d0 dev=edu0\n")]).results[0].ok
    with pytest.raises(pytest.skip.Exception, match="needs edu1: here has no device like"):
        guest.run([ops.write_file(control, b"reset\nattach d0 edu1\n")])
    assert (debugfs / running.MODULE / "control").read_bytes().endswith(b"dev=edu0\n")


def test_behind_another_iommu_no_device_is_there(
    target: Callable[..., RunningTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_has_driver", lambda listed, iommu: False)
    guest = target().start()
    assert set(guest.absent) >= {"edu0", "edu1"}
    guest.close()


def _agent_of(guest: AgentGuest) -> int:
    pid = guest.child.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])


@pytest.mark.parametrize(
    ("log", "kind", "match"),
    [
        ("", GuestLost, "lost here while it ran a batch: the agent's end is closed"),
        ("[    1.000000] Oops: long ago\n", GuestLost, "lost here while it ran a batch"),
        ("[    1.000000] fine\n[99999999999.5] Oops: 0000 [#1] SMP\n", KernelCrash, "oops while it ran .*0000"),
    ],
)
def test_an_agent_that_died(target: Callable[..., RunningTarget], log: str, kind: type[IommuError], match: str) -> None:
    """The kernel's log of our time tells why, where the machine still answers."""
    guest = target(Here(log=log)).start()
    os.kill(_agent_of(guest), signal.SIGKILL)
    with pytest.raises(kind, match=match) as caught:
        guest.run(READ)
    guest.close()
    assert caught.value.evidence is not None
    assert "sh -c" in caught.value.evidence.command


@pytest.mark.parametrize(
    ("log", "kind", "match"),
    [
        ("", GuestLost, "did not answer within 0.3 s, and here does not answer a new connection"),
        ("[    1.000000] fine\n", KernelHang, "did not answer within 0.3 s; here still answers a new connection"),
        ("[99999999999.5] watchdog: BUG: soft lockup - CPU#0\n", KernelCrash, "soft-lockup and then hung"),
    ],
)
def test_an_agent_that_hangs(
    target: Callable[..., RunningTarget], log: str, kind: type[IommuError], match: str
) -> None:
    guest = target(Here(log=log)).start()
    with pytest.raises(kind, match=match):
        guest.run([ops.sleep(5000)], timeout=0.3)
    os.kill(_agent_of(guest), signal.SIGKILL)
    guest.close()


@pytest.mark.parametrize(
    ("where", "host", "port"),
    [
        ("//board", "board", None),
        ("//root@board:2222", "root@board", "2222"),
        ("//board.lab.example/", "board.lab.example", None),
        ("//root@[fe80::1]:22", "root@fe80::1", "22"),
    ],
)
def test_where_ssh_goes(where: str, host: str, port: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    argv = SshHost(where).argv("echo 'a b'")
    assert argv[0] == "ssh"
    assert "-oBatchMode=yes" in argv
    assert argv[-3:] == ["--", host, "sh -c 'echo '\"'\"'a b'\"'\"''"]
    assert ("-p" in argv) is (port is not None)
    assert port is None or argv[argv.index("-p") + 1] == port


@pytest.mark.parametrize("where", ["", "board", "//", "//-oProxyCommand=x", "//a b:x", "//host:port", "//u@"])
def test_where_ssh_does_not_go(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    with pytest.raises(SetupError, match="--iommu-target=ssh://"):
        SshHost(where)


def test_sources_are_those_that_are_built() -> None:
    with tarfile.open(fileobj=io.BytesIO(running._sources())) as archive:
        names = archive.getnames()
    assert {"Kbuild", "Makefile", "main.c", "ptdump_test.h"} <= set(names)
    assert not [name for name in names if name.endswith((".o", ".ko", ".mod.c"))]


def test_the_smmu_is_known_by_its_name() -> None:
    for name, iommu in (("smmu3.0x0000000009050000", "smmuv3"), ("dmar0", "vtd"), ("ivhd0", "amd")):
        listed = SimpleNamespace(data=f"{name}@\n".encode())
        assert [other for other in DRIVERS if running._has_driver(listed, other)] == [iommu]  # type: ignore[arg-type]
