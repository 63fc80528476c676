# SPDX-License-Identifier: GPL-2.0-only
"""The vng target for real, on any of the kernels that docs/targets.md names, with a dump or without:

pytest tests/qemu/test_vng_boots.py --iommu-target=vng [--iommu-image=FILE --iommu-modules=DIR]

Each of these boots a guest or two, in ten seconds or more each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_iommu.check.guest_handle import GuestHandle
from pytest_iommu.check.iommu_handle import Iommu
from pytest_iommu.check.owners.directories import DOMAINS
from pytest_iommu.core import machines, paths
from pytest_iommu.core.boot_modes import RACES
from pytest_iommu.core.settings import Settings
from pytest_iommu.guest import ops
from pytest_iommu.session.run import RUN
from pytest_iommu.targets import kvm
from pytest_iommu.targets.qemu import boot_of

SCENARIOS = paths.conformance() / "scenarios"


class Vng:
    """A pytest of its own with the target and the kernel of this one."""

    def __init__(self, settings: Settings, pytester: pytest.Pytester) -> None:
        given = {
            "cache": settings.cache,
            "image": settings.image,
            "modules": settings.modules,
            "qemu": settings.qemu,
            "kernel": settings.kernel,
            "reference": settings.reference,
            "machine": settings.machine,
        }
        self.options = [
            "--iommu-target=vng",
            "-rs",
            *(f"--iommu-{key}={value}" for key, value in given.items() if value),
        ]
        self._pytester = pytester

    def run(self, *arguments: object) -> pytest.RunResult:
        """The last of an option counts."""
        return self._pytester.runpytest_subprocess(*self.options, *map(str, arguments))

    def runs(self, body: str, *arguments: object) -> pytest.RunResult:
        """A file of tests."""
        self._pytester.makepyfile(test_here=f"from pytest_iommu.guest import ops\n\n{body}")
        return self.run("test_here.py", *arguments)


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> Settings:
    """This run's settings, where it is about vng."""
    settings = request.config.stash[RUN].settings
    if settings.target != "vng":
        pytest.skip("needs --iommu-target=vng")
    return settings


@pytest.fixture
def inner(chosen: Settings, iommu_guest: GuestHandle, pytester: pytest.Pytester) -> Vng:
    """Asking for iommu_guest has a guest booted: where that fails, the reason is the test's."""
    return Vng(chosen, pytester)


def test_scenarios(inner: Vng, chosen: Settings) -> None:
    """Those of hardware have memory and DMA for witnesses; what the kernel lacks is skipped."""
    result = inner.run(SCENARIOS / "basics.iommu.yaml", SCENARIOS / "dma.iommu.yaml", "-v")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() <= {"passed", "skipped"}
    stage = next(iter(machines.get(chosen.machine).stages))
    result.stdout.fnmatch_lines([f"*::two-iovas-of-one-page?{chosen.machine}-{stage}-4k? PASSED*", "*page tables:*"])


def test_the_witnesses(iommu_guest: GuestHandle, iommu: Iommu, chosen: Settings) -> None:
    """The host finds the table from the IOMMU's registers down, and edu does DMA through it."""
    assert iommu_guest.in_ram is not None
    assert iommu_guest.in_ram.iommu is not None
    domain = iommu.domain(stage=next(iter(machines.get(chosen.machine).stages)))
    domain.attach("edu0")
    scratch = iommu_guest.machine.scratch
    assert scratch is not None
    domain.map(0x1000000, scratch[0], "4K", "rw")
    found = iommu_guest.in_ram.iommu.table(iommu_guest.machine.device("edu0").sid)
    assert found is not None, "the entries of the device lead nowhere"
    iommu.check(domain)


def test_recorded_and_replayed(inner: Vng, iommu_guest: GuestHandle, pytester: pytest.Pytester) -> None:
    needs_a_dump(iommu_guest)
    first = inner.run(SCENARIOS / "files.iommu.yaml", "--iommu-record=rec").parseoutcomes()
    replayed = pytester.runpytest_subprocess("--iommu-target=replay:rec", str(SCENARIOS / "files.iommu.yaml"))
    assert replayed.parseoutcomes() == first


def test_workers_have_guests_of_their_own(inner: Vng) -> None:
    outcomes = inner.run(SCENARIOS / "dma.iommu.yaml", "-n2").parseoutcomes()
    assert outcomes.get("passed", 0) > 1, outcomes
    assert "failed" not in outcomes


def test_a_panic(inner: Vng) -> None:
    result = inner.runs(
        'def test_panic(iommu_guest):\n    iommu_guest.run([ops.write_file("/proc/sysrq-trigger", b"c")])\n'
    )
    result.stdout.fnmatch_lines(["*kernel-crash: panic while it ran a batch: Kernel panic - not syncing: sysrq*"])


def test_a_warning_is_held_against_one_test(inner: Vng) -> None:
    """What comes after has a guest of its own: another boot."""
    result = inner.runs(
        """
def test_warning(iommu_guest):
    iommu_guest.run([ops.write_file("/proc/sys/kernel/tainted", b"512")])

def test_after(iommu_guest):
    assert iommu_guest.run([ops.read_file("/proc/sys/kernel/tainted")]).results[0].data.strip() != b"512"
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*kernel-crash: taint while it ran a batch: the kernel is tainted: warned*"])


def test_a_guest_that_is_killed(inner: Vng) -> None:
    """It is tried once more on another: QEMU's death says nothing of the kernel."""
    result = inner.runs(
        f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_vng_boots import qemus

def test_killed(iommu_guest):
    for pid in qemus(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    iommu_guest.run([ops.read_file("/proc/version")])
"""
    )
    result.stdout.fnmatch_lines(["*guest-lost: QEMU * while it ran a batch*"])


def test_a_killed_pytest_leaves_no_guest(inner: Vng, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_here="import time\n\ndef test_waits(iommu_guest):\n    time.sleep(600)\n")
    argv = [sys.executable, "-mpytest", *inner.options, "test_here.py"]
    # A killed pytest leaves a folder there.
    env = {**os.environ, "TMPDIR": str(pytester.path)}
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=env)
    try:
        assert _within(120.0, lambda: qemus(child.pid) != [])
        (qemu,) = qemus(child.pid)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert _within(10.0, lambda: not _is_qemu(qemu))


def test_a_kernel_without_a_root(inner: Vng) -> None:
    append = "--iommu-append=rdinit=/nowhere rootfstype=none"
    result = inner.run(SCENARIOS / "dma.iommu.yaml", "-x", append)
    # "No working init found", or what virtme-ng's own init could not do: that depends on its version.
    result.stdout.fnmatch_lines(["*kernel-crash: panic while booting: Kernel panic - not syncing: *"])


def test_a_file_that_is_no_kernel(inner: Vng, pytester: pytest.Pytester) -> None:
    image = pytester.makefile(".bin", image="no kernel")
    result = inner.run(SCENARIOS / "files.iommu.yaml", "-x", f"--iommu-image={image}")
    result.stdout.fnmatch_lines(["*setup-error: *"])


def test_the_probe_of_kvm(chosen: Settings, iommu_guest: GuestHandle, request: pytest.FixtureRequest) -> None:
    """It ends as it should with QEMU's own processor; where KVM does not run it, nothing else runs under KVM."""
    iommu_guest.run([ops.read_file("/proc/version")])
    run = request.config.stash[RUN]
    boot = boot_of(chosen, run.machine(chosen.machine), run.kernels[run.allowed[0]], RACES)
    machine = boot.machine
    assert kvm.ended(boot.program, boot.env, "tcg", machine.qemu_machine, machine.cpu) == ""
    works = os.access(kvm.DEVICE, os.R_OK) and not kvm.ended(
        boot.program, boot.env, kvm.KVM, machine.qemu_machine, machine.cpu
    )
    assert boot.clock == (["-accel", kvm.KVM] if works else [])


def qemus(below: int) -> list[int]:
    """The QEMUs among a process's descendants."""
    found = []
    for path in Path("/proc").glob(f"{below}/task/*/children"):
        for pid in map(int, path.read_text().split()):
            found += ([pid] if _is_qemu(pid) else []) + qemus(pid)
    return found


def _is_qemu(pid: int) -> bool:
    """The guest's, not a shell with its name in a command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"-kernel" in words


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


def test_local_in_the_guest(inner: Vng, chosen: Settings, iommu_guest: GuestHandle) -> None:
    """A machine with a dump on which pytest itself runs: this one, as it is in there. The test module stays loaded."""
    needs_a_dump(iommu_guest)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", SCENARIOS / "basics.iommu.yaml"]
    argv += ["--iommu-target=local", f"--iommu-cache={chosen.cache}", "--iommu-json=/tmp/local.json"]
    done, written, loaded = iommu_guest.run(
        [
            ops.run(*map(str, argv), timeout=3600),
            ops.read_file("/tmp/local.json"),
            ops.stat("/sys/module/iommu_ptdump_test"),
        ],
        timeout=3700,
    ).results
    assert done.value == 0, ops.text_of(done)
    assert loaded.ok
    found = json.loads(written.data)
    assert [guest["kernel"] for guest in found["guests"]] == [f"Linux {release(iommu_guest)}, x86_64"]
    outcomes = Counter(test["outcome"] for test in found["tests"])
    assert outcomes["passed"] > 40, outcomes
    assert outcomes.keys() == {"passed", "skipped"}


def needs_a_dump(guest: GuestHandle) -> None:
    """A recording, and a machine that runs already, have no memory to look into."""
    if not guest.run([ops.stat(DOMAINS)]).results[0].ok:
        pytest.skip("needs a dump: nothing else is judged where nobody sees memory")


def release(guest: GuestHandle) -> str:
    """The guest kernel's."""
    return guest.read("/proc/sys/kernel/osrelease").decode().strip()
