# SPDX-License-Identifier: GPL-2.0-only
"""The ssh target through a real sshd on loopback, which is started here and ended with the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops
from pytest_iommu.targets import running
from pytest_iommu.targets.running import RunningTarget
from pytest_iommu.targets.ssh import SshHost

SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
PidFile none
AcceptEnv TMPDIR
"""

SSH = """\
Host loop stranger
    HostName 127.0.0.1
    Port {port}
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile {folder}/known
    SendEnv TMPDIR
Host loop
    IdentityFile {folder}/key
Host stranger
    IdentityFile {folder}/host
"""


def _listens(port: int, daemon: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and daemon.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an sshd's keys, and of an ssh that knows hosts ``loop`` and ``stranger`` by its configuration."""
    program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    ssh, keygen = shutil.which("ssh"), shutil.which("ssh-keygen")
    if program is None or ssh is None or keygen is None:
        pytest.skip("no sshd, ssh and ssh-keygen here")
    if os.getuid() != 0:
        pytest.skip("the agent has to be root there, and there is here")
    folder = tmp_path_factory.mktemp("sshd")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("host", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
    (folder / "config").write_text(SSH.format(port=port, folder=folder))
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/config "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    log = (folder / "log").open("wb")
    daemon = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log)
    try:
        if not _listens(port, daemon):
            pytest.skip(f"sshd does not start here: {(folder / 'log').read_text().strip()}")
        yield folder
    finally:
        daemon.kill()
        daemon.wait()
        log.close()


@pytest.fixture
def target(sshd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningTarget:
    """This machine by way of ssh; a directory stands for debugfs, with a module that is loaded."""
    root = tmp_path / "debug"
    for name in ("iommu", running.MODULE):
        (root / name).mkdir(parents=True)
    (root / running.MODULE / "devices").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", str(sshd / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(running, "DEBUGFS", str(root))
    return _target("//loop", sshd, tmp_path)


def _target(where: str, sshd: Path, tmp_path: Path) -> RunningTarget:
    key = Key("smmuv3", "plain")
    settings = Settings("ssh", sshd / "cache", tmp_path, tmp_path)
    return RunningTarget(SshHost(where), settings, machines.get(key.machine), key, os.sysconf("SC_PAGESIZE"))


def test_the_agent_over_ssh(target: RunningTarget, tmp_path: Path) -> None:
    blob = os.urandom(5 << 20)
    (tmp_path / "blob").write_bytes(blob)
    guest = target.start()
    assert guest.run([ops.read_file("/proc/version")]).results[0].data.startswith(b"Linux version")
    assert guest.run([ops.read_file(str(tmp_path / "blob"))], 30.0).results[0].data == blob
    assert ops.errno_name(guest.run([ops.poweroff()]).results[0].value) == "EPERM"
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    guest.close()
    assert guest.child.poll() == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_connection_that_breaks(target: RunningTarget, tmp_path: Path) -> None:
    """It is a lost guest, and what was copied there goes nevertheless."""
    guest = target.start()
    os.kill(guest.child.pid, 9)
    with pytest.raises(GuestLost, match="lost ssh://loop while it ran a batch"):
        guest.run([ops.read_file("/proc/version")])
    guest.close()
    deadline = time.monotonic() + 60
    while list((tmp_path / "tmp").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_who_is_not_let_in(target: RunningTarget, sshd: Path, tmp_path: Path) -> None:
    """Nobody is asked for a password."""
    with pytest.raises(SetupError, match="no connection to ssh://stranger: .*Permission denied"):
        _target("//stranger", sshd, tmp_path).start()


def test_where_nobody_listens(target: RunningTarget, sshd: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no connection to ssh://loop:1: .*Connection refused"):
        _target("//loop:1", sshd, tmp_path).start()
