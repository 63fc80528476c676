# SPDX-License-Identifier: GPL-2.0-only
"""The vng target with programs that stand for vng and QEMU; the guest's shell is one of this machine."""

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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.boot_modes import FUNCTIONAL
from pytest_iommu.core.key import Key
from pytest_iommu.core.outcomes import GuestLost, IommuError, KernelCrash, KernelHang, SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops, virtual
from pytest_iommu.images import Artefacts
from pytest_iommu.images.qemu_binary import Qemu
from pytest_iommu.targets import kvm, running, vng
from pytest_iommu.targets.qemu import Ends, boot_of
from pytest_iommu.targets.running import RunningTarget
from pytest_iommu.targets.vng import VngGuest, VngHost, VngProcess

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="vng boots x86_64 kernels on x86_64 machines")

KEY = Key("vtd", "plain")
READ = [ops.read_file("/proc/version")]
PANIC = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"

# What it is to say is in $SAY, and then it does as $DO says: at last it starts what virtme-ng would start as QEMU.
FAKE_VNG = """\
#!{python}
import os, subprocess, sys, time
print(os.environ.get("SAY", "[    0.0] Linux version"), flush=True)
do = os.environ.get("DO", "")
if do == "fail":
    sys.exit("vng: no such kernel")
if do == "loiter":
    time.sleep(60)
subprocess.run([sys.argv[sys.argv.index("--qemu") + 1], "-m", "512M", "-device", "i6300esb"])
print(os.environ.get("AT_LAST", ""), flush=True)
sys.exit(255)
"""

# It connects where QEMU would, answers QMP, and its agent is reached through a shell of this machine.
FAKE_QEMU = """\
#!{python}
import json, os, re, socket, subprocess, sys, threading, time
if "--version" in sys.argv:
    sys.exit("QEMU emulator version 10.0.2")
def to(name):
    port = socket.socket(socket.AF_UNIX)
    word = next(word for word in sys.argv if word.startswith(f"socket,id={{name}},"))
    port.connect(chr(0) + re.search("path=([^,]*),abstract=on", word)[1])
    return port
def answer(wire):
    wire.write(b'{{"QMP": {{}}}}\\n')
    for line in wire:
        said = {{"return": {{"status": "running"}}, "id": json.loads(line).get("id")}}
        wire.write(json.dumps(said).encode() + b"\\n")
assert sys.argv.index("i6300esb") < len(sys.argv) - 1 - sys.argv[::-1].index("-cpu"), "our board comes last"
assert sys.argv.index("i6300esb") > sys.argv.index("edu,dma_mask=0xffffffffffffffff,id=edu0,addr=01.0")
port, qmp, qtest = to("agent"), to("qmp"), to("qtest")
threading.Thread(target=answer, args=[qmp.makefile("rwb", buffering=0)], daemon=True).start()
do = os.environ.get("DO", "")
if do == "end":
    sys.exit(1)
if do == "hang":
    time.sleep(60)
ram = next(word for word in sys.argv if word.startswith("memory-backend-file"))
with open(re.search("mem-path=([^,]*)", ram)[1], "r+b") as memory:
    memory.write(b"what is at 0")
port.sendall(b"ready\\n" if do != "other" else b"login:\\n")
script = port.makefile("rb", buffering=0).readline()
shell = subprocess.Popen(["sh", "-c", "id() {{ echo 0; }}; " + script.decode()], stdin=port, stdout=port)
port.close()
shell.wait()
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
        "vng": FAKE_VNG.format(python=sys.executable),
        "qemu-system-x86_64": FAKE_QEMU.format(python=sys.executable),
        **dict.fromkeys(("busybox", "modprobe", "depmod"), "#!/bin/sh\n"),
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(vng, "sys", SimpleNamespace(executable=str(tmp_path / "python")))
    return folder


@pytest.fixture
def host(
    programs: Path, agent_cache: Path, debugfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., VngHost]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def make(image: str = "vmlinuz", mode: str = FUNCTIONAL, **more: Any) -> VngHost:
        path = tmp_path / image
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib/modules").mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(0x202) + b"HdrS" + bytes(4096))
        given = {"target": "vng", "cache": agent_cache, "where": tmp_path, "folder": tmp_path, "image": path, **more}
        settings = Settings(**given)
        qemu = Qemu((str(programs / "qemu-system-x86_64"),), "10.0.2")
        kernel = Artefacts("vtd", "plain", path, tmp_path / "initrd", qemu, "as given")
        # The agent is this machine's, which has no such IOMMU.
        machine = replace(machines.get("vtd"), iommu=None, memory=16 << 20, scratch=None)
        return VngHost(settings, boot_of(settings, machine, kernel, mode), kernel)

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
    assert bytes(guest.memory.read(0, 12)) == b"what is at 0", "the host and QEMU have the same RAM"
    (folder,) = (tmp_path / "tmp").iterdir()
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {"qemu", "pytest-iommu"}
    guest.close()
    assert guest.child.poll() is not None
    assert list((tmp_path / "tmp").iterdir()) == []
    assert b"[    0.0] Linux version" in guest.evidence().files["console.txt"]
    with pytest.raises(GuestLost, match="was closed"):
        guest.run(READ)


def test_what_vng_is_asked_for(host: Callable[..., VngHost]) -> None:
    made = host("my tree/vmlinuz", append="iommu.strict=1 x")
    argv = made.argv(Path("/tmp/a b/qemu"))
    assert argv[1:3] == ["--run", shlex.quote(made._boot.kernel)]
    assert argv[argv.index("--qemu") + 1] == "'/tmp/a b/qemu'"
    assert {"--disable-kvm", "--disable-microvm", "--force-9p"} <= set(argv)
    assert "--skip-modules" not in argv
    (append,) = [word for word in argv if word.startswith("--append=")]
    assert append.startswith("--append=root=/dev/root ")
    assert "intel_iommu=on,sm_on" in append
    assert append.endswith("oops=panic iommu.strict=1 x")


def test_what_qemu_is_started_with(host: Callable[..., VngHost]) -> None:
    ends = Ends.of("/ram", ["fd=1", "fd=2", "fd=3", "fd=4"], "")
    script = shlex.split(host(qemu_args=("-device", "a b")).script(ends).splitlines()[1])
    before, after = script[: script.index("$@")], script[script.index("$@") + 1 :]
    assert {"intel-iommu,aw-bits=48", "-nodefaults", "socket,id=qmp,fd=1"} <= set(before)
    assert after[:4] == ["-machine", "q35,memory-backend=ram", "-cpu", "max,la57=off"]
    assert after[-4:] == ["-icount", "shift=2,sleep=off", "-device", "a b"]
    assert not any("id=gdb" in word for word in before)


def test_the_mode_of_the_boot_counts(host: Callable[..., VngHost], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", "/nowhere")
    made = host(mode="races")
    script = made.script(Ends.of("/ram", ["fd=1", "fd=2", "fd=3", "fd=4"], ""))
    assert "-icount" not in script
    assert "socket,id=gdb,fd=4" in script
    assert any("init_on_free=1" in word for word in made.argv(Path("qemu")))


def test_a_tree_is_not_written_to(host: Callable[..., VngHost]) -> None:
    assert "--skip-modules" in host("tree/arch/x86/boot/bzImage").argv(Path("qemu"))


@pytest.mark.parametrize("place", ["lib/modules", "usr/lib/modules"])
def test_modules_of_an_image(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not vng._has_modules(Path("boot/vmlinuz")), "virtme-ng would look for programs that it does not need"
    (tmp_path / place).mkdir(parents=True)
    assert vng._has_modules(Path("boot/vmlinuz"))


def test_modules_take_kmod(host: Callable[..., VngHost], programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "depmod").unlink()
    monkeypatch.setattr(vng, "SBIN", "/nowhere")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SetupError, match="apt install kmod"):
        host().argv(Path("qemu"))


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


def test_no_vng(host: Callable[..., VngHost], programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match=r"no vng .*: pip install 'pytest-iommu\[vng\]'"):
        host()


@pytest.mark.parametrize(
    ("do", "say", "kind", "match"),
    [
        ("fail", "", SetupError, r"(?s)no guest: vng ended with status 1\n.*vng: no such kernel\ncommand: "),
        ("loiter", "", SetupError, "no guest: vng did not start QEMU within 1 s"),
        ("end", "", SetupError, r"vng vtd \(.*vmlinuz\) ended before its shell was ready"),
        ("end", PANIC, KernelCrash, "panic while booting: Kernel panic - not syncing: VFS: Unable"),
        ("hang", "", KernelHang, r"vng vtd \(.*vmlinuz\) did not boot within 1 s"),
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
    """The child of the shell of what stands for QEMU, a child of vng, which is one of the guard."""
    pid = guest.child.pid
    for _ in range(4):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])
    return pid


@pytest.mark.parametrize(
    ("at_last", "kind", "match"),
    [
        ("", GuestLost, "QEMU ended with status 255 while it ran a batch"),
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
        (b"", KernelHang, "did not answer within 0.3 s; QEMU reports that the guest is running"),
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
    monkeypatch.setattr(virtual, "CONSOLE_LIMIT", 10)
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
