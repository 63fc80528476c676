# SPDX-License-Identifier: GPL-2.0-only
"""apt's sources, initramfs, QEMU, progress and the command line program, each alone."""

from __future__ import annotations

import errno
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bare_machine
import pytest

from pytest_iommu import cli
from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import apt, artefacts, initramfs, qemu_binary, ready
from pytest_iommu.images.progress import Progress
from pytest_iommu.images.store import Store

QUIET = Progress(None)
SMMUV3 = machines.get("smmuv3")
DEB822 = """# Debian
Types: deb deb-src
URIs: mirror+file:/etc/apt/mirror.list
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://security.invalid/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.invalid/
Suites: bookworm
Components: main
"""
ONE_LINE = """
deb cdrom:[Debian]/ bookworm main
# deb http://no.invalid/debian bookworm main
deb-src http://src.invalid/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg,/l.gpg ] http://one.invalid/debian trixie main # words
deb http://other.invalid/thing ./
"""


def test_sources_of_both_styles_are_read(tmp_path: Path) -> None:
    (tmp_path / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list").write_text(ONE_LINE)
    found = apt.parse_sources([tmp_path / "debian.sources", tmp_path / "sources.list", tmp_path / "absent.list"])
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"
    assert found == [
        apt.Mirror("mirror+file:/etc/apt/mirror.list", "bookworm", key),
        apt.Mirror("http://one.invalid/debian", "trixie", "/k.gpg /l.gpg"),
    ]


@pytest.mark.parametrize("updated", [True, False])
def test_the_mirror_is_found_before_and_after_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updated: bool
) -> None:
    sources = tmp_path / "debian.sources"
    sources.write_text(
        "Types: deb\nURIs: http://one.invalid/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n"
    )
    said = "http://one.invalid/debian/|Debian|bookworm|stable|Packages\n" if updated else ""
    monkeypatch.setattr(apt, "_sources_files", lambda: [sources])
    monkeypatch.setattr(apt, "_ask", lambda argv: said)
    monkeypatch.setattr(apt, "_read", lambda path: "VERSION_CODENAME=bookworm\n")
    found = apt.machine_mirror()
    assert (found.uri.rstrip("/"), found.codename, found.signed_by) == (
        "http://one.invalid/debian",
        "bookworm",
        "/k.gpg",
    )


def test_offline_and_machines_without_apt_are_told_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match="--iommu-offline"):
        apt.Apt(tmp_path, QUIET, offline=True)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="no apt.*--iommu-kernel"):
        apt.Apt(tmp_path, QUIET)


def test_the_initramfs_is_what_cpio_reads_and_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "agent").write_bytes(b"ELF agent")
    (tmp_path / "iommu_ptdump_test.ko").write_bytes(b"module")
    parts = ({"agent": tmp_path / "agent"}, [tmp_path / "iommu_ptdump_test.ko"])
    archive = initramfs.build(*parts)
    assert archive == initramfs.build(*parts)
    assert len(archive) % 4 == 0
    assert _members(archive) == {
        "dev": (0o40755, b""),
        "proc": (0o40755, b""),
        "sys": (0o40755, b""),
        "tmp": (0o40755, b""),
        "bin": (0o40755, b""),
        "modules": (0o40755, b""),
        "dev/console": (0o20600, b""),
        "dev/null": (0o20666, b""),
        "init": (0o100755, b"ELF agent"),
        "modules/iommu_ptdump_test.ko": (0o100644, b"module"),
        "modules.list": (0o100644, b"/modules/iommu_ptdump_test.ko\n"),
    }
    if shutil.which("cpio"):
        names = subprocess.run(["cpio", "-t", "--quiet"], input=archive, capture_output=True, check=True).stdout
        assert b"init\n" in names


def _members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    found, offset = {}, 0
    while True:
        assert archive[offset : offset + 6] == b"070701"
        numbers = [int(archive[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = numbers[1], numbers[6], numbers[11]
        name = archive[offset + 110 : offset + 110 + length - 1].decode()
        start = offset + (110 + length + 3) // 4 * 4
        offset = start + (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert offset == len(archive)
            return found
        found[name] = (mode, archive[start : start + size])


def test_an_initramfs_without_its_agent_is_an_error() -> None:
    with pytest.raises(SetupError, match=r"initramfs.yaml:\d+: /init needs 'agent'"):
        initramfs.build({}, [])


def fake_qemu(folder: Path, version: str) -> Path:
    path = folder / "qemu-system-aarch64"
    folder.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho ran >> {folder}/runs\necho 'QEMU emulator version {version} (Debian)'\n")
    path.chmod(0o755)
    return path


def test_qemu_on_path_is_used_and_asked_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_qemu(tmp_path / "bin", "10.0.2")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    for _ in range(2):
        found = qemu_binary.find(Store(tmp_path / "cache"), SMMUV3, "auto")
        assert found is not None
        assert (found.argv_prefix, found.version, found.number) == ((str(path),), "10.0.2", (10, 0))
    assert (tmp_path / "bin/runs").read_text() == "ran\n"


def test_an_old_qemu_is_refused_or_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_qemu(tmp_path / "bin", "7.2.17")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    store = Store(tmp_path / "cache")
    assert qemu_binary.find(store, SMMUV3, "auto") is None
    for choice in ("system", str(path)):
        with pytest.raises(SetupError, match="7.2.17, 10.0 is needed"):
            qemu_binary.find(store, SMMUV3, choice)
    with pytest.raises(SetupError, match="no such program"):
        qemu_binary.find(store, SMMUV3, str(tmp_path / "absent"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="no qemu-system-aarch64 on PATH"):
        qemu_binary.find(store, SMMUV3, "system")


def unpacked(cache: Path, version: str) -> None:
    root = cache / f"qemu/qemu-system-arm_1-{version}+ds-1~bpo1/root"
    for name in ("usr/bin/qemu-system-aarch64", "lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    files = {str(path.relative_to(root)): 0 for path in root.rglob("*") if path.is_file()}
    (root.parent / "manifest.json").write_text(json.dumps({"version": version, "files": files}))


def test_a_version_of_qemu_is_chosen_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    store = Store(tmp_path)
    assert qemu_binary.find(store, SMMUV3, "fetched:11") is None
    for version in ("10.0.2", "11.1.3", "10.0.13", "9.2.0"):
        unpacked(tmp_path, version)
    found = {
        choice: qemu_binary.find(store, SMMUV3, choice) for choice in ("fetched:11", "fetched:10", "fetched", "auto")
    }
    # Nobody gets 11 because somebody else asked for it.
    assert {choice: one and one.number for choice, one in found.items()} == {
        "fetched:11": (11, 1),
        "fetched:10": (10, 0),
        "fetched": (10, 0),
        "auto": (10, 0),
    }
    assert found["auto"] is not None
    assert found["auto"].version == "10.0.13"
    assert qemu_binary.find(store, SMMUV3, "fetched:12") is None
    for wrong in ("fetched:", "fetched:9", "fetched:new"):
        with pytest.raises(SetupError, match="takes a major version, 10 or newer"):
            qemu_binary.find(store, SMMUV3, wrong)


class Mirror(SimpleNamespace):
    """Stands for Apt: suites with one QEMU each."""

    def find(self, names: list[str], suites: list[str]) -> apt.Package | None:
        if self.error:
            raise SetupError(self.error)
        version = self.versions.get(suites[0])
        return version and apt.Package(names[0], version, suites[0])


def test_a_version_of_qemu_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"trixie-backports": "1:11.1.3+ds-1~bpo13+1", "trixie": "1:10.0.13+ds-0+deb13u1"}
    mirror = Mirror(error="", versions=versions, suites=tuple(versions), mirror=SimpleNamespace(codename="trixie"))
    monkeypatch.setattr(qemu_binary, "Apt", SimpleNamespace(of=lambda *arguments: nullcontext(mirror)))
    store = Store(tmp_path)
    with pytest.raises(SetupError, match="none of trixie-backports, trixie .*has qemu-system-arm 12; install one"):
        qemu_binary.fetch(store, SMMUV3, QUIET, offline=False, choice="fetched:12")
    mirror.error = "apt cannot read trixie of this machine's mirror: no network"
    with pytest.raises(SetupError, match="no network"):
        qemu_binary.fetch(store, SMMUV3, QUIET, offline=False, choice="fetched:11")


def test_a_damaged_fetched_qemu_is_not_used_and_removed_by_the_next_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tmp_path / "qemu/qemu-system-arm_1-10.0.2"
    (entry / "root").mkdir(parents=True)
    (entry / "manifest.json").write_text('{"version": "10.0.2", "files": {"usr/bin/qemu-system-aarch64": 5}}')
    assert qemu_binary.fetched(Store(tmp_path), SMMUV3) is None
    mirror = Mirror(error="no network", versions={}, suites=("trixie",), mirror=SimpleNamespace(codename="trixie"))
    monkeypatch.setattr(qemu_binary, "Apt", SimpleNamespace(of=lambda *arguments: nullcontext(mirror)))
    with pytest.raises(SetupError, match="no network"):
        qemu_binary.fetch(Store(tmp_path), SMMUV3, QUIET, offline=False)
    assert not entry.exists()


def test_a_fetched_qemu_in_a_cache_that_may_only_be_read_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(tmp_path, "10.0.2")

    def refused(*arguments: object, **more: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(shutil, "rmtree", refused)
    found = qemu_binary.find(Store(tmp_path), SMMUV3, "fetched")
    assert found is not None
    assert found.version == "10.0.2"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "interval"), [(io.StringIO(), 10.0), (Terminal(), 0.2)])
def test_progress_is_a_line_now_and_then_or_one_that_moves(stream: io.StringIO, interval: float) -> None:
    now = 0.0
    progress = Progress(stream, clock=lambda: now)
    with progress.step("building") as step:
        for _ in range(4):
            now += interval / 2
            step.update(now / (4 * interval))
    text = stream.getvalue()
    assert text.count("25%") == 1
    assert text.endswith(f"building done in {int(2 * interval)}s\n")
    assert ("\r" in text) is stream.isatty()
    assert progress.timings == {"building": pytest.approx(2 * interval)}


def test_ready_modules_come_from_a_directory_or_a_tar(tmp_path: Path) -> None:
    built = tmp_path / "lib/modules/7.3/extra"
    built.mkdir(parents=True)
    (built / "iommu_ptdump_test.ko").write_bytes(b"module")
    with tarfile.open(tmp_path / "modules.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "lib", "lib")
    store = Store(tmp_path / "cache")
    for given in (tmp_path / "lib", tmp_path / "modules.tar.xz"):
        assert ready.modules(store, given)["iommu_ptdump_test.ko"].read_bytes() == b"module"
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match=r"no iommu_ptdump_test.ko below"):
        ready.modules(store, tmp_path / "empty")
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    with pytest.raises(SetupError, match="bad.tar"):
        ready.modules(store, tmp_path / "bad.tar")


def test_a_ready_image_needs_neither_source_nor_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path / "bin", "10.0.2")
    gcc = tmp_path / "bin/aarch64-linux-gnu-gcc"
    gcc.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo agent > "$2"\n')
    gcc.chmod(0o755)
    for name in ("sh", "setpriv"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "/bin/sh")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(machines.platform, "machine", lambda: "x86_64")
    (tmp_path / "Image").write_bytes(bytes(16) + b"\0\1" + bytes(38) + b"ARM\x64" + bytes(4))
    settings = Settings(None, tmp_path / "cache", image=tmp_path / "Image")
    made = artefacts.prepare(settings, SMMUV3, "plain")
    assert made.image == tmp_path / "Image"
    assert b"agent\n" in made.initrd.read_bytes()
    assert made.describe() == (
        f"{tmp_path}/Image as given, flavour plain, QEMU 10.0.2 ({tmp_path}/bin/qemu-system-aarch64); "
        "no test module; give --iommu-modules"
    )
    assert not made.reference


def test_nothing_is_fetched_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(bare_machine.make(tmp_path / "bin"), "10.0.2")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    settings = Settings(None, tmp_path / "cache", offline=True)
    with pytest.raises(SetupError, match="--iommu-offline"):
        artefacts.prepare(settings, replace(SMMUV3), "plain")


def test_cache_list_and_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    store.put("kernel", "abc", {"Image": bytes(100_000)}, {})
    store.release()
    assert cli.main(["--cache", str(tmp_path), "cache", "list"]) == 0
    assert "artefacts/kernel-abc" in capsys.readouterr().out
    assert cli.main(["--cache", str(tmp_path), "cache", "prune", "--max-size", "1K"]) == 0
    assert "removed: artefacts/kernel-abc" in capsys.readouterr().out
    assert cli.main(["--cache", str(tmp_path), "cache", "prune", "--max-size", "big"]) == 2
    assert "--max-size" in capsys.readouterr().err


def test_kconfig_writes_the_fragment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kconfig", "--flavour=debug", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/iommu-smmuv3-debug.config").read_text()
    assert "CONFIG_KASAN=y\n" in text
    assert "CONFIG_ARM_SMMU_V3=y\n" in text
    assert cli.main(["kconfig", "--flavour=x", str(tmp_path)]) == 2
    assert "no kernel flavour" in capsys.readouterr().err


def elf(name: str, depends: str = "") -> bytes:
    """A module's file, as far as anyone looks into it."""
    return b"\x7fELF\0name=%s\0depends=%s\0vermagic=6.12\0" % (name.encode(), depends.encode())


@pytest.mark.parametrize("packed", [False, True], ids=["directory", "tar"])
def test_what_a_guest_needs_first_comes_before_the_test_module(tmp_path: Path, packed: bool) -> None:
    drivers = tmp_path / "lib/modules/6.12/kernel/drivers"
    drivers.mkdir(parents=True)
    (drivers / "virtio_console.ko.xz").write_bytes(lzma.compress(elf("virtio_console", "virtio,virtio_ring")))
    (drivers / "virtio.ko.gz").write_bytes(gzip.compress(elf("virtio")))
    (drivers / "virtio_ring.ko").write_bytes(elf("virtio_ring", "virtio"))
    (drivers / "arm-smmu-v3.ko.xz").write_bytes(lzma.compress(elf("arm_smmu_v3")))
    (drivers / "e1000.ko").write_bytes(elf("e1000"))
    (tmp_path / "lib/iommu_ptdump_test.ko").write_bytes(elf("iommu_ptdump_test", "virtio"))
    given = tmp_path / "lib"
    if packed:
        given = tmp_path / "modules.tar"
        with tarfile.open(given, "w") as archive:
            archive.add(tmp_path / "lib", "lib")
    entry = ready.modules(Store(tmp_path / "cache"), given)
    order = ["arm_smmu_v3.ko", "virtio.ko", "virtio_ring.ko", "virtio_console.ko", "iommu_ptdump_test.ko"]
    assert entry.about[ready.ORDER] == order
    assert entry["virtio.ko"].read_bytes() == elf("virtio")


def test_a_damaged_module_is_named(tmp_path: Path) -> None:
    (tmp_path / "virtio_console.ko.xz").write_bytes(b"no xz")
    (tmp_path / "iommu_ptdump_test.ko").write_bytes(b"module")
    with pytest.raises(SetupError, match=r"virtio_console\.ko\.xz: "):
        ready.modules(Store(tmp_path / "cache"), tmp_path)


@pytest.mark.parametrize(
    ("config", "wants"), [("CONFIG_VIRTIO_CONSOLE=m\n", True), ("CONFIG_VIRTIO_CONSOLE=y\n", False)]
)
def test_modules_are_wanted_where_the_agent_could_not_answer_without(config: str, wants: bool) -> None:
    assert ready.wants_modules(f"CONFIG_E1000=m\n{config}") is wants
