# SPDX-License-Identifier: GPL-2.0-only
"""Ready-made builds: an image and its modules, as provided by a CI system or a distribution."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from pytest_iommu.core import paths
from pytest_iommu.core.outcomes import SetupError
from pytest_iommu.images.kernel import MODULE
from pytest_iommu.images.store import Store, StoreEntry, digest

BOOT = {
    "PCI_HOST_GENERIC": "pci_host_generic",
    "ARM_SMMU_V3": "arm_smmu_v3",
    "VIRTIO_PCI": "virtio_pci",
    "VIRTIO_CONSOLE": "virtio_console",
}
"""What a guest needs before its agent has a channel, by option: a module that a kernel may have in place of it."""

VNG = {"NET_9P_VIRTIO": "9pnet_virtio", "9P_FS": "9p", "OVERLAY_FS": "overlay"}
"""What a guest needs besides whose files are the host's, see targets/vng.py."""

Index = Mapping[str, Callable[[], bytes]]
"""The modules of a build by name, with underscores; each reads its file as the kernel takes it, decompressed."""

_FILE = re.compile(r"(?:.*/)?(?P<name>[^/]+)\.ko(?P<packed>\.(?:xz|gz|zst))?")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
ORDER = "order"


def _stat(path: Path) -> str:
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def module_sources() -> list[Path]:
    """Return the test module's sources, without build products."""
    found = sorted(paths.module(MODULE).iterdir())
    own = [path for path in found if path.suffix in (".c", ".h") and not path.name.endswith(".mod.c")]
    return [*own, *(path for path in found if path.name in ("Kbuild", "Makefile"))]


def wants_modules(config: str, needed: Mapping[str, str] = BOOT) -> bool:
    """Whether a guest of a kernel with that .config needs modules before its agent can answer."""
    return any(f"CONFIG_{option}=m\n" in config for option in needed)


def modules(store: Store, given: Path) -> StoreEntry:
    """Copy the test module, and the modules that a guest needs before it, from a directory or a tar file.

    ``about["order"]`` lists the files in the order in which they are loaded. SetupError if the test module is missing.
    """
    if given.is_dir():
        files = sorted(path for path in given.rglob("*.ko*") if path.is_file())
        key = digest("ready", *map(_stat, files))
        return store.get("modules", key) or _stored(store, key, index(given), f"below {given}")
    key = digest("ready", _stat(given))
    entry = store.get("modules", key)
    if entry is not None:
        return entry
    try:
        with tarfile.open(given) as archive:
            return _stored(store, key, _packed(archive), f"in {given}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SetupError(f"--iommu-modules: {given}: {error}") from error


def _stored(store: Store, key: str, found: Index, where: str) -> StoreEntry:
    if MODULE not in found:
        raise SetupError(f"--iommu-modules: no {MODULE}.ko {where}")
    files = dict([*boot_modules(found), (f"{MODULE}.ko", found[MODULE]())])
    return store.put("modules", key, files, {ORDER: list(files)})


def index(root: Path) -> Index:
    """Return the modules below a directory, e.g. /lib/modules/RELEASE."""
    found = {}
    for path in sorted(root.rglob("*.ko*")):
        match = _FILE.fullmatch(path.name)
        if match and path.is_file():
            found[_name(match["name"])] = partial(_unpacked, path.read_bytes, match["packed"], path.name)
    return found


def _packed(archive: tarfile.TarFile) -> Index:
    found = {}
    for member in archive.getmembers():
        match = _FILE.fullmatch(member.name)
        if match and member.isfile():
            found[_name(match["name"])] = partial(
                _unpacked, partial(_member, archive, member), match["packed"], member.name
            )
    return found


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _name(text: str) -> str:
    return text.replace("-", "_")


def _unpacked(read: Callable[[], bytes], packed: str | None, name: str) -> bytes:
    content = read()
    try:
        if packed == ".xz":
            return lzma.decompress(content)
        if packed == ".gz":
            return gzip.decompress(content)
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise SetupError(f"{name}: {error}") from error
    if packed != ".zst":
        return content
    if shutil.which("zstd") is None:
        raise SetupError(f"{name} is compressed with zstd, and there is no program zstd here")
    done = subprocess.run(["zstd", "-dc"], input=content, capture_output=True, check=False)
    if done.returncode:
        raise SetupError(f"{name}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


def boot_modules(found: Index, needed: Mapping[str, str] = BOOT) -> Iterator[tuple[str, bytes]]:
    """Yield those modules of a build that a guest needs first, each after those that it depends on."""
    done: set[str] = set()

    def with_needed(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in found:
            return
        done.add(name)
        content = found[name]()
        match = _DEPENDS.search(content)
        for one in match[1].decode("ascii", "replace").split(",") if match else ():
            yield from with_needed(_name(one))
        yield f"{name}.ko", content

    for name in needed.values():
        yield from with_needed(name)
