# SPDX-License-Identifier: GPL-2.0-only
"""Files that are no kernel for the machine are refused before anything is booted."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from pytest_iommu.core import machines
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.core.settings import Settings
from pytest_iommu.images import artefacts, bootimage

RAM = 512 << 20


def image(size: int, memory: int, magic: bytes = b"ARM\x64", sections: int = 0) -> bytes:
    """An Image of that many bytes; ``sections``: with a PE header whose last section ends there."""
    head = bytearray(size)
    struct.pack_into("<Q", head, 16, memory)
    head[56:60] = magic
    if sections:
        struct.pack_into("<I", head, 60, 64)
        head[64:68] = b"PE\0\0"
        struct.pack_into("<HH", head, 68, 0xAA64, 2)
        struct.pack_into("<H", head, 84, 160)
        for number, end in enumerate((4096, sections)):
            struct.pack_into("<II", head, 248 + 40 * number + 16, end - 1024, 1024)
    return bytes(head)


def flagged(flags: int) -> bytes:
    """An Image with the flags of its header set."""
    head = bytearray(image(40_960, 65_536))
    struct.pack_into("<Q", head, 24, flags)
    return bytes(head)


def bzimage(size: int, payload: int) -> bytes:
    head = bytearray(size)
    head[0x1F1] = 3
    struct.pack_into("<I", head, 0x1F4, payload // 16)
    head[0x202:0x206] = b"HdrS"
    return bytes(head)


def zboot(size: int, payload: int) -> bytes:
    head = bytearray(size)
    head[:8] = b"MZ\0\0zimg"
    struct.pack_into("<II", head, 8, 4096, payload)
    struct.pack_into("<I", head, 60, 64)
    head[64:68] = b"PE\0\0"
    struct.pack_into("<H", head, 68, 0xAA64)
    return bytes(head)


@pytest.mark.parametrize(
    ("arch", "content"),
    [
        ("aarch64", image(5_349_384, 5_636_096)),
        # KASAN's and lockdep's tables: two thirds of the memory are not in the file
        ("aarch64", image(15_341_576, 44_761_088)),
        ("aarch64", image(40_960, 65_536, sections=40_960)),
        ("aarch64", gzip.compress(image(40_960, 65_536), mtime=0)),
        ("aarch64", zboot(40_960, 32_768)),
        ("x86_64", bzimage(4 * 512 + 65_536, 65_536)),
        ("riscv64", image(40_960, 65_536, b"RSC\x05")),
        ("loongarch64", b"anything"),
    ],
)
def test_kernels_are_taken(tmp_path: Path, arch: str, content: bytes) -> None:
    (tmp_path / "Image").write_bytes(content)
    bootimage.check(tmp_path / "Image", arch, RAM)


@pytest.mark.parametrize(
    ("arch", "content", "why"),
    [
        ("aarch64", b"", "is empty; the machine boots an aarch64 kernel such as arch/arm64/boot/Image"),
        ("aarch64", b"x" * 100, "is not a kernel: it has no known boot header"),
        ("aarch64", b"\x7fELF" + bytes(5000), "is an ELF file .vmlinux"),
        ("aarch64", b"<!DOCTYPE html>404", "is a web page"),
        ("aarch64", b"\xfd7zXZ" + bytes(5000), "is compressed with xz"),
        ("aarch64", bzimage(70_000, 65_536), "is an x86 bzImage; the machine boots an aarch64 kernel"),
        ("aarch64", image(40_960, 65_536, b"RSC\x05"), "is an Image for riscv64; "),
        ("x86_64", image(40_960, 65_536), "is an Image for aarch64; .*arch/x86/boot/bzImage"),
        ("aarch64", image(65_536, 5_636_096), "is truncated: it has 65536 bytes, .* at least 352256"),
        ("aarch64", flagged(0b011), "is a big-endian kernel .CONFIG_CPU_BIG_ENDIAN."),
        ("aarch64", image(40_000, 65_536, sections=40_960), "is truncated: it has 40000 bytes, .* at least 40960"),
        ("aarch64", gzip.compress(image(40_960, 65_536), mtime=0)[:-9], "truncated or damaged"),
        ("aarch64", zboot(30_000, 32_768), "is truncated"),
        ("x86_64", bzimage(60_000, 65_536), "is truncated: it has 60000 bytes, .* at least 67584"),
        ("aarch64", image(70_000, 65_536), "is damaged: .* at most 65536"),
        ("aarch64", image(100_000_000, RAM + (1 << 20)), "needs 513 MiB of memory, but the machine has 512 MiB"),
    ],
)
def test_others_are_refused(tmp_path: Path, arch: str, content: bytes, why: str) -> None:
    (tmp_path / "Image").write_bytes(content)
    with pytest.raises(SetupError, match=f"^--iommu-image: {tmp_path}/Image:? {why}"):
        bootimage.check(tmp_path / "Image", arch, RAM)


def test_it_is_looked_at_before_anything_is_fetched_or_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Image").write_bytes(b"not an image")
    monkeypatch.setenv("PATH", "/nowhere")
    settings = Settings(None, tmp_path / "cache", image=tmp_path / "Image")
    with pytest.raises(SetupError, match="is not a kernel"):
        artefacts.prepare(settings, machines.get("smmuv3"), "plain")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "page"),
    [
        *((flagged(code << 1), page) for code, page in enumerate((0, 4096, 16384, 65536))),
        (gzip.compress(flagged(0b100), mtime=0), 16384),
        (zboot(40_960, 32_768), 0),
        (image(40_960, 65_536, b"RSC\x05"), 0),
        (b"", 0),
    ],
)
def test_pages_of_an_image(tmp_path: Path, content: bytes, page: int) -> None:
    (tmp_path / "Image").write_bytes(content)
    assert bootimage.page_size(tmp_path / "Image") == page
    assert bootimage.page_size(tmp_path / "none") == 0
