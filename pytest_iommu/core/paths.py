# SPDX-License-Identifier: GPL-2.0-only
"""Where the files are that are not Python (kmod/, qemu-images/, docs/), in a wheel or a checkout; and the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pytest_iommu.core.outcomes import SetupError

SCENARIOS = ".iommu.yaml"
"""How the names of scenario files end: the plugin sees every YAML file of every project in its environment."""
PROGRAMS = ".iommu-ksft"
"""How the names of files end that list programs of the kernel selftest."""

PACKAGE = Path(__file__).resolve().parents[1]
MODULE = "iommu_ptdump_test"
_UNFIT = re.compile(r"""[\s:#$%"'\\]""")


def data() -> Path:
    """The directory that holds kmod/, qemu-images/ and docs/: ``_data`` of a wheel, else the repository's root."""
    packaged = PACKAGE / "_data"
    return packaged if packaged.is_dir() else PACKAGE.parent


def contracts() -> tuple[Path, ...]:
    """The documents that have the rules in full, with reasons and tables."""
    return tuple(data() / "docs" / name for name in ("tables.md", "abi.md", "io_page_tables.md"))


def user_path(text: str) -> Path:
    """A path as a user types it, ``~`` included."""
    return Path(os.path.expanduser(text))


def kmod() -> Path:
    """The kernel code. PYTEST_IOMMU_KMOD names another copy of it: that is how mutants are tested."""
    override = os.environ.get("PYTEST_IOMMU_KMOD")
    return Path(override).resolve() if override else data() / "kmod"


def reference() -> Path:
    """The reference implementation: ``files/`` at their in-tree paths and ``hooks/*.patch``."""
    return kmod() / "io_ptdump"


def additions() -> tuple[Path, ...]:
    """What is put into a kernel, each like reference(), in this order: the dump, and v1's file on top of it."""
    return reference(), *filter(Path.is_dir, [kmod() / "io_page_tables"])


def module(name: str = MODULE) -> Path:
    """The sources of an out-of-tree module."""
    return kmod() / name


def kselftest() -> Path:
    """The sources of the kernel selftest. PYTEST_IOMMU_KSELFTEST names another copy of them, as with kmod()."""
    override = os.environ.get("PYTEST_IOMMU_KSELFTEST")
    return Path(override).resolve() if override else data() / "kselftest"


def qemu_images() -> Path:
    """Machines, configuration fragments and the initramfs manifest."""
    return data() / "qemu-images"


def agent() -> Path:
    """The C sources of the guest agent."""
    return PACKAGE / "guest" / "agent"


def owner() -> Path:
    """The C sources of iommu-owner."""
    return PACKAGE / "guest" / "owner"


def conformance() -> Path:
    """The suite's directory."""
    return PACKAGE / "conformance"


def make_takes(path: Path) -> bool:
    """Whether make can be given this path: it splits words at blanks, and kbuild refuses colons as well."""
    return not _UNFIT.search(str(path))


def require_cache(path: Path) -> Path:
    """The cache directory, absolute. SetupError when make could not build in there."""
    found = path.expanduser().absolute()
    if not make_takes(found):
        raise SetupError(
            f"--iommu-cache: {str(found)!r}: kernels are built in the cache, and make takes no path with a blank, a "
            "colon, a quote or one of #$%\\ in it; choose another with --iommu-cache=DIR"
        )
    return found


def default_cache() -> Path:
    """Where sources, builds and QEMU are kept unless --iommu-cache says otherwise."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-iommu"))
