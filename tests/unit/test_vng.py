# SPDX-License-Identifier: GPL-2.0-only
"""The vng target with a program that is none: it connects where QEMU would, and its shell is one of this machine."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops
from pytest_iommu.targets import running, vng, with_console
from pytest_iommu.targets.running import RunningTarget
from pytest_iommu.targets.vng import VngGuest, VngHost, VngProcess

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="vng boots x86_64 kernels on x86_64 machines")

KEY = Key("smmuv3", "plain")
READ = [ops.read_file("/proc/version")]
PANIC = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"

# What it is to say is in $SAY, and then it does as $DO says.
FAKE = """\
#!{python}
import os, re, socket, subprocess, sys, time
print(os.environ.get("SAY", "[    0.0] Linux version"), flush=True)
do = os.environ.get("DO", "")
if do == "fail":
    sys.exit("vng: no such kernel")
if do == "loiter":
    time.sleep(60)
options = next(word for word in sys.argv if word.startswith("--qemu-opts="))
port = socket.socket(socket.AF_UNIX)
port.connect(chr(0) + re.search("path=([^,]*),abstract=on", options)[1])
if do == "end":
    sys.exit(255)
if do == "hang":
    time.sleep(60)
port.sendall(b"ready\\n" if do != "other" else b"login:\\n")
script = port.makefile("rb", buffering=0).readline()
shell = subprocess.Popen(["sh", "-c", "id() {{ echo 0; }}; " + script.decode()], stdin=port, stdout=port)
port.close()
shell.wait()
print(os.environ.get("AT_LAST", ""), flush=True)
sys.exit(255)
"""

BOOT = """\
import os, subprocess, tempfile, time
from pytest_iommu.targets.vng import VngProcess
script = "sh -c 'exec 9>{folder}/alive; flock 9; sleep 60' & wait"
boot = VngProcess(["sh", "-c", script], {{}}, tempfile.TemporaryDirectory())
while subprocess.run({taken}).returncode == 0:
    time.sleep(0.01)
open("{folder}/taken", "x")
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the host looks for on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "vng": FAKE.format(python=sys.executable),
        "qemu-system-x86_64": "#!/bin/sh\necho QEMU emulator version 10.0.2\n",
        "busybox": "#!/bin/sh\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(vng, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    monkeypatch.setattr(vng.kvm, "works", lambda qemu: False)
    return folder


@pytest.fixture
def host(
    programs: Path, agent_cache: Path, debugfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., VngHost]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def make(image: str = "vmlinuz", **more: object) -> VngHost:
        path = tmp_path / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(0x202) + b"HdrS" + bytes(4096))
        given = {"target": "vng", "cache": agent_cache, "where": tmp_path, "folder": tmp_path, "image": path, **more}
        return VngHost(Settings(**given), machines.get(KEY.machine))  # type: ignore[arg-type]

    return make


@pytest.fixture
def start(host: Callable[..., VngHost], tmp_path: Path) -> Callable[..., VngGuest]:
    def one(workers: int = 1, **more: object) -> VngGuest:
        made = host(**more)
        target = RunningTarget(made, made._settings, machines.get(KEY.machine), KEY, 4096, workers)
        return cast(VngGuest, target.start())

    return one


def test_it_boots_answers_and_leaves_nothing(start: Callable[..., VngGuest], tmp_path: Path) -> None:
    guest = start(workers=2)
    assert guest.run(READ).results[0].data.startswith(b"Linux version")
    assert guest.module == "", "the guest goes, and takes the module along"
    (folder,) = (tmp_path / "tmp").iterdir()
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {"qemu", "pytest-iommu"}
    guest.close()
    assert guest.child.poll() == 255, "what vng ends with does not matter"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert b"[    0.0] Linux version" in guest.evidence().files["console.txt"]
    with pytest.raises(GuestLost, match="was closed"):
        guest.run(READ)


def test_what_vng_is_asked_for(host: Callable[..., VngHost]) -> None:
    made = host("my tree/vmlinuz", append="iommu.strict=1 x", qemu_args=("-device", "edu"))
    argv = made.argv("name", Path("/tmp/a b/qemu"))
    assert argv[1:3] == ["--run", shlex.quote(str(made._image))]
    assert argv[argv.index("--qemu") + 1] == "'/tmp/a b/qemu'"
    assert {"--disable-kvm", "--disable-microvm", "--append=iommu.strict=1 x"} <= set(argv)
    assert "--skip-modules" not in argv
    (qemu,) = [word for word in argv if word.startswith("--qemu-opts=")]
    assert "-device intel-iommu" in qemu
    assert qemu.endswith("name=iommu.agent -device edu")


def test_a_tree_is_not_written_to(host: Callable[..., VngHost]) -> None:
    assert "--skip-modules" in host("tree/arch/x86/boot/bzImage").argv("name", Path("qemu"))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_module_is_built_in_the_tree_of_the_kernel(
    start: Callable[..., VngGuest], debugfs: Path, tmp_path: Path
) -> None:
    """From all of its sources, once for this very kernel; what comes out here is no module of any."""
    (debugfs / running.MODULE).rename(debugfs / "other")
    (tmp_path / "arch" / "x86" / "boot").mkdir(parents=True)
    makefile = tmp_path / "Makefile"
    makefile.write_text("modules:\n\t@echo iommu-pages.h: No such file; exit 1\n")
    image, cache = "arch/x86/boot/bzImage", tmp_path / "own"
    with pytest.raises(SetupError, match=rf"(?s)does not build in {tmp_path}:\n.*iommu-pages.h: No such file"):
        start(image=image, cache=cache)
    makefile.write_text(f"modules:\n\tcat $(M)/Kbuild $(M)/main.c > $(M)/{running.KO}; echo x >> built\n")
    for _ in range(2):
        with pytest.raises(SetupError, match=rf"cannot load {running.KO} on vng .*: E[A-Z]+"):
            start(image=image, cache=cache)
    assert (tmp_path / "built").read_text() == "x\n"


def test_kvm_is_used_where_it_runs_guests(host: Callable[..., VngHost], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vng.kvm, "works", lambda qemu: True)
    assert "--disable-kvm" not in host().argv("name", Path("qemu"))


def test_no_vng(host: Callable[..., VngHost], programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match=r"no vng .*: pip install 'pytest-iommu\[vng\]'"):
        host()


def test_it_builds_nothing(host: Callable[..., VngHost], tmp_path: Path) -> None:
    for more in ({"kernel": tmp_path}, {"target_argument": "vmlinuz"}):
        with pytest.raises(SetupError, match="builds nothing: name the kernel to boot with --iommu-image=FILE"):
            host(**more)


def test_the_kernel_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vng, "PLACES", (f"{tmp_path}/{{}}/vmlinuz", f"{tmp_path}/vmlinuz-{{}}"))
    monkeypatch.setattr(platform, "release", lambda: "6.9.1")
    with pytest.raises(SetupError, match="no kernel is installed on this machine: give --iommu-image=FILE"):
        vng.installed_kernel()
    for version in ("6.8", "6.12.3", "6.10"):
        (tmp_path / f"vmlinuz-{version}").touch()
    assert vng.installed_kernel().name == "vmlinuz-6.12.3", "the newest"
    (tmp_path / "6.9.1").mkdir()
    (tmp_path / "6.9.1" / "vmlinuz").touch()
    assert vng.installed_kernel() == tmp_path / "6.9.1" / "vmlinuz", "the one that runs"


@pytest.mark.parametrize(
    ("do", "say", "kind", "match"),
    [
        ("fail", "", SetupError, r"(?s)no guest: vng ended with status 1\n.*vng: no such kernel\ncommand: "),
        ("loiter", "", SetupError, "no guest: vng did not start QEMU within 1 s"),
        ("end", "", SetupError, r"vng \(.*vmlinuz\) ended before its shell was ready"),
        ("end", PANIC, KernelCrash, "panic while booting: Kernel panic - not syncing: VFS: Unable"),
        ("hang", "", KernelHang, r"vng \(.*vmlinuz\) did not boot within 1 s"),
        ("hang", PANIC, KernelCrash, "panic and then hung: Kernel panic"),
        ("other", "", SetupError, "began with unexpected output 'login:'"),
        ("", "WARNING: CPU: 0 PID: 1 at x.c:1", KernelCrash, "warning while booting: WARNING: CPU"),
    ],
)
def test_a_boot_that_fails(
    start: Callable[..., VngGuest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    do: str,
    say: str,
    kind: type[IommuError],
    match: str,
) -> None:
    monkeypatch.setenv("DO", do)
    monkeypatch.setenv("SAY", say)
    monkeypatch.setattr(vng, "START_TIMEOUT", 1.0)
    monkeypatch.setattr(vng, "BOOT_TIMEOUT", 1.0 if do == "hang" else 10.0)
    with pytest.raises(kind, match=match) as caught:
        start()
    assert type(caught.value) is kind
    assert caught.value.evidence is not None
    assert say in caught.value.evidence.console
    assert str(tmp_path / "vmlinuz") in caught.value.evidence.command
    assert list((tmp_path / "tmp").iterdir()) == []


def _agent_of(guest: VngGuest) -> int:
    """The child of vng's shell; vng is one of another that guards it."""
    pid = guest.child.pid
    for _ in range(3):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])
    return pid


@pytest.mark.parametrize(
    ("at_last", "kind", "match"),
    [
        ("", GuestLost, r"lost vng \(.*\) while it ran a batch"),
        ("Oops: 0000 [#1] SMP", KernelCrash, "oops while it ran a batch: Oops: 0000"),
    ],
)
def test_a_guest_that_died(
    start: Callable[..., VngGuest],
    monkeypatch: pytest.MonkeyPatch,
    at_last: str,
    kind: type[IommuError],
    match: str,
) -> None:
    """The console tells why; time stamps are not needed."""
    monkeypatch.setenv("AT_LAST", at_last)
    guest = start()
    os.kill(_agent_of(guest), signal.SIGKILL)
    with pytest.raises(kind, match=match) as caught:
        guest.run(READ)
    guest.close()
    assert caught.value.evidence is not None
    assert at_last in caught.value.evidence.console


@pytest.mark.parametrize(
    ("late", "kind", "match"),
    [
        (b"", KernelHang, r"did not answer within 0.3 s; vng \(.*\) still runs"),
        (b"watchdog: BUG: soft lockup - CPU#0\n", KernelCrash, "soft-lockup and then hung"),
    ],
)
def test_a_guest_that_hangs(start: Callable[..., VngGuest], late: bytes, kind: type[IommuError], match: str) -> None:
    guest = start()
    assert isinstance(guest.child, VngProcess)
    os.write(guest.child._stderr, late)
    with pytest.raises(kind, match=match):
        guest.run([ops.sleep(5000)], timeout=0.3)
    os.kill(_agent_of(guest), signal.SIGKILL)
    guest.close()


def test_what_only_the_console_has(start: Callable[..., VngGuest], monkeypatch: pytest.MonkeyPatch) -> None:
    guest = start()
    assert isinstance(guest.child, VngProcess)
    os.write(guest.child._stderr, b"WARNING: CPU: 1 PID: 1 at x.c:1\n")
    with pytest.raises(KernelCrash, match="warning while it ran a batch: WARNING: CPU: 1"):
        guest.run(READ)
    monkeypatch.setattr(with_console, "CONSOLE_LIMIT", 10)
    with pytest.raises(KernelHang, match="console flood: 0 MiB"):
        guest.run(READ)
    guest.close()


def test_another_user_at_the_port_is_refused(start: Callable[..., VngGuest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vng, "_peer", lambda wire: os.geteuid() + 1)
    monkeypatch.setattr(vng, "START_TIMEOUT", 3.0)
    with pytest.raises(SetupError, match="no guest: vng "):
        start()


def test_nothing_outlives_vng(tmp_path: Path) -> None:
    """Not what it started, either, and what that started: vng is the third of four."""
    taken = ["flock", "--nonblock", f"{tmp_path}/alive", "true"]
    for end in ("boot.close(); time.sleep(60)", "os.kill(os.getpid(), 9)"):
        parent = subprocess.Popen([sys.executable, "-c", BOOT.format(folder=tmp_path, taken=taken) + end])
        assert _within(10.0, (tmp_path / "taken").exists)
        assert _within(10.0, lambda: subprocess.run(taken, check=False).returncode == 0)
        parent.kill()
        parent.wait()
        (tmp_path / "taken").unlink()


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met
