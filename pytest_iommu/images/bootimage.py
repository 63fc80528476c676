# SPDX-License-Identifier: GPL-2.0-only
"""Check by its header that a file is a kernel that the machine can boot, so that a mistake does not cost minutes.

Headers: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst,
Documentation/arch/x86/boot.rst, arch/x86/platform/pvh/head.S, drivers/firmware/efi/libstub/zboot-header.S of Linux.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError

HEADER = 4096
"""Bytes that contain every header that is checked."""
MAGIC_AT = 56
MAGICS = {b"ARM\x64": "aarch64", b"RSC\x05": "riscv64"}
"""Magic of an Image at MAGIC_AT, and the architecture as named in a machine description."""
BSS = 16
"""Without a section table, only a file this many times smaller than the kernel's memory is certainly truncated."""
USUAL = {"aarch64": "arch/arm64/boot/Image", "riscv64": "arch/riscv/boot/Image", "x86_64": "arch/x86/boot/bzImage"}


@dataclass(frozen=True, slots=True)
class _Found:
    """Contents of a header: the architecture, the minimum file size, the memory size; bytes of a page, 0 if unsaid."""

    arch: str
    name: str
    least: int = 0
    memory: int = 0
    big_endian: bool = False
    page: int = 0


BIG_ENDIAN = "is a big-endian kernel (CONFIG_CPU_BIG_ENDIAN); the guest's programs are little-endian"


def check(path: Path, arch: str, memory: int, option: str = "--iommu-image") -> None:
    """SetupError if the file is truncated, or not a kernel for a machine of that architecture with that much RAM.

    Architectures with unknown headers are not checked.
    """
    if arch not in USUAL:
        return
    try:
        content, size = _open(path)
    except OSError as error:
        raise SetupError(f"{option}: {path}: {error.strerror}") from error
    except (EOFError, zlib.error) as error:
        raise SetupError(f"{option}: {path}: truncated or damaged: {error}") from error
    found = _read(content)
    wanted = f"the machine boots an {arch} kernel such as {USUAL[arch]}"
    if found is None:
        raise SetupError(f"{option}: {path} is {_other(content, size)}; {wanted}")
    if found.arch != arch:
        raise SetupError(f"{option}: {path} is {found.name}; {wanted}")
    if found.big_endian:
        raise SetupError(f"{option}: {path} {BIG_ENDIAN}")
    if size < found.least:
        raise SetupError(
            f"{option}: {path} is truncated: it has {size} bytes, but its header requires at least {found.least}"
        )
    if found.memory and size > found.memory:
        raise SetupError(
            f"{option}: {path} is damaged: it has {size} bytes, but its header allows at most {found.memory}"
        )
    if memory and found.memory > memory:
        have = f"the machine has {memory >> 20} MiB"
        raise SetupError(f"{option}: {path} needs {found.memory >> 20} MiB of memory, but {have}")


def page_size(path: Path) -> int:
    """Bytes of a page of the kernel in that file, as its header says; 0 if it does not, as with an EFI kernel."""
    try:
        found = _read(_open(path)[0])
    except (OSError, EOFError, zlib.error):
        return 0
    return found.page if found is not None else 0


def _open(path: Path) -> tuple[bytes, int]:
    """Return the beginning of a file and its total size, decompressed if it has a compression that QEMU supports."""
    with path.open("rb") as stream:
        head = stream.read(HEADER)
        if head[:2] != b"\x1f\x8b":
            stream.seek(0, 2)
            return head, stream.tell()
    with gzip.open(path) as packed:
        head = packed.read(HEADER)
        size = len(head)
        while part := packed.read(1 << 20):
            size += len(part)
        return head, size


def _read(head: bytes) -> _Found | None:
    head = head.ljust(HEADER, b"\0")
    if head[4:8] == b"zimg":
        # The compressed payload is not examined; the PE header around it tells its architecture.
        offset, size = struct.unpack_from("<II", head, 8)
        machine = _pe(head)[0]
        return _Found(machine or "aarch64", f"an EFI kernel for {machine or 'aarch64'}", offset + size)
    if arch := MAGICS.get(head[MAGIC_AT : MAGIC_AT + 4]):
        memory, flags = struct.unpack_from("<QQ", head, 16)
        least = _pe(head)[1] or memory // BSS
        if arch != "aarch64":
            return _Found(arch, f"an Image for {arch}", least, memory)
        return _Found(arch, f"an Image for {arch}", least, memory, bool(flags & 1), _PAGES[flags >> 1 & 3])
    if _starts_by_pvh(head):
        return _Found("x86_64", "an x86 vmlinux with a PVH entry")
    if head[0x202:0x206] == b"HdrS":
        setup = head[0x1F1] or 4
        paragraphs = int(struct.unpack_from("<I", head, 0x1F4)[0])
        return _Found("x86_64", "an x86 bzImage", (setup + 1) * 512 + paragraphs * 16)
    return None


def _starts_by_pvh(head: bytes) -> bool:
    """Whether this is an ELF file for x86-64 with notes, of which CONFIG_PVH's tells QEMU where to begin."""
    if head[:4] != b"\x7fELF" or struct.unpack_from("<H", head, 18)[0] != _EM_X86_64:
        return False
    first, size, number = int(struct.unpack_from("<Q", head, 32)[0]), *struct.unpack_from("<HH", head, 54)
    ends = min(first + size * number, HEADER - 4)
    return any(struct.unpack_from("<I", head, at)[0] == _PT_NOTE for at in range(first, ends, size or HEADER))


_EM_X86_64, _PT_NOTE = 62, 4
_PAGES = (0, 4096, 16384, 65536)
"""Bits 1 and 2 of an arm64 Image's flags; bit 0 is the byte order."""
_PE_MACHINES = {0xAA64: "aarch64", 0x5064: "riscv64", 0x8664: "x86_64"}


def _pe(head: bytes) -> tuple[str, int]:
    """Return architecture and end of the last section in the file; empty and 0 without a PE header."""
    start = int(struct.unpack_from("<I", head, 60)[0])
    if not 0 < start < HEADER - 24 or head[start : start + 4] != b"PE\0\0":
        return "", 0
    machine, sections = struct.unpack_from("<HH", head, start + 4)
    first = start + 24 + int(struct.unpack_from("<H", head, start + 20)[0])
    ends = [0]
    for at in range(first, min(first + 40 * sections, HEADER - 40), 40):
        size, offset = struct.unpack_from("<II", head, at + 16)
        ends.append(size + offset)
    return _PE_MACHINES.get(machine, ""), max(ends)


def _other(head: bytes, size: int) -> str:
    """Describe a file that is not a kernel, as far as that helps."""
    if not size:
        return "empty"
    if head[:4] == b"\x7fELF":
        return "an ELF file (vmlinux?), which has no boot header"
    if head[:5] == b"<!DOC" or head[:5].lower() == b"<html":
        return "a web page"
    for magic, name in (
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ):
        if head.startswith(magic):
            return f"compressed with {name}"
    return "not a kernel: it has no known boot header"
